"""Folders of weights that are replaced whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from climp_bench.errors import WeightsError


@contextmanager
def replacing(directory: Path, done: str, other_way: str) -> Iterator[Path]:
    """A staging folder beside ``directory`` that takes its place when the block ends well.

    Args:
        directory: a model's folder.
        done: what is done to the weights, for the error.
        other_way: what else the user can do, as half a sentence.

    Raises:
        WeightsError: it cannot be written.
    """
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
        try:
            yield staging
            staging.chmod(0o755)
            _put_in_place(staging, directory)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except (OSError, SafetensorError) as fault:
        raise WeightsError(
            f"the weights cannot be {done} ({fault})",
            where=str(directory),
            remedy=f"Free some space or {other_way}; what was there before is kept.",
        ) from fault


def _put_in_place(staging: Path, directory: Path) -> None:
    """Rename ``staging`` to ``directory``; what was there is moved aside first and then deleted."""
    if not directory.exists():
        os.replace(staging, directory)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{directory.name}.old.", dir=directory.parent))
    os.replace(directory, aside / directory.name)
    try:
        os.replace(staging, directory)
    except OSError:
        os.replace(aside / directory.name, directory)
        aside.rmdir()
        raise
    shutil.rmtree(aside, ignore_errors=True)
