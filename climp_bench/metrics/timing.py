"""What repeated timings say: the median with a distribution-free interval, and the 95th percentile."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from climp_bench.errors import MetricError
from climp_bench.metrics._checks import Floats, real
from climp_bench.specs import Interval

P95_NEEDS = 20
"""Fewer repetitions than this have no observation beyond the 95th percentile: it would be the maximum."""


def median(times_N: ArrayLike) -> float:
    """The median of at least one time. Raises ``MetricError`` if there is none, or one is not finite."""
    return float(np.median(_times(times_N)))


def median_interval(times_N: ArrayLike, level: float = 0.95) -> Interval | None:
    """A confidence interval of the median from order statistics; None if there are too few for it.

    With k the largest rank such that ``P(Binomial(N, 1/2) < k) <= (1 - level) / 2``, the interval runs from
    the k-th smallest to the k-th largest. It assumes independent repetitions and no distribution. At 95% it
    takes N >= 6.

    Raises:
        MetricError: no time, or one that is not finite.

    Source: David and Nagaraja, "Order Statistics" (2003), section 7.1.
    """
    times = np.sort(_times(times_N))
    n = len(times)
    tail, rank = 0.0, 0
    while rank < n:
        tail += math.comb(n, rank) / 2**n
        if tail > (1 - level) / 2:
            break
        rank += 1
    if rank == 0:
        return None
    return Interval(float(times[rank - 1]), float(times[n - rank]), level, "order statistics of the median")


def p95(times_N: ArrayLike) -> float:
    """The 95th percentile, nearest rank.

    Raises:
        MetricError: fewer than ``P95_NEEDS`` times, or one that is not finite.
    """
    times = np.sort(_times(times_N))
    if len(times) < P95_NEEDS:
        raise MetricError(f"a 95th percentile takes {P95_NEEDS} repetitions, there were {len(times)}")
    return float(times[math.ceil(0.95 * len(times)) - 1])


def _times(times_N: ArrayLike) -> Floats:
    times = real("times_N", times_N, 1)
    if not len(times):
        raise MetricError("no time was measured", where="times_N")
    return times
