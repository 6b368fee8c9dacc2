"""Every data set of the catalogue is what its entry says, and every shipped suite asks for what is there."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from climp_bench.data.catalogue import DATASETS, DatasetEntry
from climp_bench.data.dataset import Dataset, labels_of, targets_of
from climp_bench.data.scenes import TASKS
from climp_bench.specs import TaskKind
from climp_bench.suite import TaskDef, available, load
from climp_bench.suite.schema import PROTOCOLS, Protocol

NOT_SHIPPED = {"fashion_mnist"}
"""Data sets that shipped suites name and that a user brings with --data-root."""

PARTIAL_CLASSES = {"scenes-composition": 41}
"""Tasks whose split shows only some of the classes that are asked about, and how many."""

SUITE_TASKS = [(name, task) for name in available() for task in load(name).tasks]
SHIPPED_TASKS = [(name, task) for name, task in SUITE_TASKS if task.dataset in DATASETS]
EMBEDDED = [entry for entry in DATASETS if entry.published is None]
PUBLISHED = [entry for entry in DATASETS if entry.published is not None]
each_entry = pytest.mark.parametrize("entry", EMBEDDED, ids=lambda entry: entry.name)


def names_of(value: object) -> str:
    return value.name if isinstance(value, TaskDef) else str(value)


@each_entry
def test_a_data_set_opens_as_its_entry_says(entry: DatasetEntry) -> None:
    dataset = entry.open(None)
    assert (dataset.name, dataset.kind, len(dataset)) == (entry.name, entry.kind, entry.n)
    assert dataset.n_expected == entry.n
    assert entry.kind in get_args(TaskKind)
    assert len(dataset.classes) == len(set(dataset.classes)) == entry.n_classes
    assert all(c.strip() for c in dataset.classes)
    for fact in (entry.revision, entry.licence, entry.description, dataset.source_fingerprint()):
        assert fact.strip()
    assert DATASETS.get(entry.name) is entry


@each_entry
def test_a_sized_data_set_opens_at_any_number_of_images(entry: DatasetEntry) -> None:
    assert len(entry.open(7)) == (7 if entry.sized else entry.n)


@each_entry
def test_first_and_last_image_decode(entry: DatasetEntry) -> None:
    dataset = entry.open(None)
    pictures = [dataset.image(i, (64, 64)) for i in (0, entry.n - 1)]
    for picture in pictures:
        assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3
        assert picture.min() < picture.max()
    assert not np.array_equal(*pictures)
    assert dataset.item_id(0) != dataset.item_id(entry.n - 1)


@each_entry
def test_what_belongs_to_the_images_is_there(entry: DatasetEntry) -> None:
    dataset = entry.open(None)
    if entry.kind == "retrieval":
        assert entry.n_classes == 0 and not dataset.templates
        for i in (0, entry.n - 1):
            assert dataset.captions(i) and all(caption.strip() for caption in dataset.captions(i))
        return
    assert entry.n_classes >= 2 and all("{c}" in template for template in dataset.templates)
    assert dataset.templates
    if entry.kind == "classification":
        assert len(set(labels_of(dataset).tolist())) == PARTIAL_CLASSES.get(entry.name, entry.n_classes)
    else:
        assert targets_of(dataset).any(axis=0).all() and targets_of(dataset).any(axis=1).all()


def test_published_entries_say_all_that_an_entry_says() -> None:
    for entry in PUBLISHED:
        assert entry.kind in get_args(TaskKind) and entry.n > 0, entry.name
        assert (entry.n_classes == 0) == (entry.kind == "retrieval") and entry.n_classes != 1, entry.name
        assert all(fact.strip() for fact in (entry.revision, entry.licence, entry.description)), entry.name


def test_every_scenes_task_is_in_the_catalogue() -> None:
    assert [name for name in TASKS.names() if name not in DATASETS] == []


@pytest.mark.parametrize("name", available())
def test_a_suite_bears_the_name_of_its_file_and_says_what_it_is(name: str) -> None:
    suite = load(name)
    assert suite.name == name
    assert suite.description.strip() and suite.source.strip()
    assert suite.protocol in PROTOCOLS == get_args(Protocol)


@pytest.mark.parametrize(("suite", "task"), SUITE_TASKS, ids=names_of)
def test_a_suite_names_data_sets_that_exist(suite: str, task: TaskDef) -> None:
    assert task.dataset in DATASETS or task.dataset in NOT_SHIPPED
    assert task.n is not None, "without n a partial data set would go unnoticed"


def test_no_exemption_is_stale() -> None:
    named = {task.dataset for _, task in SUITE_TASKS}
    assert named >= NOT_SHIPPED
    assert not {name for name in NOT_SHIPPED if name in DATASETS}
    for name, count in PARTIAL_CLASSES.items():
        assert count < DATASETS.get(name).n_classes


@pytest.mark.parametrize(("suite", "task"), SHIPPED_TASKS, ids=names_of)
def test_a_suite_asks_for_images_that_the_data_set_has(suite: str, task: TaskDef) -> None:
    entry = DATASETS.get(task.dataset)
    assert task.n is not None
    assert task.n <= entry.n if entry.sized else task.n == entry.n
    assert task.kind in (None, entry.kind)
    if entry.kind == "retrieval":
        assert max(task.ks) < task.n


@pytest.mark.parametrize(
    ("suite", "task"),
    [pair for pair in SHIPPED_TASKS if pair[1].dataset in TASKS],
    ids=names_of,
)
def test_classes_of_scenes_are_balanced(suite: str, task: TaskDef) -> None:
    entry = DATASETS.get(task.dataset)
    if entry.kind == "classification":
        counts = class_counts(entry.open(task.n))
        assert len(counts) == PARTIAL_CLASSES.get(entry.name, entry.n_classes)
        assert max(counts) - min(counts) <= 1


def class_counts(dataset: Dataset) -> list[int]:
    """Images of every class that is shown."""
    counts = np.bincount(labels_of(dataset), minlength=len(dataset.classes))
    return [int(count) for count in counts if count]


def test_an_unbalanced_task_would_be_seen() -> None:
    digits = class_counts(DATASETS.get("sklearn-digits").open(None))
    assert max(digits) - min(digits) > 1
