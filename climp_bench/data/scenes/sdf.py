"""Signed distances: negative inside, positive outside, zero on the outline.

A form maps local coordinates (x to the right, y down, the form inside [-1, 1]^2) to distances in the same
unit. Arithmetic is float32 and elementwise with + - * / sqrt min max abs only: those are exact in IEEE 754,
so the result does not depend on the machine. Trigonometry comes from a table rounded to nine digits.
Distance formulas are plane geometry; Inigo Quilez's "2D distance functions" article collects many.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.floating[Any]]  # float32 when run; numpy's stubs widen float32 times float
Form = Callable[[F32, F32], F32]
Point = tuple[float, float]

COS: tuple[float, ...] = tuple(round(math.cos(math.radians(d)), 9) for d in range(360))
SIN: tuple[float, ...] = tuple(round(math.sin(math.radians(d)), 9) for d in range(360))


def clip01(a: F32) -> F32:
    """``a`` limited to [0, 1]."""
    return np.minimum(np.maximum(a, 0.0), 1.0)


def cover(distance: F32) -> F32:
    """How much of a pixel is inside, from the signed distance of its centre in pixels: the antialiasing."""
    return clip01(-(distance - 0.5))


def length(x: F32, y: F32) -> F32:
    """Euclidean length of the vectors (x, y)."""
    return np.sqrt(x * x + y * y)


def disc(cx: float, cy: float, r: float) -> Form:
    """A filled circle."""

    def form(x: F32, y: F32) -> F32:
        return length(x - cx, y - cy) - r

    return form


def ellipse(cx: float, cy: float, rx: float, ry: float) -> Form:
    """A filled ellipse; the distance is exact on the outline and first-order near it."""

    def form(x: F32, y: F32) -> F32:
        px, py = (x - cx) * (1 / rx), (y - cy) * (1 / ry)
        k = length(px, py)
        slope = length(px * (1 / rx), py * (1 / ry))
        # k / slope lies between the radii; the floor matters at the centre only, where both vanish.
        reach: F32 = np.maximum(k / np.maximum(slope, 1e-6), min(rx, ry))
        return (k - 1.0) * reach

    return form


def polygon(*points: Point) -> Form:
    """A filled simple polygon, its exact distance. Vertices in order, either direction."""
    ends = points[1:] + points[:1]
    start_x, start_y, edge_x, edge_y, inverse = (
        np.array(column, dtype=np.float32)[:, None, None]
        for column in zip(
            *(
                (ax, ay, bx - ax, by - ay, 1 / ((bx - ax) * (bx - ax) + (by - ay) * (by - ay)))
                for (ax, ay), (bx, by) in zip(points, ends, strict=True)
            ),
            strict=True,
        )
    )

    def form(x: F32, y: F32) -> F32:
        px, py = x - start_x, y - start_y
        along = clip01((px * edge_x + py * edge_y) * inverse)
        dx, dy = px - edge_x * along, py - edge_y * along
        distance: F32 = np.sqrt(np.minimum.reduce(dx * dx + dy * dy, axis=0))
        # Even-odd rule on a ray to the right: an edge is crossed if its ends lie on either side of the ray's
        # height and the point lies to its left.
        below = y >= start_y
        left = (edge_x * py - edge_y * px > 0) == below
        crossed = (below != np.roll(below, -1, axis=0)) & left
        return np.where(np.logical_xor.reduce(crossed, axis=0), -distance, distance)

    return form


def box(left: float, top: float, right: float, bottom: float) -> Form:
    """A filled upright rectangle."""
    cx, cy, half_x, half_y = (left + right) / 2, (top + bottom) / 2, (right - left) / 2, (bottom - top) / 2

    def form(x: F32, y: F32) -> F32:
        dx, dy = np.abs(x - cx) - half_x, np.abs(y - cy) - half_y
        inside: F32 = np.minimum(np.maximum(dx, dy), 0.0)
        return length(np.maximum(dx, 0.0), np.maximum(dy, 0.0)) + inside

    return form


def turned(form: Form, degrees: int) -> Form:
    """``form`` turned clockwise about the origin."""
    c, s = COS[degrees % 360], SIN[degrees % 360]
    return lambda x, y: form(x * c + y * s, y * c - x * s)


def union(*forms: Form) -> Form:
    """Everything in any of the forms."""

    def form(x: F32, y: F32) -> F32:
        distance = forms[0](x, y)
        for other in forms[1:]:
            distance = np.minimum(distance, other(x, y))
        return distance

    return form


def minus(one: Form, other: Form) -> Form:
    """What is in ``one`` and not in ``other``."""
    return lambda x, y: np.maximum(one(x, y), -other(x, y))


def upper(form: Form, y_max: float) -> Form:
    """The part of ``form`` above the line ``y = y_max``."""
    return lambda x, y: np.maximum(form(x, y), y - y_max)


def lower(form: Form, y_min: float) -> Form:
    """The part of ``form`` below the line ``y = y_min``."""
    return lambda x, y: np.maximum(form(x, y), y_min - y)


def band(form: Form, half_width: float) -> Form:
    """A band of the given half width that runs inside the outline of ``form``."""
    return lambda x, y: np.abs(form(x, y) + half_width) - half_width


def shrunk(form: Form, factor: float, cx: float, cy: float) -> Form:
    """``form`` scaled by ``factor`` about (cx, cy)."""
    return lambda x, y: form((x - cx) * (1 / factor) + cx, (y - cy) * (1 / factor) + cy) * factor


def regular(n: int, radii: Sequence[float], start: int) -> tuple[Point, ...]:
    """``n`` points around the origin, clockwise from ``start`` degrees, on the given radii in turn."""
    angles = [(start + 360 * i // n) % 360 for i in range(n)]
    cycle = [radii[i % len(radii)] for i in range(n)]
    return tuple((r * COS[a], r * SIN[a]) for r, a in zip(cycle, angles, strict=True))
