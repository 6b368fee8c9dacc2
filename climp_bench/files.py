"""Files written whole or not at all, and their digests."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from climp_bench.errors import ClimpError

Digest = Callable[[Path], str]
"""Hex sha256 of a file's content."""


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's content, read in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sha256_files(paths: Sequence[Path]) -> str:
    """The sha256 of one file; of several, sha256 over the lines ``NAME SHA256`` in order of name."""
    if len(paths) == 1:
        return sha256_file(paths[0])
    lines = [f"{path.name} {sha256_file(path)}\n" for path in sorted(paths, key=lambda path: path.name)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def write_atomic(path: Path, write: Callable[[IO[bytes]], object], error: type[ClimpError]) -> None:
    """Write a file through a temporary neighbour, fsync and rename: readers see all of it or nothing.

    Args:
        path: where the file goes; its folder is made.
        write: called with the open binary file.
        error: class of the error raised when the disk is full or the place cannot be written.
    """
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as handle:
            temporary = handle.name
            write(handle)
            handle.flush()
            os.fsync(handle.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as fault:
        _discard(temporary)
        full = fault.errno in (errno.ENOSPC, errno.EDQUOT)
        way = "Free some space or choose" if full else "Choose"
        raise error(
            "the disk is full" if full else f"cannot be written ({fault.strerror or fault})",
            where=str(path),
            remedy=f"{way} another folder; what was finished before is kept.",
        ) from fault
    except BaseException:
        _discard(temporary)
        raise


def write_text(path: Path, text: str, error: type[ClimpError]) -> None:
    """``write_atomic`` for UTF-8 text."""
    write_atomic(path, lambda handle: handle.write(text.encode("utf-8")), error)


def _discard(temporary: str) -> None:
    if temporary and os.path.exists(temporary):
        os.unlink(temporary)
