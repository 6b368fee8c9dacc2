"""The one place where decoded images become tensors.

Resizing goes through torchvision's antialiased functional resize on uint8 -> float tensors, so that a
numpy image drawn natively at the model's size passes through unchanged.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from climp_bench.data.dataset import Image
from climp_bench.specs import ImagePreprocess

_MODES = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}


def to_tensor(image: Image, preprocess: ImagePreprocess) -> torch.Tensor:
    """uint8 (H, W, 3) -> normalised float32 (3, h, w) as the model was trained to see it."""
    return normalise(to_pixels(image, preprocess), preprocess)


def to_pixels(image: Image, preprocess: ImagePreprocess) -> torch.Tensor:
    """uint8 (H, W, 3) -> uint8 (3, h, w), resized and cropped as the model was trained to see it."""
    pixels = torch.from_numpy(np.array(image.transpose(2, 0, 1), order="C"))
    height, width = target_size((image.shape[0], image.shape[1]), preprocess)
    if pixels.shape[-2:] != (height, width):
        mode = _MODES[preprocess.interpolation]
        pixels = F.resize(pixels, [height, width], interpolation=mode, antialias=True)
    if preprocess.mode == "center_crop":
        pixels = F.center_crop(pixels, list(preprocess.size))
    return pixels


def normalise(pixels: torch.Tensor, preprocess: ImagePreprocess) -> torch.Tensor:
    """uint8 (..., 3, h, w) -> float32 of the same shape, on the same device."""
    scaled = pixels.to(torch.float32) / 255.0
    normalised: torch.Tensor = F.normalize(scaled, list(preprocess.mean), list(preprocess.std))
    return normalised


def target_size(image_size: tuple[int, int], preprocess: ImagePreprocess) -> tuple[int, int]:
    """Height and width after the resize (before a crop), in pixels.

    ``native`` keeps the aspect ratio within ``multiple`` and brings the area to at most
    ``size[0] * size[1]`` (small images are enlarged to that budget, as NaFlexViT's transforms do).
    """
    height, width = image_size
    if preprocess.mode == "squash":
        return preprocess.size
    if preprocess.mode == "center_crop":
        scale = max(
            preprocess.size[0] / preprocess.crop_fraction / height,
            preprocess.size[1] / preprocess.crop_fraction / width,
        )
        return max(round(height * scale), preprocess.size[0]), max(round(width * scale), preprocess.size[1])
    step = preprocess.multiple
    budget = preprocess.size[0] * preprocess.size[1] // (step * step)
    scale = math.sqrt(budget * step * step / (height * width))
    rows = min(max(1, round(height * scale / step)), budget)
    cols = min(max(1, round(width * scale / step)), budget)
    while rows * cols > budget:
        if rows * width > cols * height:
            rows -= 1
        else:
            cols -= 1
    return rows * step, cols * step
