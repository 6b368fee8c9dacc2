from __future__ import annotations

from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from climp_bench.data.scenes import dense_caption, draw, make_scene, short_captions
from climp_bench.errors import TrainingError
from climp_bench.models.tokenizer import load
from climp_bench.train import pool
from climp_bench.train.pool import CaptionPart, PatchPart, PicturePart, native_sizes, open_part

PICTURES = PicturePart(32, 48)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "CHUNK", 4)


def test_pictures_are_the_scenes_from_first_on(tmp_path: Path) -> None:
    pixels = open_part(tmp_path, PICTURES, 7, 5, workers=1)["pixels"]
    assert pixels.shape == (5, 32, 48, 3)
    for row in range(5):
        np.testing.assert_array_equal(pixels[row], draw(make_scene("train", 7 + row), 32, 48))


def test_captions_are_those_of_the_scene_or_its_shortest(tmp_path: Path) -> None:
    words = load("scenes-bpe")
    part = CaptionPart("scenes-bpe", words.digest, 16, 40)
    arrays = open_part(tmp_path, part, 0, 24, workers=1)
    seen = set()
    for row in range(24):
        scene = make_scene("train", row)
        own = words.encode(list(short_captions(scene)))
        dense = words.encode([dense_caption(scene)])
        for name, wanted, limit in (("short", own, 16), ("dense", dense, 40)):
            for k, ids in enumerate(wanted):
                length = arrays[f"{name}_lengths"][row, k]
                kept = len(ids) <= limit
                seen.add((name, kept))
                expected = ids if kept else min(own, key=len)
                assert arrays[name][row, k, :length].tolist() == expected
                assert not arrays[name][row, k, length:].any()
    assert seen == {("short", True), ("short", False), ("dense", True), ("dense", False)}


def test_patches_are_drawn_natively_at_each_scenes_own_size(tmp_path: Path) -> None:
    part = PatchPart(((32, 48), (40, 32)), 8)
    patches = open_part(tmp_path, part, 3, 4, workers=1)["patches"]
    for row in range(4):
        height, width = part.sizes[(3 + row) % 2]
        picture = draw(make_scene("train", 3 + row), height, width)
        cells = [
            picture[y : y + 8, x : x + 8].ravel() for y in range(0, height, 8) for x in range(0, width, 8)
        ]
        np.testing.assert_array_equal(patches[row, : len(cells)], cells)
        assert not patches[row, len(cells) :].any()


@given(side=st.integers(4, 40), patch=st.sampled_from([4, 8, 14, 16]))
def test_native_sizes_fit_the_area_and_the_patch(side: int, patch: int) -> None:
    budget = side * patch
    sizes = native_sizes((budget, budget), patch)
    assert len(set(sizes)) == len(sizes)
    for height, width in sizes:
        assert height % patch == width % patch == 0
        assert 0 < height * width <= budget**2


def test_native_sizes_of_the_micro_model_span_shapes_and_areas() -> None:
    sizes = native_sizes((64, 64), 8)
    assert (64, 64) in sizes
    assert {(48, 80), (80, 48), (40, 96), (32, 32)} <= set(sizes)


def test_the_number_of_processes_does_not_matter(tmp_path: Path, small_chunks: None) -> None:
    alone = open_part(tmp_path / "1", PICTURES, 0, 18, workers=1)["pixels"]
    together = open_part(tmp_path / "2", PICTURES, 0, 18, workers=2)["pixels"]
    np.testing.assert_array_equal(alone, together)
    assert len({row.tobytes() for row in alone}) == 18


def test_a_drawing_that_was_stopped_goes_on(
    tmp_path: Path, small_chunks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop_after_8(done: int) -> None:
        if done >= 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_part(tmp_path, PICTURES, 0, 18, workers=1, report=stop_after_8)
    (folder,) = tmp_path.iterdir()
    assert not (folder / "manifest.json").exists()
    drawn: list[int] = []

    def spy(split: str, index: int) -> object:
        drawn.append(index)
        return make_scene(split, index)

    monkeypatch.setattr(pool, "make_scene", spy)
    reports: list[int] = []
    pixels = open_part(tmp_path, PICTURES, 0, 18, workers=1, report=reports.append)["pixels"]
    assert drawn == list(range(8, 18))
    assert reports == [8, 12, 16, 18]
    for row in (0, 7, 8, 17):
        np.testing.assert_array_equal(pixels[row], draw(make_scene("train", row), 32, 48))
    drawn.clear()
    open_part(tmp_path, PICTURES, 0, 18, workers=1)
    assert drawn == []


def test_a_lost_array_is_drawn_again(tmp_path: Path, small_chunks: None) -> None:
    first = np.array(open_part(tmp_path, PICTURES, 0, 6, workers=1)["pixels"])
    (folder,) = tmp_path.iterdir()
    (folder / "manifest.json").unlink()
    (folder / "pixels.npy").unlink()
    np.testing.assert_array_equal(open_part(tmp_path, PICTURES, 0, 6, workers=1)["pixels"], first)


def test_a_cut_file_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    open_part(tmp_path, PICTURES, 0, 3, workers=1)
    (folder,) = tmp_path.iterdir()
    content = (folder / "pixels.npy").read_bytes()
    (folder / "pixels.npy").write_bytes(content[: len(content) // 2])
    with pytest.raises(TrainingError, match="delete the folder"):
        open_part(tmp_path, PICTURES, 0, 3, workers=1)


def test_a_disk_without_space_is_noticed_before_drawing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(pool.shutil, "disk_usage", lambda path: usage(10, 9, 1))
    with pytest.raises(TrainingError, match="GB are free"):
        open_part(tmp_path, PICTURES, 0, 3, workers=1)


def test_different_ranges_and_sizes_do_not_share_a_folder(tmp_path: Path) -> None:
    for part, first, count in (
        (PICTURES, 0, 3),
        (PICTURES, 1, 3),
        (PICTURES, 0, 4),
        (PicturePart(48, 32), 0, 3),
    ):
        open_part(tmp_path, part, first, count, workers=1)
    assert len(list(tmp_path.iterdir())) == 4


def test_writing_to_the_arrays_leaves_the_files_alone(tmp_path: Path) -> None:
    pixels = open_part(tmp_path, PICTURES, 0, 3, workers=1)["pixels"]
    before = np.array(pixels)
    pixels[:] = 0
    np.testing.assert_array_equal(open_part(tmp_path, PICTURES, 0, 3, workers=1)["pixels"], before)
