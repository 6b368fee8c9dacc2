"""The median's interval against its exact coverage, by enumeration."""

from __future__ import annotations

import math

import pytest

from climp_bench.errors import MetricError
from climp_bench.metrics.timing import P95_NEEDS, median, median_interval, p95


def coverage(n: int, low: int, high: int) -> float:
    """Chance that the true median lies between the low-th and the high-th smallest of n, ranks from 0.

    Each observation is below it with chance 1/2, so it does where more than ``low`` and at most ``high`` are.
    """
    return sum(math.comb(n, below) for below in range(low + 1, high + 1)) / 2**n


@pytest.mark.parametrize("n", [6, 7, 12, 20, 200])
def test_the_interval_of_the_median_covers_and_is_the_narrowest_symmetric_one(n: int) -> None:
    interval = median_interval(list(reversed(range(n))))
    assert interval is not None
    low, high = int(interval.low), int(interval.high)
    assert low == n - 1 - high
    assert coverage(n, low, high) >= 0.95 > coverage(n, low + 1, high - 1)
    assert interval.low <= median(range(n)) <= interval.high


def test_few_times_have_no_interval() -> None:
    assert median_interval([3.0]) is None and median_interval(range(5)) is None


def test_the_95th_percentile_is_an_observation_that_one_in_twenty_exceeds() -> None:
    assert p95([*range(P95_NEEDS - 1), 1000]) == P95_NEEDS - 2
    assert p95(range(1, 101)) == 95


def test_outside_the_domain() -> None:
    with pytest.raises(MetricError, match="takes 20 repetitions, there were 19"):
        p95(range(19))
    with pytest.raises(MetricError):
        median([])
    with pytest.raises(MetricError, match="NaN"):
        median_interval([1.0, float("nan")])
