"""The experiment on inductive bias: data, permutation, runs and their report."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from climp_bench.errors import DataError, TrainingError, UsageError
from climp_bench.report.bias import rows, write_bias
from climp_bench.train import bias
from climp_bench.train.bias_data import SIDE, Thumbnails, embedded, from_folder
from tests.conftest import png

FAST = bias.BiasConfig(epochs=2, batch_size=16)


def toy(n: int = 32) -> Thumbnails:
    """Two classes that one look tells apart: dark and light."""
    labels = np.arange(2 * n, dtype=np.int64) % 2
    pixels = np.random.default_rng(0).integers(0, 100, (2 * n, SIDE, SIDE, 3)).astype(np.uint8)
    pixels += (labels * 150).astype(np.uint8)[:, None, None, None]
    return Thumbnails("toy", pixels[:n], labels[:n], pixels[n:], labels[n:], ("dark", "light"))


def test_the_towers_have_the_papers_size() -> None:
    for tower in bias.TOWERS.values():
        size = sum(p.numel() for p in bias.build_tower(tower).parameters())
        assert 0.32e6 < size < 0.36e6


@given(seed=st.integers(0, 1000))
def test_a_permutation_moves_whole_patches_the_same_way_in_every_image(seed: int) -> None:
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (3, SIDE, SIDE, 3)).astype(np.uint8)
    moved = bias.permute_patches(images, seed)

    def patches(image: Any) -> list[bytes]:
        steps = range(0, SIDE, bias.PATCH)
        return [image[y : y + bias.PATCH, x : x + bias.PATCH].tobytes() for y in steps for x in steps]

    places = [
        [patches(before).index(patch) for patch in patches(after)]
        for before, after in zip(images, moved, strict=True)
    ]
    assert sorted(places[0]) == list(range(64)) and places[0] == places[1] == places[2]
    assert places[0] != list(range(64))


@pytest.mark.parametrize("task", ["scenes-colour", "scenes-digit"])
def test_embedded_test_images_are_not_training_images(task: str) -> None:
    data = embedded(40, 30, task)
    assert data.name == task
    assert data.train_NHWC.shape == (40, SIDE, SIDE, 3) and data.test_NHWC.shape == (30, SIDE, SIDE, 3)
    seen = {image.tobytes() for image in data.train_NHWC}
    assert not any(image.tobytes() in seen for image in data.test_NHWC)
    assert set(data.train_labels_N) <= set(range(len(data.classes)))


def test_a_task_must_have_classes() -> None:
    with pytest.raises(UsageError, match="unknown task") as caught:
        embedded(4, 4, "scenes-digits")
    assert "scenes-digit" in caught.value.remedy
    with pytest.raises(UsageError):
        embedded(4, 4, "scenes-captions")


@pytest.mark.parametrize("inner", [True, False])
def test_torchvisions_folder(tmp_path: Path, inner: bool) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    random, images = np.random.default_rng(0), {}
    for name in [f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"]:
        data = random.integers(0, 256, (4, 3072)).astype(np.uint8)
        images[name] = data.reshape(4, 3, 32, 32).transpose(0, 2, 3, 1)
        (folder / name).write_bytes(pickle.dumps({b"data": data, b"labels": [0, 1, 2, 3]}, protocol=2))
    (folder / "batches.meta").write_bytes(
        pickle.dumps({b"label_names": [b"a", b"b", b"c", b"d"]}, protocol=2)
    )
    found = from_folder(folder if inner else tmp_path)
    assert (found.test_NHWC == images["test_batch"]).all() and (
        found.train_NHWC[4:8] == images["data_batch_2"]
    ).all()
    assert found.classes == ("a", "b", "c", "d") and found.test_labels_N.tolist() == [0, 1, 2, 3]
    (folder / "test_batch").write_bytes(pickle.dumps(Path("/")))
    with pytest.raises(DataError, match=r"test_batch.*it asks for pathlib"):
        from_folder(tmp_path)


def test_a_folder_of_classes(tmp_path: Path) -> None:
    for split, count in (("train", 3), ("test", 2)):
        for name in ("cat", "dog"):
            for k in range(count):
                path = tmp_path / split / name / f"{k}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(png(k, (40, 36)))
    found = from_folder(tmp_path)
    assert found.train_NHWC.shape == (6, SIDE, SIDE, 3) and found.test_labels_N.tolist() == [0, 0, 1, 1]
    with pytest.raises(DataError):
        from_folder(tmp_path / "train" / "cat")


def test_a_tower_learns_what_one_look_tells() -> None:
    run = bias.train_one(toy(), bias.BiasConfig(epochs=4, batch_size=8), "ViT", "permuted", 0, "cpu")
    assert run.accuracy > 0.9 and run.losses[-1] < run.losses[0] and run.n == 32


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[tuple[Any, ...]]]:
    """Runs are made up, in this process; the list of those that were asked for."""
    asked: list[tuple[Any, ...]] = []

    def made_up(data: Any, config: Any, tower: str, order: Any, seed: int, device: str) -> bias.BiasRun:
        asked.append((tower, order, seed))
        right = 50 + 10 * (order == "natural") + 5 * (tower == "ViT") + seed
        return bias.BiasRun(tower, order, seed, 1000, (2.0, 1.0 + seed), right, 100, 1.0)

    monkeypatch.setattr(bias, "train_one", made_up)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    return lambda: asked


def test_finished_runs_are_kept_and_others_go_on(
    here: Callable[[], list[tuple[Any, ...]]], tmp_path: Path
) -> None:
    first = bias.run_bias(toy(), FAST, 2, tmp_path, "cpu")
    assert len(here()) == 8
    (kept,) = tmp_path.glob("runs-*")
    (kept / "ViT-natural-1.json").unlink()
    assert bias.run_bias(toy(), FAST, 2, tmp_path, "cpu") == first
    assert here()[8:] == [("ViT", "natural", 1)]
    bias.run_bias(toy(), bias.BiasConfig(epochs=3), 1, tmp_path, "cpu")
    assert len(here()) == 13, "another configuration is another experiment"
    (kept / "ViT-natural-1.json").write_text("{")
    with pytest.raises(TrainingError, match="Delete it"):
        bias.run_bias(toy(), FAST, 2, tmp_path, "cpu")


def test_the_report(here: Callable[[], list[tuple[Any, ...]]], tmp_path: Path) -> None:
    runs = [{**vars(run), "accuracy": run.accuracy} for run in bias.run_bias(toy(), FAST, 3, tmp_path, "cpu")]
    table = {(row[0], row[2]): row for row in rows(runs)}
    assert table["VMamba", "natural"][3:] == ["3", "2.000 [0.000, 4.484]", "61.0 [58.5, 63.5]", "100"]
    assert table["ViT", "natural - permuted"][3:6] == ["3", "+0.000", "+10.0"], "with all seeds alike"
    page, numbers, picture = write_bias(runs, {"data": "toy"}, tmp_path)
    assert "| ViT | 1,000 | permuted | 3 |" in page.read_text() and "- data: toy" in page.read_text()
    assert len(json.loads(numbers.read_text())["runs"]) == 12
    assert picture.read_bytes().startswith(b"\x89PNG")
