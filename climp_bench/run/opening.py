"""Open what a task measures on, checked before anything is scored."""

from __future__ import annotations

from climp_bench.data.catalogue import open_dataset
from climp_bench.data.dataset import Dataset, check_count
from climp_bench.data.skipping import SkipCorrupt
from climp_bench.results import Problem
from climp_bench.run.plan import Settings
from climp_bench.suite.schema import TaskDef

_NAMED = 5


def open_task(task: TaskDef, settings: Settings) -> Dataset:
    """The data set of a task, as whole as its source, the catalogue and the suite say it is.

    With ``settings.skip_corrupt``, without the images that do not decode.

    Raises:
        UsageError: there is no such data set.
        DataError: it is not whole.
    """
    dataset = open_dataset(
        task.dataset, settings.data_roots, task.n, offline=settings.offline, announce=settings.announce
    )
    check_count(dataset, task.n)
    return SkipCorrupt(dataset, settings.workers) if settings.skip_corrupt else dataset


def left_out(dataset: Dataset) -> Problem | None:
    """What to say of a score on a data set that lost samples; None if it lost none."""
    items = dataset.skipped_items
    if not items:
        return None
    named = ", ".join(items[:_NAMED]) + (", ..." if len(items) > _NAMED else "")
    noun = "image that does not decode was" if len(items) == 1 else "images that do not decode were"
    return Problem(what=f"{len(items)} {noun} left out", where=named, remedy="Replace them, then run again.")
