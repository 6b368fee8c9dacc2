"""Frozen descriptions shared by every room, and how sizes are written. No torch, no heavy imports.

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

import re
from dataclasses import dataclass
from typing import Literal

from climp_bench.errors import UsageError

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


LADDER = (224, 320, 384, 512, 640, 768, 896)
"""The input sizes of the CLIMP paper, in pixels a side."""
LENGTHS = (77, 128, 256, 512, 1024, 2048)
"""Lengths of texts in tokens: CLIP's context, then powers of two."""

_RANGE = re.compile(r"([0-9]+)(?:\.\.([0-9]+)(?::([0-9]+))?)?")
_NEARLY_RANGE = re.compile(r"([0-9]+)\s*(?:-|:|\.{1,3}|to|…)\s*([0-9]+)(?:[:/]([0-9]+))?")
_SQUARE = re.compile(r"([0-9]+)\s*x\s*\1")


def parse_resolutions(text: str) -> tuple[int, ...]:
    """Sizes in pixels from a command line, ascending and each once.

    ``A..B`` is the ladder 224 320 384 512 640 768 896 cut to [A, B], ``A..B:STEP`` counts in steps from A,
    and commas join sizes and ranges: ``224..384,1024``.

    Raises:
        UsageError: a part is neither (with what was probably meant), is empty, or names no size.
    """
    return _parse_sizes(text, LADDER, "--res", "64..128:16", "64,96,128")


def parse_lengths(text: str) -> tuple[int, ...]:
    """Lengths of texts in tokens, as ``parse_resolutions`` with the ladder 77 128 256 512 1024 2048."""
    return _parse_sizes(text, LENGTHS, "--text", "64..128:16", "20,40,77")


def parse_batch_sizes(text: str) -> tuple[int, ...] | None:
    """Batch sizes, as ``parse_resolutions`` with the powers of two as the ladder; None for ``auto``."""
    powers = tuple(2**k for k in range(13))
    return (
        None if text.strip() == "auto" else _parse_sizes(text, powers, "--batch-sizes", "8..32:8", "1,8,64")
    )


def _parse_sizes(text: str, ladder: tuple[int, ...], option: str, steps: str, listed: str) -> tuple[int, ...]:
    rungs = " ".join(map(str, ladder))
    usual = f"Write {ladder[0]}..{ladder[-1]} (of {rungs}), {steps} (in steps), or {listed}."
    found: set[int] = set()
    for part in map(str.strip, text.split(",")):
        match = _RANGE.fullmatch(part)
        if match is None:
            what, remedy = f"{part!r} is no size and no range", _meant(part) or usual
            raise UsageError(what, where=f"{option} {text}", remedy=remedy)
        first, last, step = (int(group) if group else None for group in match.groups())
        assert first is not None
        if last is None:
            sizes = {first}
        elif step is None:
            sizes = {size for size in ladder if first <= size <= last}
        else:
            sizes = set(range(first, last + 1, step)) if step else set()
        if not sizes or min(sizes) < 1:
            backwards = last is not None and first > last
            remedy = _meant(f"{first}-{last}") if backwards else usual
            raise UsageError(f"{part!r} names no size", where=f"{option} {text}", remedy=remedy)
        found |= sizes
    return tuple(sorted(found))


def _meant(part: str) -> str:
    """A guess at what a part that is no size was meant to say, or nothing."""
    if square := _SQUARE.fullmatch(part):
        return f"Inputs are square: did you mean {square[1]}?"
    if found := _NEARLY_RANGE.fullmatch(part):
        low, high = sorted((int(found[1]), int(found[2])))
        return f"Did you mean {low}..{high}{f':{found[3]}' if found[3] else ''}?"
    return ""
