"""The catalogue of data sets: what each is, where it comes from, how many samples it must have.

Adding a data set is one entry here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from climp_bench.data.dataset import Dataset
from climp_bench.data.digits import SklearnDigits
from climp_bench.data.published import Published, find_copy, not_here, open_copy, published
from climp_bench.data.remote_shards import (
    KnownDigest,
    Remote,
    commit_of,
    local_copy,
    pull,
    table,
    webdataset,
)
from climp_bench.data.scenes import SCENES_VERSION, TASKS
from climp_bench.data.scenes_dataset import ScenesDataset
from climp_bench.data.sources import form_of, has_split, open_folder
from climp_bench.download import Announce, Hub, silent
from climp_bench.errors import DataError, UsageError
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
        published: where it is, for a set that is not embedded.
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
    published: Published | None = None


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


def _published_entry(facts: Published) -> DatasetEntry:
    return DatasetEntry(
        name=facts.name,
        kind=facts.kind,
        n=facts.n,
        n_classes=facts.classes,
        description=facts.about,
        revision=facts.revision,
        licence=facts.licence,
        open=lambda n: open_published(facts, ()),
        published=facts,
    )


for _facts in published():
    DATASETS.add(_facts.name, _published_entry(_facts))


def find_folder(name: str, data_roots: Sequence[Path]) -> tuple[Path, str | None] | None:
    """The first ``ROOT/name`` that holds a data set, and the split that the name asks for, if any.

    CLIP-Benchmark's ``vtab/dtd`` may lie in ``vtab/dtd``, ``vtab-dtd`` or ``wds_vtab-dtd``; ``FOLDER/SPLIT``
    is a split of ``FOLDER``.

    Raises:
        DataError: files of the data set are missing.
    """
    flat = name.replace("/", "-")
    parent, _, split = name.rpartition("/")
    for root in data_roots:
        for candidate in (name, flat, f"wds_{flat}"):
            if form_of(root / candidate) is not None:
                return root / candidate, None
        if parent and has_split(root / parent, split):
            return root / parent, split
    return None


def check_roots(data_roots: Sequence[Path]) -> None:
    """Raise ``UsageError`` for a data root that is not a folder."""
    for root in data_roots:
        if not root.is_dir():
            raise UsageError("no such folder", where=f"--data-root {root}", remedy="Check the path.")


def open_dataset(
    name: str,
    data_roots: Sequence[Path] = (),
    n: int | None = None,
    *,
    offline: bool = True,
    announce: Announce = silent,
) -> Dataset:
    """Open a data set by catalogue name, or as a folder under one of ``data_roots``.

    Folders win over the catalogue, so that a user's own copy is used when one is named. A published set that
    is not on this machine is fetched unless ``offline``; ``announce`` is told its size first.

    Raises:
        UsageError: neither a folder nor a catalogue entry (with near matches).
        DataError: the data set is there but not whole.
    """
    check_roots(data_roots)
    entry = DATASETS.get(name) if name in DATASETS else None
    if entry is not None and entry.published is not None:
        return open_published(entry.published, data_roots, offline=offline, announce=announce)
    found = find_folder(name, data_roots)
    if found is not None:
        return open_folder(found[0], name, split=found[1])
    if entry is not None:
        return entry.open(n if entry.sized else None)
    local = [p.name for root in data_roots for p in root.iterdir() if p.is_dir()]
    error = unknown("dataset", name, [*DATASETS.names(), *local])
    looked = f"Looked for a folder in: {', '.join(map(str, data_roots))}."
    own = f"For a set of your own give --data-root, the folder that holds {name}/."
    raise UsageError(error.what, where=error.where, remedy=f"{error.remedy} {looked if data_roots else own}")


def open_published(
    facts: Published, data_roots: Sequence[Path], *, offline: bool = True, announce: Announce = silent
) -> Dataset:
    """A copy of a published set on this machine, held to what the catalogue says of it.

    Raises:
        DataError: there is no copy and none may be fetched (says what that would take), the hub cannot be
            reached, or the copy is not what it should be.
    """
    folder = find_copy(facts, data_roots)
    if folder is not None:
        return open_copy(facts, folder)
    pulled = pulled_copy(facts)
    if pulled is None:
        if offline or not facts.repo:
            raise not_here(facts, data_roots)
        pulled = fetch(facts, announce=announce)
    dataset = open_copy(facts, pulled, KnownDigest(pulled))
    dataset.revision = f"{facts.repo}@{commit_of(pulled)}"
    return dataset


def is_here(facts: Published, data_roots: Sequence[Path]) -> bool:
    """Whether a copy is on this machine, under a data root or pulled before."""
    return find_copy(facts, data_roots) is not None or pulled_copy(facts) is not None


def pulled_copy(facts: Published) -> Path | None:
    """The folder of a copy that was pulled before, or None. Never asks the network."""
    return local_copy(remote_of(facts)) if facts.repo else None


def fetch(facts: Published, *, offline: bool = False, announce: Announce = silent) -> Path:
    """Pull a published set at its pinned revision, or take the copy that was pulled before.

    Where only the first digits of the commit are known, its branch must still stand at it: the hub finds
    whole commits only.

    Raises:
        DataError: it is not published, the branch has moved, or as ``remote_shards.pull``.
    """
    if not facts.repo:
        raise not_here(facts, ())
    here = pulled_copy(facts)
    if here is not None:
        return here
    remote = remote_of(facts)
    if 0 < len(facts.commit) < 40:
        hub = Hub("dataset", DataError, "put a copy of it under --data-root")
        commit = hub.look_up(facts.repo, facts.ref, offline=offline).commit
        if not commit.startswith(facts.commit):
            what = f"the hub stands at {commit[:12]}, the catalogue pins {facts.commit}"
            remedy = "Its files may have changed: look at the hub, and bring the right ones with --data-root."
            raise DataError(what, where=f"{facts.name} ({facts.repo}, {facts.ref})", remedy=remedy)
        remote = replace(remote, revision=commit)
    return pull(remote, offline=offline, announce=announce)


def remote_of(facts: Published) -> Remote:
    """Which files of its repository a published set needs."""
    revision = facts.commit or facts.ref
    if facts.source == "wds":
        return webdataset(facts.repo, revision, facts.split)
    if facts.source == "shards":
        return Remote(facts.repo, revision, (facts.files,))
    return table(facts.repo, revision, facts.split, facts.files)
