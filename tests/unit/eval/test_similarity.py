"""Patch similarity: the map is the projected features' cosines, in place, for every family."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from climp_bench.data.picture import open_picture
from climp_bench.data.transforms import to_tensor
from climp_bench.errors import DataError, UsageError
from climp_bench.eval.similarity import SimilarityMap, similarities, similarity
from climp_bench.models.adapters import CatalogueEncoder
from climp_bench.models.weights import resolve
from climp_bench.report.similarity import write_maps
from tests.conftest import png
from tests.fakes import ToyEncoder

GRIDS = {"climp-m1": (2, 2), "climp-m2": (2, 2), "rope-vit": (8, 8), "flexivit": (8, 8), "naflexvit": (8, 8)}


@pytest.mark.parametrize("family", GRIDS)
def test_the_map_is_the_cosine_of_each_projected_feature(family: str) -> None:
    encoder = CatalogueEncoder(resolve(family))
    image = open_picture("scenes-dense:3", (64, 64))
    got = similarity(encoder, image, "a red circle")
    assert got.patches_hw.shape == GRIDS[family] and got.size == (64, 64)
    model = encoder.model
    pixels = to_tensor(image, encoder.preprocess)[None]
    ids, lengths = encoder._tokenizer.pad(encoder.tokenize(["a red circle"]))
    with torch.no_grad():
        features = model.vision_projection(model.vision_encoder.forward_features(pixels))[0]
        text = model.text_projection(model.text_encoder(ids, lengths))[0]
        whole = model.vision_projection(model.vision_encoder(pixels))[0]
    expected = torch.cosine_similarity(features, text.expand_as(features), dim=-1).numpy()
    np.testing.assert_allclose(got.patches_hw, expected, atol=1e-5)
    assert got.whole == pytest.approx(float(torch.cosine_similarity(whole, text, dim=0)), abs=1e-5)


def test_the_vmamba_pools_what_its_map_shows() -> None:
    model = CatalogueEncoder(resolve("climp-m1")).model
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        features = model.vision_encoder.forward_features(x)
        assert model.encode_patches(x).shape == (1, 2, 3, 128)
        torch.testing.assert_close(model.vision_encoder(x), features.mean((1, 2)))


def test_sizes_are_outermost_and_finer() -> None:
    encoders = [CatalogueEncoder(resolve(family)) for family in ("climp-m1", "rope-vit")]
    found = similarities(encoders, open_picture("scenes-dense:3", (96, 96)), "a star", [64, 96])
    assert [(m.model.partition("@")[0], m.patches_hw.shape) for m in found] == [
        ("climp-m1", (2, 2)), ("rope-vit", (8, 8)), ("climp-m1", (3, 3)), ("rope-vit", (12, 12)),
    ]  # fmt: skip
    with pytest.raises(UsageError, match="shows no patches"):
        similarity(ToyEncoder(), open_picture("scenes-dense:3", (64, 64)), "a star")


def test_the_peak_is_a_place_in_the_image() -> None:
    cosines = np.zeros((4, 8), np.float32)
    cosines[1, 6] = 1
    assert SimilarityMap("m", (64, 128), cosines, 0.0).peak == (1.5 / 4, 6.5 / 8)


def test_picture_and_numbers(tmp_path: Path) -> None:
    encoder = CatalogueEncoder(resolve("rope-vit"))
    image = open_picture("scenes-dense:3", (64, 64))
    one = similarity(encoder, image, "a star")
    rows = {
        "model": one.model,
        "size": list(one.size),
        "whole": one.whole,
        "patches": one.patches_hw.tolist(),
    }
    numbers = write_maps([rows] * 7, image, "a star", tmp_path / "deep" / "s.png")
    with PILImage.open(tmp_path / "deep" / "s.png") as picture:
        assert picture.width > picture.height
    read = json.loads(numbers.read_text())
    assert read["caption"] == "a star" and len(read["maps"]) == 7
    np.testing.assert_array_equal(np.array(read["maps"][0]["patches"], np.float32), one.patches_hw)


def test_pictures_by_path_and_by_index(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1, (20, 30)))
    assert open_picture(str(tmp_path / "a.png"), (64, 64)).shape == (20, 30, 3)
    assert open_picture("scenes-shape:0", (48, 48)).shape == (48, 48, 3)
    (tmp_path / "b.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="not an image"):
        open_picture(str(tmp_path / "b.png"), (64, 64))
    with pytest.raises(UsageError, match="no such file"):
        open_picture(str(tmp_path / "c.png"), (64, 64))
    with pytest.raises(UsageError, match="no image of that index"):
        open_picture("sklearn-digits:1797", (64, 64))
