from __future__ import annotations

import numpy as np
import pytest

from climp_bench.errors import MetricError
from climp_bench.metrics.seeds import t_interval, t_quantile


@pytest.mark.parametrize(
    ("freedom", "q", "expected"),
    [(1, 0.975, 12.7062), (2, 0.975, 4.3027), (4, 0.975, 2.7764), (9, 0.995, 3.2498), (30, 0.975, 2.0423)],
)
def test_quantiles_are_those_of_the_tables(freedom: int, q: float, expected: float) -> None:
    assert t_quantile(freedom, q) == pytest.approx(expected, abs=2e-4)


def test_interval_of_a_mean() -> None:
    interval = t_interval([1.0, 2.0, 3.0])
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx(
        (2 - 4.3027 / 3**0.5, 2 + 4.3027 / 3**0.5), abs=1e-3
    )
    assert t_interval([1.0]) is None and t_interval([0.3, 0.1 + 0.2, 0.3]) is None
    with pytest.raises(MetricError):
        t_interval([1.0, np.nan])


def test_it_covers_as_often_as_it_says() -> None:
    draws = np.random.default_rng(0).normal(5.0, 2.0, (2000, 4))
    found = [interval for row in draws if (interval := t_interval(row)) is not None]
    assert np.mean([i.low <= 5.0 <= i.high for i in found]) == pytest.approx(0.95, abs=0.015)
