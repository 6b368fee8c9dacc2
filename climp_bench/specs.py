"""Frozen descriptions shared by every room. No torch, no heavy imports.

Axis legend, used in docstrings and as tensor-name suffixes throughout the project:

==  =======================================
B   batch
L   sequence length (tokens or pixels)
D   channels of a model or of a scan
N   state size of a state-space model
K   scan directions (4 in SS2D)
G   groups that share B and C (Mamba-2)
R   rank of the step-size projection
H W height and width of an image or feature map (H also: heads, where stated)
P   dimension of the shared embedding space
==  =======================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

TaskKind = Literal["classification", "multilabel", "retrieval"]
ResizeMode = Literal["squash", "center_crop", "native"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class ImagePreprocess:
    """How a decoded image becomes a model's input. Part of the model and of the cache key.

    Attributes:
        size: height and width of the input in pixels (for ``native``: the area budget).
        mode: ``squash`` resizes to ``size`` whatever the aspect ratio; ``center_crop`` resizes the
            short side to ``size / crop_fraction`` and crops; ``native`` keeps the aspect ratio and
            brings the area down to at most ``size[0] * size[1]``, each side a multiple of ``multiple``.
        interpolation: ``bilinear`` or ``bicubic``, antialiased.
        mean, std: per-channel normalisation of the [0, 1] image.
        crop_fraction: see ``center_crop``.
        multiple: sides are multiples of this (``native`` only).
    """

    size: tuple[int, int]
    mode: ResizeMode = "squash"
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    crop_fraction: float = 1.0
    multiple: int = 1


@dataclass(frozen=True)
class Interval:
    """A confidence interval: bounds in the unit of the score, its level and how it was made."""

    low: float
    high: float
    level: float
    method: str
