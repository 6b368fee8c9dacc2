"""What the processes of an experiment do apart: each its own trials, or the first one something for all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from climp_bench.errors import ClimpError, RankError
from climp_bench.ranks import exchange
from climp_bench.train.stopping import TrainingStopped


@contextmanager
def settled() -> Iterator[None]:
    """Within, every process that torchrun started works by itself. At the end all wait for all, however long
    it takes, and none goes on if one failed. Alone, nothing is different.

    Raises:
        ClimpError: what failed here. ``TrainingStopped`` and ``RankError`` leave at once.
        RankError: something failed in other processes; says what.
    """
    fault: ClimpError | None = None
    try:
        yield
    except (TrainingStopped, RankError):
        raise
    except ClimpError as error:
        fault = error
    told = exchange("" if fault is None else str(fault))
    if fault is not None:
        raise fault
    failed = [f"rank {rank}: {text.rstrip('.')}" for rank, text in enumerate(told) if text]
    if failed:
        remedy = "What was finished is kept: mend that and run the same command again to go on."
        raise RankError(f"another process failed ({'; '.join(failed)})", remedy=remedy)
