"""Patterns inside objects and behind them: masks in [0, 1] that mix a second colour in."""

from __future__ import annotations

import numpy as np

from climp_bench.data.scenes.rng import Stream
from climp_bench.data.scenes.sdf import COS, F32, SIN, clip01, cover, length

_RIM = 0.24
_LATTICE = 6


def _stripes(a: F32, period: float, share: float, px: float) -> F32:
    """Soft stripes across ``a``; ``share`` of each period is 1, edges one pixel wide (``px`` a unit)."""
    phase = a * (1 / period)
    phase = phase - np.floor(phase)
    return cover((np.abs(phase - 0.5) - share / 2) * (period * px))


def _dots(x: F32, y: F32, period: float, px: float) -> F32:
    u, v = x * (1 / period), y * (1 / period)
    r = length(u - np.floor(u) - 0.5, v - np.floor(v) - 0.5)
    return cover((r - 0.31) * (period * px))


def pattern(kind: str, x: F32, y: F32, period: float, px: float, seed: int) -> F32:
    """The mask of a repeating pattern: ``striped``, ``dotted``, ``checkered`` or ``crosshatched``.

    Args:
        kind: which.
        x, y: coordinates, broadcastable to (h, w).
        period: of the pattern, in the unit of ``x`` and ``y``.
        px: pixels in one unit.
        seed: direction and phase.

    Returns:
        (h, w) float32 in [0, 1].
    """
    s = Stream(seed)
    x, y = x + s.uniform(0.0, period), y + s.uniform(0.0, period)
    if kind == "striped":
        angle = s.choice((0, 45, 90, 135))
        return _stripes(x * COS[angle] + y * SIN[angle], period, 0.5, px)
    if kind == "dotted":
        return _dots(x, y, period, px)
    if kind == "checkered":
        a, b = _stripes(x, 2 * period, 0.5, px), _stripes(y, 2 * period, 0.5, px)
        return a + b - 2.0 * a * b
    diagonal, period = COS[45], 1.3 * period
    a, b = (x + y) * diagonal, (x - y) * diagonal
    return np.maximum(_stripes(a, period, 0.3, px), _stripes(b, period, 0.3, px))


def object_mask(texture: str, x: F32, y: F32, depth: F32, px: float, seed: int) -> F32 | None:
    """Where an object shows its second colour; ``None`` if nowhere.

    Args:
        texture: a word of ``TEXTURES``.
        x, y: local coordinates (h, w), the object within [-1, 1]^2.
        depth: signed distance in pixels (h, w).
        px: pixels in one unit of ``x`` and ``y``.
        seed: direction and phase.
    """
    if texture == "plain":
        return None
    if texture == "shaded":
        return clip01(x * 0.225 + y * 0.375 + 0.5)
    if texture == "rimmed":
        return clip01(depth + (_RIM * px + 0.5))
    return pattern(texture, x, y, 0.44, px, seed)


def background_mask(kind: str, x: F32, y: F32, height: int, width: int, seed: int) -> F32:
    """Where a background that is not plain shows its second colour.

    Args:
        kind: a word of ``BACKGROUND_KINDS`` other than ``"plain"``.
        x, y: pixel centres (1, W) and (h, 1).
        height, width: of the whole picture.
        seed: direction, period and phase.
    """
    s = Stream(seed)
    if kind == "gradient":
        across, down = s.choice(((0.0, 1.0), (1.0, 0.0), (0.5, 0.5), (-0.5, 0.5)))
        return clip01(x * (across / width) + y * (down / height) + (0.5 if across < 0 else 0.0))
    if kind == "mottled":
        return _mottled(x * ((_LATTICE - 1) / width), y * ((_LATTICE - 1) / height), s)
    px = float(min(height, width))
    return pattern(kind, x * (1 / px), y * (1 / px), s.uniform(0.1, 0.22), px, seed)


def _mottled(x: F32, y: F32, s: Stream) -> F32:
    """Value noise, bilinear between hashed values; ``x`` (1, w) and ``y`` (h, 1) in lattice cells."""
    lattice = np.array([s.unit() for _ in range(_LATTICE * _LATTICE)], dtype=np.float32)
    lattice = lattice.reshape(_LATTICE, _LATTICE)
    column, row = np.floor(x).astype(np.intp), np.floor(y).astype(np.intp)
    fx, fy = x - np.floor(x), y - np.floor(y)
    upper, lower = lattice[row[:, 0]], lattice[row[:, 0] + 1]
    rows: F32 = upper + (lower - upper) * fy
    left, right = rows[:, column[0]], rows[:, column[0] + 1]
    mixed: F32 = left + (right - left) * fx
    return mixed
