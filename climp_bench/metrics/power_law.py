"""A power law through measured errors: y = factor * x ** exponent, a straight line between logarithms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from climp_bench.errors import MetricError
from climp_bench.metrics._checks import Floats, positive, real
from climp_bench.metrics.uncertainty import percentile_interval
from climp_bench.specs import Interval

LEAST_POINTS = 3
"""Two points lie on a line whatever the law is."""


@dataclass(frozen=True)
class PowerLaw:
    """A fitted law.

    Attributes:
        factor, exponent: of the law; an exponent below zero is an error that falls.
        interval: of the exponent; None where no point was measured more than once.
        lines_R2: logarithm of the factor, and exponent, of every bootstrap replicate; empty without.
    """

    factor: float
    exponent: float
    interval: Interval | None
    lines_R2: Floats = field(repr=False, compare=False)

    def at(self, x_K: ArrayLike) -> Floats:
        """The law's y at x."""
        found: Floats = self.factor * np.asarray(x_K, float) ** self.exponent
        return found

    def band(self, x_K: ArrayLike, level: float = 0.95) -> tuple[Floats, Floats] | None:
        """Where the laws of the replicates lie at x, low and high; None without replicates."""
        if not len(self.lines_R2):
            return None
        logs_RK = self.lines_R2[:, :1] + self.lines_R2[:, 1:] * np.log(np.asarray(x_K, float))[None]
        low, high = np.exp(np.quantile(logs_RK, [(1 - level) / 2, (1 + level) / 2], axis=0))
        return low, high


def fit_power_law(
    x_K: ArrayLike, y_KS: Sequence[Sequence[float]], *, seed: int = 0, draws: int = 2000, level: float = 0.95
) -> PowerLaw | None:
    """Least squares between logarithms, with a bootstrap over the runs at every x.

    Every run has the same weight. Runs are drawn again within their own x; with a handful of them the
    interval is too narrow rather than too wide.

    Args:
        x_K: where it was measured, above 0 and all different.
        y_KS: outcomes of the runs at each x, above 0, at least one.
        seed, draws, level: of the bootstrap and its percentile interval.

    Returns:
        None for fewer than ``LEAST_POINTS`` places.

    Raises:
        MetricError: a value is not above 0, or the numbers of places differ.
    """
    x = real("x_K", x_K, 1).astype(np.float64)
    if len(x) != len(y_KS) or not all(len(runs) for runs in y_KS):
        raise MetricError(f"{len(x)} places have outcomes of {len(y_KS)}", where="y_KS")
    runs = [real("y_KS", values, 1).astype(np.float64) for values in y_KS]
    if (x <= 0).any() or any((values <= 0).any() for values in runs) or len(set(x)) < len(x):
        raise MetricError("a power law needs places and outcomes above 0, places all different", where="x, y")
    positive("draws", draws)
    if len(x) < LEAST_POINTS:
        return None
    at_N = np.repeat(np.log(x), [len(values) for values in runs])
    offset, exponent = _line(at_N, np.log(np.concatenate(runs))[None])[0]
    if max(map(len, runs)) < 2:
        return PowerLaw(math.exp(offset), float(exponent), None, np.empty((0, 2)))
    random = np.random.default_rng(seed)
    drawn_RN = np.concatenate(
        [values[random.integers(0, len(values), (draws, len(values)))] for values in runs], axis=1
    )
    lines_R2 = _line(at_N, np.log(drawn_RN))
    interval = percentile_interval(lines_R2[:, 1], level, "bootstrap over runs")
    return PowerLaw(math.exp(offset), float(exponent), interval, lines_R2)


def _line(at_N: Floats, logs_RN: Floats) -> Floats:
    """Offset and slope of each row, (R, 2)."""
    centred = at_N - at_N.mean()
    slopes = logs_RN @ centred / (centred @ centred)
    found: Floats = np.stack([logs_RN.mean(axis=1) - slopes * at_N.mean(), slopes], axis=1)
    return found
