"""Folders of images: torchvision's samples in torchvision's order, and every fault named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import ImageFolder

from climp_bench.data.dataset import labels_of
from climp_bench.data.decoding import CorruptImage
from climp_bench.data.folder_source import FolderDataset
from climp_bench.data.scenes_dataset import ScenesDataset
from climp_bench.errors import DataError
from tests import data_copies as copies
from tests.conftest import png

SHAPES = ScenesDataset("scenes-shape", 30)


def make(root: Path, files: dict[str, int]) -> Path:
    for name, seed in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png(seed))
    return root


def test_samples_are_those_of_torchvision(tmp_path: Path) -> None:
    files = ["b/2.png", "b/10.png", "a/deep/x.png", "a/y.JPG", "a/b.png", "c c/1.webp"]
    make(tmp_path, {name: k for k, name in enumerate(files)})
    (tmp_path / "a" / "notes.txt").write_text("not an image")
    ours, theirs = FolderDataset(tmp_path), ImageFolder(str(tmp_path))
    assert ours.classes == tuple(theirs.classes) and ours.split == "all"
    assert [ours.item_id(i) for i in range(len(ours))] == [
        Path(path).relative_to(tmp_path).as_posix() for path, _ in theirs.samples
    ]
    assert labels_of(ours).tolist() == theirs.targets
    for i in range(len(ours)):
        np.testing.assert_array_equal(ours.image(i, (8, 8)), np.asarray(theirs[i][0]))


def test_folders_that_are_numbers_count_as_numbers(tmp_path: Path) -> None:
    make(tmp_path, {f"{k}/x.png": k for k in range(12)})
    names = [f"class {k}" for k in range(12)]
    (tmp_path / "classnames.txt").write_text("\n".join(names))
    dataset = FolderDataset(tmp_path)
    assert [dataset.item_id(i) for i in range(12)] == [f"{k}/x.png" for k in range(12)]
    assert [dataset.classes[dataset.label(i)] for i in range(12)] == names
    (tmp_path / "3/x.png").unlink()
    (tmp_path / "3").rmdir()
    assert labels_of(FolderDataset(tmp_path)).tolist() == [k for k in range(12) if k != 3]


def test_a_split_is_a_subfolder_and_names_lie_beside_it(tmp_path: Path) -> None:
    for split in ("train", "val"):
        make(tmp_path, {f"{split}/n01/a.png": 0, f"{split}/n02/b.png": 1, f"{split}/n02/c.png": 2})
    (tmp_path / "classnames.txt").write_text("tench\ngoldfish\n")
    (tmp_path / "templates.txt").write_text("a photo of a {c}.\n")
    dataset = FolderDataset(tmp_path)
    assert (dataset.split, dataset.classes, dataset.templates) == (
        "val",
        ("tench", "goldfish"),
        ("a photo of a {c}.",),
    )
    assert FolderDataset(tmp_path, "train").split == "train"
    with pytest.raises(DataError, match="there is no split 'dev'"):
        FolderDataset(tmp_path, "dev")


def test_classes_and_names_must_agree(tmp_path: Path) -> None:
    make(tmp_path, {"a/1.png": 0, "b/1.png": 1})
    (tmp_path / "classnames.txt").write_text("one\ntwo\nthree\n")
    with pytest.raises(DataError, match="names 3 classes, there are 2 class folders"):
        FolderDataset(tmp_path)
    (tmp_path / "c").mkdir()
    with pytest.raises(DataError, match="a class without images") as caught:
        FolderDataset(tmp_path)
    assert caught.value.where == str(tmp_path / "c")


def test_a_damaged_image_names_file_and_index(tmp_path: Path) -> None:
    make(tmp_path, {"a/1.png": 0, "b/1.png": 1})
    (tmp_path / "b/1.png").write_bytes(png(1)[:50])
    with pytest.raises(CorruptImage, match="cannot be decoded") as caught:
        FolderDataset(tmp_path).image(1, (8, 8))
    assert "b/1.png (image 1)" in caught.value.where


def test_a_fingerprint_follows_images_names_and_labels(tmp_path: Path) -> None:
    copies.write_image_folder(tmp_path / "x", SHAPES, numbered=True)
    before = FolderDataset(tmp_path / "x").source_fingerprint()
    assert before == FolderDataset(tmp_path / "x").source_fingerprint()
    image = next((tmp_path / "x").glob("*/*.png"))
    image.rename(image.with_name("renamed.png"))
    renamed = FolderDataset(tmp_path / "x").source_fingerprint()
    image.with_name("renamed.png").write_bytes(png(5))
    assert len({before, renamed, FolderDataset(tmp_path / "x").source_fingerprint()}) == 3
