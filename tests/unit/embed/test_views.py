"""Images fitted where they are decoded: the same pixels, once for all models that see them alike."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from climp_bench.data.catalogue import open_dataset
from climp_bench.data.transforms import to_pixels
from climp_bench.embed import batches, extract, loading
from climp_bench.embed.views import Viewer, geometry, pixels_of, viewer_for
from climp_bench.models.adapters import Array, OwnTransform
from climp_bench.specs import ImagePreprocess
from tests.fakes import ToyEncoder

SQUASH = ImagePreprocess(size=(16, 16), mean=(0.1, 0.2, 0.3))
CROP = ImagePreprocess(size=(16, 12), mode="center_crop", interpolation="bicubic", crop_fraction=0.9)
NATIVE = ImagePreprocess(size=(16, 16), mode="native", multiple=4)


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("shape", [(40, 70), (23, 23), (20, 16), (5, 9)], ids=str)
def test_pixels_are_those_that_the_model_would_make_itself(shape: tuple[int, int]) -> None:
    image, looks = picture(*shape), (SQUASH, CROP, NATIVE)
    viewer = pickle.loads(pickle.dumps(Viewer(tuple(map(geometry, looks)))))
    view = viewer(image)
    for look in looks:
        for wanted in (look, replace(look, std=(0.5, 0.5, 0.5))):
            assert torch.equal(pixels_of(view, wanted), to_pixels(image, wanted))
    large = shape[0] * shape[1] >= 2 * 16 * 16
    assert (view.whole is None) == large and (len(view.fitted) == 3 or not large)


def test_only_what_becomes_much_smaller_is_fitted() -> None:
    view = Viewer((SQUASH, replace(SQUASH, size=(64, 64))))(picture(40, 40))
    assert list(view.fitted) == [SQUASH] and view.whole is not None
    assert Viewer()(picture(40, 40)).whole is not None and Viewer()(picture(40, 40)).fitted == {}


def test_a_transform_of_its_own_gets_the_whole_image() -> None:
    ours, other = ToyEncoder("ours"), ToyEncoder("other")
    other.own_transform = OwnTransform("its own", lambda image: torch.zeros(3, 8, 8))
    viewer = viewer_for({"ours": ours, "other": other})
    assert viewer.whole and viewer.geometries == (geometry(ours.preprocess),)
    view = viewer(picture(40, 40))
    assert view.whole is not None and len(view.fitted) == 1
    assert batches._prepared(view, other).shape == (3, 8, 8)
    assert viewer_for({"ours": ours}).whole is False


class OnGpu(ToyEncoder):
    """Says that it is on a GPU."""

    def __init__(self, name: str, size: tuple[int, int] = (8, 8)) -> None:
        super().__init__(name, size=size)
        self.device, self.gpu = "cuda", "Some GPU"

    def encode_images(self, images: Sequence[Any] | torch.Tensor) -> Array:
        return super().encode_images(list(images))


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Twelve images of several sizes in folders of two classes; one is small."""
    for k in range(12):
        folder = tmp_path / "data" / "photos" / "test" / f"class-{k % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(30 + k, 40) if k else picture(6, 7)).save(folder / f"{k:02}.png")
    (tmp_path / "data/photos/classnames.txt").write_text("one\ntwo\n")
    (tmp_path / "data/photos/templates.txt").write_text("a {c}\n")
    return tmp_path / "data"


@pytest.mark.parametrize("workers", [0, 2])
def test_models_that_see_alike_share_tensors_and_get_the_rows_of_a_cpu(
    workers: int, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = open_dataset("photos", [photographs])
    wanted = extract.embed_images(dataset, [ToyEncoder("a"), ToyEncoder("b")], tmp_path / "cpu")
    monkeypatch.setattr(loading, "SMALL", 4)
    monkeypatch.setattr(batches, "_images_at_once", lambda device, size: 5)
    asked: list[bool] = []
    kept = batches._tensors

    def tensors(views: Any, encoder: Any) -> Any:
        asked.extend(view.whole is None for view in views)
        return kept(views, encoder)

    monkeypatch.setattr(batches, "_tensors", tensors)
    encoders = [OnGpu("a"), OnGpu("b")]
    found = extract.embed_images(dataset, encoders, tmp_path / "gpu", workers=workers)
    for name in ("a@micro", "b@micro"):
        np.testing.assert_array_equal(found[name].rows, wanted[name].rows)
    assert len(asked) == 12, "once for both models"
    assert sum(asked) == (11 if workers else 0), "all but the small one are fitted by processes"
