"""What a command does under ``torchrun``: rank 0 runs it, the other ranks help and stay silent."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from climp_bench.cli import console
from climp_bench.errors import UsageError
from climp_bench.ranks import is_helper, joined, place, take_gpu

if TYPE_CHECKING:
    from collections.abc import Generator

    from climp_bench.cli.prepare import Selection
    from climp_bench.ranks import Team

TOGETHER = (
    "zeroshot", "resolution", "ood", "dense", "geometry", "release-check",
    "train", "ablation", "scaling", "bias",
)  # fmt: skip
"""Commands that several processes can run together."""
_PATIENCE_S = 30.0
"""How long a refused helper waits for rank 0 to end the run."""


def check_alone(command: str | None) -> None:
    """Raise ``UsageError`` if several processes were started for a command that only one can run."""
    if place().size > 1 and command is not None and command not in TOGETHER:
        remedy = f"Start it without torchrun, which is for {', '.join(TOGETHER)}."
        raise UsageError("one process runs this command", where=command, remedy=remedy)


@contextmanager
def silent_if_helper() -> Iterator[None]:
    """Hide what a helper prints: rank 0 says it already, unless the helper alone is refused."""
    if not is_helper():
        yield
        return
    said = StringIO()
    try:
        with ExitStack() as stack:
            nowhere = stack.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
            stack.enter_context(redirect_stdout(nowhere))
            stack.enter_context(redirect_stderr(said))
            yield
    except UsageError:
        _let_rank_0_speak()
        raise
    except SystemExit as stop:
        if stop.code == UsageError.exit_code:  # the parser of options, which has printed why
            _let_rank_0_speak()
            sys.stderr.write(said.getvalue())
        raise


def _let_rank_0_speak() -> None:
    """A refused helper: wait for rank 0 to be refused alike, which ends this process too.

    torchrun ends all ranks as soon as one fails: a helper that is sooner would stop rank 0 before it has said
    why. Returns if rank 0 goes on, as when a file is missing on this machine alone.
    """
    with suppress(KeyboardInterrupt):
        time.sleep(_PATIENCE_S)


@contextmanager
def team_of(selection: Selection, timeout: float) -> Iterator[Team | None]:
    """The team of this process, None if it runs alone. A helper is to call ``help_out`` with it.

    Args:
        selection: says the device; ``cuda`` becomes the GPU of this process's local rank.
        timeout: seconds of silence after which a rank counts as lost.

    Raises:
        RankError: another rank is lost or cannot be reached.
        BackendError: there are fewer GPUs than processes.
    """
    if place().size > 1:
        from climp_bench.models.adapters import pick_device

        take_gpu(pick_device(selection.device))
    with joined(timeout) as team:
        if team is not None and team.rank == 0:
            signal.signal(signal.SIGTERM, _stopped)
        yield team


def help_out(team: Team, selection: Selection) -> None:
    """Encode what rank 0 shares out, until it is done.

    Models are opened at the first work: by then rank 0 has fetched or trained what was missing.
    """
    from climp_bench.cli.prepare import make_encoders
    from climp_bench.embed.batches import do_share

    encoders: dict[str, Any] = {}

    def do(work: object) -> Generator[object]:
        if not encoders:
            made = make_encoders(replace(selection, retrain=False, quiet=True))
            encoders.update((encoder.name, encoder) for encoder in made)
        with closing(do_share(work, team.rank, encoders)) as results:
            yield from results

    team.serve(do)


def _stopped(*_: object) -> None:
    console.note(
        "Stopped from outside (SIGTERM), as torchrun does when another rank ends: see what it says of it. "
        "What was finished is kept; run the same command again to go on.",
        always=True,
    )
    raise SystemExit(143)
