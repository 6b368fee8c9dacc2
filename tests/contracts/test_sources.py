"""Every kind of source keeps the promises of ``Dataset``: the same samples for any number of workers."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from climp_bench.data import decoding
from climp_bench.data.catalogue import open_dataset
from climp_bench.data.dataset import Dataset, captions_of, check_count, labels_of
from climp_bench.data.scenes_dataset import ScenesDataset
from climp_bench.data.skipping import SkipCorrupt
from climp_bench.embed import loading
from climp_bench.errors import DataError, UsageError
from tests import data_copies as copies

N = 24
SHAPES = ScenesDataset("scenes-shape", N)
PAIRS = ScenesDataset("scenes-captions", N)

SOURCES: dict[str, Callable[[Path], object]] = {
    "shards": lambda folder: copies.write_webdataset(folder, SHAPES),
    "shards of pairs": lambda folder: copies.write_webdataset(folder, PAIRS),
    "folders": lambda folder: copies.write_image_folder(folder, SHAPES, numbered=True),
    "parquet": lambda folder: copies.write_classification(folder, SHAPES, image="img"),
    "ten captions": lambda folder: copies.write_nocaps(folder, PAIRS),
    "one caption": lambda folder: copies.write_docci(folder, PAIRS),
    "caption columns": lambda folder: copies.write_flickr8k(folder, PAIRS),
    "arrow": lambda folder: copies.write_saved(folder, PAIRS),
    "splits": lambda folder: copies.write_saved(folder, PAIRS, splits=("train", "test")),
    "metadata": lambda folder: copies.write_metadata(folder, PAIRS),
}
each_source = pytest.mark.parametrize("kind", SOURCES)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sources")
    for name, write in SOURCES.items():
        write(root / name)
    return root


def same(one: Dataset, other: Dataset) -> bool:
    if one.kind == "retrieval":
        return captions_of(one)[0] == captions_of(other)[0]
    return labels_of(one).tolist() == labels_of(other).tolist()


@each_source
def test_opening_decodes_nothing_and_reading_leaves_nothing_behind(
    kind: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding.PILImage, "open", None)
    dataset = open_dataset(kind, [root])
    check_count(dataset, N)
    assert (dataset.name, len(dataset)) == (kind, N)
    assert len({dataset.item_id(i) for i in range(N)}) == N
    assert len(pickle.dumps(dataset)) < 100_000


@each_source
def test_a_copy_in_another_process_reads_the_same(kind: str, root: Path) -> None:
    dataset = open_dataset(kind, [root])
    dataset.image(N - 1, (8, 8))
    copy: Dataset = pickle.loads(pickle.dumps(dataset))
    assert same(copy, dataset) and copy.fingerprint() == dataset.fingerprint()
    for i in (N - 1, 0, N // 2):
        np.testing.assert_array_equal(copy.image(i, (8, 8)), dataset.image(i, (8, 8)))


@each_source
def test_skipping_nothing_changes_nothing(kind: str, root: Path) -> None:
    dataset = open_dataset(kind, [root])
    kept = SkipCorrupt(dataset)
    assert same(kept, dataset) and kept.fingerprint() == dataset.fingerprint()


def test_any_number_of_workers_gives_the_same_images_in_order(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "SMALL", 0)
    monkeypatch.setattr(loading, "PIECE", 2)  # blocks are decoded by several processes
    blocks = [range(start, min(start + 5, N)) for start in range(0, N, 5)]
    for kind in ("shards", "ten captions", "arrow"):
        dataset = open_dataset(kind, [root])
        loaded = {
            workers: [
                i
                for block in loading.load_blocks(dataset, blocks, (8, 8), workers, loading.as_it_is)
                for i in block
            ]
            for workers in (0, 1, 2)
        }
        assert [len(images) for images in loaded.values()] == [N] * 3
        for workers in (1, 2):
            assert all(map(np.array_equal, loaded[0], loaded[workers]))


def test_a_split_is_named_behind_its_folder(root: Path) -> None:
    assert open_dataset("splits/train", [root]).split == "train"
    assert open_dataset("ten captions/validation", [root]).split == "validation"
    assert open_dataset("shards/test", [root]).name == "shards/test"
    with pytest.raises(UsageError, match="unknown dataset"):
        open_dataset("ten captions/test", [root])


def test_half_a_data_set_is_an_error_not_another_data_set(root: Path, tmp_path: Path) -> None:
    copies.write_webdataset(tmp_path / "shards", SHAPES)
    (tmp_path / "shards/test/nshards.txt").unlink()
    with pytest.raises(DataError, match="missing") as caught:
        open_dataset("shards", [tmp_path])
    assert caught.value.where.endswith("test/nshards.txt")
    copies.write_saved(tmp_path / "arrow", PAIRS, splits=("test",))
    (tmp_path / "arrow/test/state.json").unlink()
    with pytest.raises(DataError, match="missing"):
        open_dataset("arrow", [tmp_path])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="unknown dataset 'empty'"):
        open_dataset("empty", [tmp_path])
