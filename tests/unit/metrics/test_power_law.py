"""A power law is found where there is one, with an interval that covers it, else refused."""

from __future__ import annotations

import numpy as np
import pytest

from climp_bench.errors import MetricError
from climp_bench.metrics.power_law import fit_power_law

X = (100.0, 200.0, 400.0, 800.0, 1600.0)


def noisy(seed: int, runs: int = 8) -> list[list[float]]:
    random = np.random.default_rng(seed)
    return [list(3 * x**-0.25 * np.exp(random.normal(0, 0.1, runs))) for x in X]


def test_an_exact_law_is_found_without_width() -> None:
    law = fit_power_law(X, [[3 * x**-0.25] * 2 for x in X])
    assert law is not None and law.interval is not None
    assert law.factor == pytest.approx(3) and law.exponent == pytest.approx(-0.25)
    assert (law.interval.low, law.interval.high) == pytest.approx((-0.25, -0.25))
    assert law.at([1e4]) == pytest.approx([0.3])
    band = law.band([1e4])
    assert band is not None and band[0] == pytest.approx([0.3]) and band[1] == pytest.approx([0.3])


def test_the_line_is_that_of_polyfit() -> None:
    y = [[2.0], [1.5, 1.7], [1.2], [0.9, 0.8, 1.1], [0.6]]
    law = fit_power_law(X, y)
    at = [x for x, runs in zip(X, y, strict=True) for _ in runs]
    slope, offset = np.polyfit(np.log(at), np.log([value for runs in y for value in runs]), 1)
    assert law is not None and law.exponent == pytest.approx(slope)
    assert law.factor == pytest.approx(np.exp(offset))


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    laws = [fit_power_law(X, noisy(seed), draws=400) for seed in range(200)]
    inside = [law.interval.low < -0.25 < law.interval.high for law in laws if law and law.interval]
    assert len(inside) == 200 and 0.85 < np.mean(inside) < 0.98
    law = laws[0]
    assert law is not None
    band = law.band(X)
    assert band is not None and (band[0] < law.at(X)).all() and (law.at(X) < band[1]).all()


def test_too_few_places_or_runs() -> None:
    assert fit_power_law(X[:2], [[1.0, 1.1], [0.5, 0.6]]) is None
    law = fit_power_law(X[:3], [[1.0], [0.5], [0.25]])
    assert law is not None and law.interval is None and law.band(X) is None
    assert law.exponent == pytest.approx(-1)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (X[:3], [[1.0], [0.0], [1.0]]),
        ((0.0, 1.0, 2.0), [[1.0], [1.0], [1.0]]),
        ((1.0, 1.0, 2.0), [[1.0], [1.0], [1.0]]),
        (X[:3], [[1.0], [1.0]]),
        (X[:3], [[1.0], [], [1.0]]),
        (X[:3], [[1.0], [np.nan], [1.0]]),
    ],
)
def test_what_has_no_logarithm_is_refused(x: tuple[float, ...], y: list[list[float]]) -> None:
    with pytest.raises(MetricError):
        fit_power_law(x, y)
