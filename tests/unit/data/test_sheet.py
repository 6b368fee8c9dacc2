"""Contact sheets show images of the data set with their words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from climp_bench.data.scenes import TASKS
from climp_bench.data.scenes_dataset import ScenesDataset
from climp_bench.data.sheet import COLUMNS, write_sheet
from climp_bench.errors import DataError, UsageError
from tests.conftest import png, write_tar


def test_the_first_tile_is_the_first_image(tmp_path: Path) -> None:
    write_sheet("scenes-shape", 7, 64, tmp_path / "sheet.png")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    tile = sheet[8 : 8 + 64, 8 : 8 + 64]
    np.testing.assert_array_equal(tile, ScenesDataset("scenes-shape").image(0, (64, 64)))
    beneath = sheet[8 + 64 : 8 + 64 + 12, 8 : 8 + 64]
    assert (beneath < 128).any() and (beneath == 255).any()


def test_scenes_is_a_tour_of_every_task(tmp_path: Path) -> None:
    write_sheet("scenes", 1, 32, tmp_path / "tour.png")
    width, height = Image.open(tmp_path / "tour.png").size
    assert width > COLUMNS * 32 and height > len(TASKS) * 32


def test_folders_and_small_images_work(make_wds, tmp_path: Path) -> None:
    root = make_wds()
    write_sheet("toy", 4, 48, tmp_path / "toy.png", [root.parent])
    assert Image.open(tmp_path / "toy.png").size[0] > 4 * 48


def test_faults(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="scenes-shape"):
        write_sheet("scenes-shap", 4, 64, tmp_path / "x.png")
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        write_sheet("scenes-shape", 4, 64, blocked / "x.png")


@pytest.mark.parametrize("label", [b"7", b"-1"])
def test_a_label_out_of_range_is_named_not_drawn(tmp_path: Path, label: bytes) -> None:
    root = tmp_path / "bad"
    write_tar(root / "test/0.tar", [("a.png", png(0)), ("a.cls", label)])
    (root / "test/nshards.txt").write_text("1")
    (root / "classnames.txt").write_text("one\ntwo\n")
    with pytest.raises(DataError, match=r"outside 0\.\.1"):
        write_sheet("bad", 1, 64, tmp_path / "x.png", [tmp_path])
