"""Means over runs of one experiment with different seeds: intervals of training, not of the test set."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import ArrayLike

from climp_bench.metrics._checks import real
from climp_bench.specs import Interval

_GRID = 20_001
_ROUNDING = 1e-12


def t_interval(
    values_N: ArrayLike, level: float = 0.95, *, least: float = -math.inf, most: float = math.inf
) -> Interval | None:
    """Student's interval of a mean of N independent runs, taken as normal.

    None for fewer than two, and for runs that all came out alike: their spread is unknown, not nought.

    Args:
        values_N: one outcome a run; differences between two runs of one seed for a paired interval.
        level: coverage, in (0, 1).
        least, most: where the interval is cut, for means that can be no smaller or larger.

    Raises:
        MetricError: a value is not finite.

    Source: Student 1908.
    """
    values = real("values_N", values_N, 1).astype(np.float64)
    spread = values.std(ddof=1) if len(values) > 1 else 0.0
    if spread <= _ROUNDING * np.abs(values).max(initial=0.0):
        return None
    half = t_quantile(len(values) - 1, (1 + level) / 2) * spread / math.sqrt(len(values))
    low, high = float(values.mean() - half), float(values.mean() + half)
    return Interval(max(least, low), min(most, high), level, "t over seeds")


@cache
def t_quantile(freedom: int, q: float) -> float:
    """The value that Student's t with ``freedom`` degrees lies below with probability ``q``, 0.5 < q < 1."""
    low, high = 0.0, 1.0
    while _t_cdf(high, freedom) < q:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_cdf(middle, freedom) < q else (low, middle)
    return (low + high) / 2


def _t_cdf(t: float, freedom: int) -> float:
    """By t = sqrt(freedom) tan(a), which makes the density a power of a cosine."""
    angles = np.linspace(0, math.atan(t / math.sqrt(freedom)), _GRID)
    powers = np.cos(angles) ** (freedom - 1)
    area = float(((powers[1:] + powers[:-1]) / 2).sum() * (angles[1] - angles[0]))
    norm = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi)
    return 0.5 + norm * area
