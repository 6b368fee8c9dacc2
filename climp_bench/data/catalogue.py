"""The catalogue of data sets: what each is, where it comes from, how many samples it must have.

Adding a data set is one entry here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from climp_bench.data.dataset import Dataset
from climp_bench.data.digits import SklearnDigits
from climp_bench.data.scenes import SCENES_VERSION, TASKS
from climp_bench.data.scenes_dataset import ScenesDataset
from climp_bench.data.webdataset import WebDataset
from climp_bench.errors import UsageError
from climp_bench.registry import Registry, unknown
from climp_bench.specs import TaskKind


@dataclass(frozen=True)
class DatasetEntry:
    """One data set of the catalogue.

    Attributes:
        open: makes the data set; takes an optional number of images where the source can make any number.
        n: images in the full set.
        revision: pinned revision of the source.
        licence: licence of the images.
        sized: whether ``open`` can make any number of images.
    """

    name: str
    kind: TaskKind
    n: int
    n_classes: int
    description: str
    revision: str
    licence: str
    open: Callable[[int | None], Dataset]
    sized: bool = False


def _scenes_entry(name: str) -> DatasetEntry:
    task = TASKS.get(name)
    return DatasetEntry(
        name=name,
        kind=task.kind,
        n=task.n,
        n_classes=len(task.classes),
        description=task.description,
        revision=f"scenes-v{SCENES_VERSION}",
        licence="Apache-2.0 (drawn by climp-bench)",
        open=lambda n: ScenesDataset(name, n),
        sized=True,
    )


DATASETS: Registry[DatasetEntry] = Registry("dataset")
for _name in TASKS.names():
    DATASETS.add(_name, _scenes_entry(_name))
DATASETS.add(
    "sklearn-digits",
    DatasetEntry(
        name="sklearn-digits",
        kind="classification",
        n=1797,
        n_classes=10,
        description="Real handwritten digits, 8 x 8 pixels, that come with scikit-learn.",
        revision="scikit-learn load_digits (UCI optdigits, test part)",
        licence="CC BY 4.0",
        open=lambda n: SklearnDigits(),
    ),
)


def find_folder(name: str, data_roots: Sequence[Path]) -> Path | None:
    """The first ``ROOT/name`` that looks like a webdataset folder.

    CLIP-Benchmark's ``vtab/dtd`` may lie in ``vtab/dtd``, ``vtab-dtd`` or ``wds_vtab-dtd``.
    """
    flat = name.replace("/", "-")
    for root in data_roots:
        for candidate in (name, flat, f"wds_{flat}"):
            folder = root / candidate
            if folder.is_dir() and any(folder.glob("*/nshards.txt")):
                return folder
    return None


def check_roots(data_roots: Sequence[Path]) -> None:
    """Raise ``UsageError`` for a data root that is not a folder."""
    for root in data_roots:
        if not root.is_dir():
            raise UsageError("no such folder", where=f"--data-root {root}", remedy="Check the path.")


def open_dataset(name: str, data_roots: Sequence[Path] = (), n: int | None = None) -> Dataset:
    """Open a data set by catalogue name, or as a folder under one of ``data_roots``.

    Folders win over the catalogue, so that a user's own copy is used when one is named.

    Raises:
        UsageError: neither a folder nor a catalogue entry (with near matches).
        DataError: the data set is there but not whole.
    """
    check_roots(data_roots)
    folder = find_folder(name, data_roots)
    if folder is not None:
        return WebDataset(folder, name=name)
    if name in DATASETS:
        entry = DATASETS.get(name)
        return entry.open(n if entry.sized else None)
    local = [p.name for root in data_roots for p in root.iterdir() if p.is_dir()]
    error = unknown("dataset", name, [*DATASETS.names(), *local])
    looked = ", ".join(str(root) for root in data_roots) or "no --data-root was given"
    raise UsageError(
        error.what, where=error.where, remedy=f"{error.remedy} Looked for a folder in: {looked}."
    )
