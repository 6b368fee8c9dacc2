"""Digits and letters from our own stroke skeletons, in several fonts and a hashed handwriting.

A skeleton is written on a lattice 12 wide and 20 high, y down: strokes parted by ``;``, points by blanks; a
stroke that starts with ``~`` is a smooth curve through its points (Catmull-Rom), any other is straight.
Where a character has several skeletons, fonts use the first and handwriting any of them.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np

from climp_bench.data.scenes.rng import Stream
from climp_bench.data.scenes.sdf import F32, Point

_SKELETONS: dict[str, tuple[str, ...]] = {
    "0": ("~6,0 2,3 1,10 2,17 6,20 10,17 11,10 10,3 6,0", "~7,0 2,4 0,11 3,18 7,20 11,16 12,8 10,2 7,0 4,2"),
    "1": ("2,5 7,0 7,20", "6,0 6,20", "2,5 6,0 6,20;2,20 10,20", "8,0 4,20"),
    "2": (
        "~1,5 3,1 7,0 11,3 10,8 5,14 0,20;0,20 12,20",
        "~1,4 5,0 10,2 10,8 5,16 1,19 0,16 4,15 8,19 13,18",
        "~1,3 6,0 10,4 8,11 1,19;~1,19 6,18 13,20",
    ),
    "3": (
        "~1,3 4,0 9,1 11,5 9,8.5 5,9.5;~5,9.5 10,11 12,15 9,19 4,20 0,17",
        "1,0 11,0 5,8;~5,8 10,10 12,14 9,19 4,20 0,17",
        "~1,2 6,0 10,4 5,9 4,9.5 6,9.5 11,14 7,20 0,18",
    ),
    "4": ("9,20 9,0 0,14 12,14", "2,0 1,11 12,11;10,2 9,20", "~3,0 1,6 1,10 5,11 11,10;10,1 9,20"),
    "5": (
        "11,0 2,0 1,9;~1,9 6,7 11,9 12,14 9,19 4,20 0,17",
        "3,1 2,8;~2,8 8,8 11,13 7,19 0,19;3,1 12,0",
    ),
    "6": (
        "~10,1 5,4 1,10 0,15 3,19 7,20 11,17 11,12 8,9 4,10 1,13",
        "~8,0 3,6 1,13 3,19 8,19 10,14 7,11 3,13 2,16",
    ),
    "7": ("0,0 12,0 4,20", "0,0 12,0 5,20;3,10 11,10", "~0,2 4,1 11,0 9,7 5,20"),
    "8": (
        "~6,9 2,7 1,3 6,0 11,3 10,7 6,9 1,12 0,16 6,20 12,16 11,12 6,9",
        "~10,2 6,0 2,3 4,8 9,12 9,17 5,20 1,17 3,12 9,7 11,3 10,2",
    ),
    "9": (
        "~2,19 7,16 11,10 12,5 9,1 5,0 1,3 1,8 4,11 8,10 11,7",
        "~10,3 6,0 1,3 1,8 5,10 9,7 10,3;10,3 9,20",
        "~11,4 6,0 1,4 3,9 8,8 11,4 11,10 8,20",
    ),
    "A": ("0,20 6,0 12,20;2,13 10,13",),
    "B": ("1,20 1,0;~1,0 7,0 10,3 9,8 6,9.5 1,9.5;~1,9.5 8,10 12,14 10,19 6,20 1,20",),
    "C": ("~12,4 9,0.5 5,0.5 1,5 0,10 1,15 5,19.5 9,19.5 12,16",),
    "D": ("1,0 1,20;~1,0 6,0 11,4 12,10 11,16 6,20 1,20",),
    "E": ("11,0 1,0 1,20 11,20;1,10 9,10",),
    "F": ("11,0 1,0 1,20;1,10 9,10",),
    "G": ("~12,4 9,0.5 5,0.5 1,5 0,10 1,15 5,19.5 9,19.5 12,16;12,16 12,11 7,11",),
    "H": ("1,0 1,20;11,0 11,20;1,10 11,10",),
    "I": ("6,0 6,20;2,0 10,0;2,20 10,20",),
    "J": ("9,0 9,14;~9,14 8,18 5,20 2,18 1,14;5,0 12,0",),
    "K": ("1,0 1,20;11,0 1,12;4,9 12,20",),
    "L": ("1,0 1,20 11,20",),
    "M": ("0,20 0,0 6,12 12,0 12,20",),
    "N": ("1,20 1,0 11,20 11,0",),
    "O": ("~6,0 1,2 -2,10 1,18 6,20 11,18 14,10 11,2 6,0",),
    "P": ("1,20 1,0;~1,0 8,0 12,3 11,8 7,11 1,11",),
    "Q": ("~6,0 1,2 -2,10 1,18 6,20 11,18 14,10 11,2 6,0;8,14 14,21",),
    "R": ("1,20 1,0;~1,0 8,0 11,3 10,8 7,10 1,10;6,10 12,20",),
    "S": ("~11,4 9,0.5 4,0 1,3 2,8 6,10 10,12 12,16 8,20 3,19.5 0,16",),
    "T": ("0,0 12,0;6,0 6,20",),
    "U": ("1,0 1,13;~1,13 2,18 6,20 10,18 11,13;11,13 11,0",),
    "V": ("0,0 6,20 12,0",),
    "W": ("-1,0 3,20 6,7 9,20 13,0",),
    "X": ("0,0 12,20;12,0 0,20",),
    "Y": ("0,0 6,10 12,0;6,10 6,20",),
    "Z": ("0,0 12,0 0,20 12,20",),
}

_CURVE_STEPS = 3
_SERIF = 0.2
_SLANT = 0.28
_GLYPH_SCALE = 0.86

Stroke = tuple[bool, tuple[Point, ...]]


@cache
def _skeleton(char: str, variant: int) -> tuple[Stroke, ...]:
    """The strokes of a character as (smooth, points), in local coordinates (y down, height 2)."""
    strokes: list[Stroke] = []
    for text in _SKELETONS[char][variant].split(";"):
        pairs = (point.split(",") for point in text.lstrip("~").split())
        points = tuple(((float(x) - 6.0) / 10.0, (float(y) - 10.0) / 10.0) for x, y in pairs)
        strokes.append((text.startswith("~"), points))
    return tuple(strokes)


def _curve(points: tuple[Point, ...]) -> tuple[Point, ...]:
    """A Catmull-Rom spline through ``points`` (closed if the ends meet), as a polyline."""
    closed = points[0] == points[-1]
    before = points[-2] if closed else points[0]
    after = points[1] if closed else points[-1]
    padded = (before, *points, after)
    out = [points[0]]
    for i in range(len(points) - 1):
        (ax, ay), (bx, by), (cx, cy), (dx, dy) = padded[i : i + 4]
        for step in range(1, _CURVE_STEPS + 1):
            t = step / _CURVE_STEPS
            s = t * t
            a, b = (2 * s - t - s * t) / 2, (2 - 5 * s + 3 * s * t) / 2
            c, d = (t + 4 * s - 3 * s * t) / 2, (s * t - s) / 2
            out.append((a * ax + b * bx + c * cx + d * dx, a * ay + b * by + c * cy + d * dy))
    return tuple(out)


def _segments(strokes: tuple[Stroke, ...], slant: float, widen: float) -> F32:
    """Line segments (S, 4) of x0 y0 x1 y1, sheared by ``slant`` and stretched sideways by ``widen``."""
    rows: list[tuple[float, float, float, float]] = []
    for smooth, points in strokes:
        line = _curve(points) if smooth else points
        moved = [((x * widen - y * slant) * _GLYPH_SCALE, y * _GLYPH_SCALE) for x, y in line]
        rows.extend((*a, *b) for a, b in pairwise(moved))
    return np.array(rows, dtype=np.float32)


def _with_serifs(strokes: tuple[Stroke, ...]) -> tuple[Stroke, ...]:
    """The strokes and a short bar across every stroke end on the top or base line."""
    ends = {p for smooth, points in strokes if not smooth for p in (points[0], points[-1])}
    serifs = [(False, ((x - _SERIF, y), (x + _SERIF, y))) for x, y in sorted(ends) if abs(y) == 1.0]
    return (*strokes, *serifs)


@cache
def _printed(char: str, font: str) -> F32:
    strokes = _skeleton(char, 0)
    if font == "slab":
        strokes = _with_serifs(strokes)
    if font == "angular":
        strokes = tuple((False, points) for _, points in strokes)
    return _segments(strokes, _SLANT if font == "slanted" else 0.0, 1.0)


def _handwritten(char: str, seed: int) -> F32:
    s = Stream(seed)
    strokes = _skeleton(char, s.below(len(_SKELETONS[char])))
    slant, widen = s.uniform(-0.12, 0.34), s.uniform(0.72, 1.2)
    moved: dict[Point, Point] = {}
    for _, points in strokes:
        for x, y in points:
            if (x, y) not in moved:
                moved[x, y] = (x + s.uniform(-0.09, 0.09), y + s.uniform(-0.09, 0.09))
    shaken = tuple((smooth, tuple(moved[p] for p in points)) for smooth, points in strokes)
    return _segments(shaken, slant, widen)


def glyph_segments(char: str, font: str, seed: int) -> F32:
    """The line segments of a digit or capital letter.

    Args:
        char: one of ``DIGITS`` or ``LETTERS``.
        font: one of ``FONTS``; only ``"handwritten"`` reads ``seed``.
        seed: which hand, slant and variant.

    Returns:
        (S, 4) float32, each row x0 y0 x1 y1 in local coordinates, about [-0.7, 0.7] x [-0.95, 0.95], y down.
    """
    return _handwritten(char, seed) if font == "handwritten" else _printed(char, font)


def stroke_distance(segments: F32, x: F32, y: F32, reach: float) -> F32:
    """Distance from each pixel to the nearest segment, correct up to ``reach`` and ``reach`` beyond.

    Args:
        segments: (S, 4), in the unit of ``x`` and ``y``.
        x, y: pixel centres (w,) and (h,), one apart and ascending.
        reach: how far from a segment distances matter.

    Returns:
        (h, w) float32.
    """
    squared = np.full((y.size, x.size), reach * reach, dtype=np.float32)
    left, top = float(x[0]), float(y[0])
    for x0, y0, x1, y1 in segments.tolist():
        i0, i1 = _window(min(x0, x1) - reach - left, max(x0, x1) + reach - left, x.size)
        j0, j1 = _window(min(y0, y1) - reach - top, max(y0, y1) + reach - top, y.size)
        if i0 >= i1 or j0 >= j1:
            continue
        px, py = x[i0:i1] - x0, (y[j0:j1] - y0)[:, None]
        ex, ey = x1 - x0, y1 - y0
        norm = ex * ex + ey * ey
        scale = 1.0 / norm if norm > 0.0 else 0.0
        along = px * (ex * scale) + py * (ey * scale)
        np.maximum(along, 0.0, out=along)
        np.minimum(along, 1.0, out=along)
        dx = px - along * ex
        dy = py - along * ey
        dx *= dx
        dy *= dy
        dx += dy
        near = squared[j0:j1, i0:i1]
        np.minimum(near, dx, out=near)
    return np.sqrt(squared)


def _window(low: float, high: float, size: int) -> tuple[int, int]:
    """The whole indices within [low, high], cut to [0, size)."""
    return max(int(low), 0), min(int(high + 2.0), size) if high >= 0.0 else 0
