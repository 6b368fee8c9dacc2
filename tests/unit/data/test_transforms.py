"""Preprocessing: sizes, values, and torchvision's own transforms as the oracle."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms as tv

from climp_bench.data.transforms import target_size, to_tensor
from climp_bench.specs import HALF, ImagePreprocess


def _image(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_an_image_of_the_right_size_is_only_normalised() -> None:
    image = _image(16, 16)
    tensor = to_tensor(image, ImagePreprocess(size=(16, 16), mean=HALF, std=HALF))
    expected = torch.from_numpy(image).permute(2, 0, 1).float() / 127.5 - 1
    torch.testing.assert_close(tensor, expected, atol=1e-6, rtol=0)


def test_squash_is_close_to_the_pil_pipeline() -> None:
    preprocess = ImagePreprocess(size=(32, 32))
    image = _image(50, 81)
    pil = tv.Compose(
        [
            tv.Resize((32, 32), interpolation=tv.InterpolationMode.BILINEAR),
            tv.ToTensor(),
            tv.Normalize(preprocess.mean, preprocess.std),
        ]
    )(Image.fromarray(image))
    ours = to_tensor(image, preprocess)
    assert (ours - pil).abs().max() < 1.01 / 255 / min(preprocess.std)


def test_center_crop_matches_resize_then_crop() -> None:
    preprocess = ImagePreprocess(
        size=(32, 32), mode="center_crop", crop_fraction=0.8, interpolation="bicubic"
    )
    tensor = to_tensor(_image(60, 100), preprocess)
    assert tensor.shape == (3, 32, 32)
    assert target_size((60, 100), preprocess) == (40, 67)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 400), st.integers(1, 400), st.sampled_from([4, 8, 16]), st.integers(2, 8))
def test_native_size_keeps_to_its_budget(height: int, width: int, step: int, side: int) -> None:
    preprocess = ImagePreprocess(size=(side * step, side * step), mode="native", multiple=step)
    h, w = target_size((height, width), preprocess)
    assert h % step == 0 and w % step == 0 and h >= step and w >= step
    assert h * w <= (side * step) ** 2
    if height == width:
        assert h == w == side * step


def test_native_size_keeps_the_aspect_ratio_roughly() -> None:
    preprocess = ImagePreprocess(size=(64, 64), mode="native", multiple=8)
    assert target_size((100, 200), preprocess) in {(40, 96), (48, 80), (40, 88)}
    assert target_size((200, 100), preprocess)[0] > target_size((200, 100), preprocess)[1]
