"""Leaving out images that do not decode: exactly those, counted and named; the rest keeps its order."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from climp_bench.data.dataset import captions_of, check_count, check_histogram, labels_of
from climp_bench.data.digits import SklearnDigits
from climp_bench.data.scenes_dataset import ScenesDataset
from climp_bench.data.skipping import SkipCorrupt
from climp_bench.data.table_source import TableDataset
from climp_bench.data.webdataset import WebDataset
from climp_bench.errors import DataError
from tests import data_copies as copies
from tests.conftest import png, write_tar

Make = Callable[..., Path]


def damage(root: Path, indices: set[int], n: int = 10) -> Path:
    members = []
    for i in range(n):
        content = png(i)[:40] if i in indices else png(i)
        members += [(f"s{i}.png", content), (f"s{i}.cls", str(i % 3).encode())]
    write_tar(root / "test/0.tar", members)
    return root


@pytest.mark.parametrize("workers", [0, 4])
def test_exactly_the_damaged_images_are_left_out(make_wds: Make, workers: int) -> None:
    root = damage(make_wds(shards=1), {0, 4, 9})
    whole = WebDataset(root)
    kept = SkipCorrupt(whole, workers)
    assert (len(kept), kept.skipped) == (7, 3)
    assert kept.skipped_items == ("0.tar:s0", "0.tar:s4", "0.tar:s9")
    assert [kept.item_id(i) for i in range(7)] == [f"0.tar:s{i}" for i in (1, 2, 3, 5, 6, 7, 8)]
    assert labels_of(kept).tolist() == [i % 3 for i in (1, 2, 3, 5, 6, 7, 8)]
    for at, i in enumerate((1, 2, 3, 5, 6, 7, 8)):
        np.testing.assert_array_equal(kept.image(at, (8, 8)), whole.image(i, (8, 8)))
    check_count(kept, None)
    assert pickle.loads(pickle.dumps(kept)).skipped_items == kept.skipped_items
    assert kept.fingerprint() not in (
        whole.fingerprint(),
        SkipCorrupt(WebDataset(damage(root, {1}))).fingerprint(),
    )


def test_a_whole_data_set_keeps_its_fingerprint(make_wds: Make) -> None:
    whole = WebDataset(make_wds())
    kept = SkipCorrupt(whole)
    assert kept.skipped == 0 and kept.fingerprint() == whole.fingerprint()


def test_captions_go_with_their_images(tmp_path: Path) -> None:
    pairs = ScenesDataset("scenes-captions", 4)
    copies.write_metadata(tmp_path / "set", pairs)
    (tmp_path / "set/images/1.png").write_bytes(b"")
    texts, image_of = captions_of(SkipCorrupt(TableDataset(tmp_path / "set")))
    assert texts == [c for i in (0, 2, 3) for c in pairs.captions(i)]
    assert image_of.tolist() == [k for k in range(3) for _ in range(5)]


def test_a_file_that_is_not_there_is_no_damaged_image(tmp_path: Path) -> None:
    copies.write_metadata(tmp_path / "set", ScenesDataset("scenes-captions", 4))
    (tmp_path / "set/images/1.png").unlink()
    with pytest.raises(DataError, match="cannot be read"):
        SkipCorrupt(TableDataset(tmp_path / "set"))


def test_nothing_left_is_an_error_and_drawn_images_are_not_looked_at(
    make_wds: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match="none of its 10 images decodes"):
        SkipCorrupt(WebDataset(damage(make_wds(shards=1), set(range(10)))))
    monkeypatch.setattr(ScenesDataset, "image", None)
    assert len(SkipCorrupt(ScenesDataset("scenes-shape", 5))) == 5


def test_images_of_each_class_are_counted(make_wds: Make) -> None:
    dataset = WebDataset(make_wds())
    check_histogram(dataset, (4, 3, 3))
    with pytest.raises(DataError, match=r"class 2 \('class 2'\) has 3 images, the catalogue says 1 \(2 such"):
        check_histogram(dataset, (5, 3, 1))
    with pytest.raises(DataError, match="3 classes are there, the catalogue says 2"):
        check_histogram(dataset, (5, 5))
    dataset.expected_histogram = (3, 4, 3)
    with pytest.raises(DataError, match="the catalogue says"):
        check_count(dataset, None)
    check_count(SklearnDigits(), None)
