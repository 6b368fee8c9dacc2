"""Intervals: known values, simulated coverage, clustering, seeds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from climp_bench.errors import MetricError
from climp_bench.metrics.uncertainty import bootstrap_mean, bootstrap_statistic, wilson


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_bounds_solve_its_quadratic(case: tuple[int, int]) -> None:
    """The bounds are where (share - p)^2 = z^2 p (1 - p) / n, Wilson's own definition."""
    successes, n = case
    interval, share = wilson(successes, n), successes / n
    assert 0 <= interval.low <= share <= interval.high <= 1
    for p in (interval.low, interval.high):
        assert (share - p) ** 2 == pytest.approx(1.959963984540054**2 * p * (1 - p) / n, abs=1e-9)


def test_wilson_known_value() -> None:
    """Newcombe 1998, table I: 81 of 263 gives 0.2553 to 0.3662."""
    interval = wilson(81, 263)
    assert (interval.low, interval.high) == (pytest.approx(0.2553, abs=5e-5), pytest.approx(0.3662, abs=5e-5))
    assert wilson(5, 10, level=0.99).low < wilson(5, 10).low


def test_wilson_covers() -> None:
    rng = np.random.default_rng(1)
    for p in (0.05, 0.5, 0.9):
        draws = rng.binomial(120, p, 2000)
        bounds = {s: wilson(int(s), 120) for s in np.unique(draws)}
        covered = np.mean([bounds[s].low <= p <= bounds[s].high for s in draws])
        assert covered == pytest.approx(0.95, abs=0.025)


def test_bootstrap_of_a_mean_is_the_normal_interval_for_many_samples() -> None:
    values = np.random.default_rng(2).normal(3.0, 2.0, 2000)
    interval = bootstrap_mean(values, draws=4000)
    half = 1.96 * values.std() / np.sqrt(2000)
    assert interval.low == pytest.approx(values.mean() - half, abs=0.15 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.15 * half)
    assert (interval.level, interval.method) == (0.95, "bootstrap")


def test_identical_captions_of_an_image_count_once() -> None:
    """Ten copies of each outcome, clustered, know as much as the originals, not ten times as much."""
    values = np.random.default_rng(3).random(100) < 0.6
    alone = bootstrap_mean(values, seed=5)
    clustered = bootstrap_mean(np.repeat(values, 10), np.repeat(np.arange(100), 10), seed=5)
    naive = bootstrap_mean(np.repeat(values, 10), seed=5)
    assert (clustered.low, clustered.high) == (pytest.approx(alone.low), pytest.approx(alone.high))
    assert clustered.method == "cluster bootstrap"
    assert naive.high - naive.low < 0.5 * (clustered.high - clustered.low)


def test_unequal_clusters_weigh_by_size_and_cover() -> None:
    rng, hits = np.random.default_rng(4), 0
    sizes = np.tile([1, 2, 9], 25)
    owner = np.repeat(np.arange(75), sizes)
    for trial in range(150):
        values = rng.normal(0, 1, 75)[owner] + rng.normal(0, 0.5, len(owner))
        interval = bootstrap_mean(values, owner, seed=trial, draws=300)
        hits += interval.low <= 0.0 <= interval.high
    assert 0.86 <= hits / 150 <= 0.99


def test_cluster_names_may_be_strings_and_seeds_repeat() -> None:
    values, names = [0.0, 1.0, 1.0, 0.5], ["b", "a", "b", "c"]
    first = bootstrap_mean(values, names, seed=1)
    assert first == bootstrap_mean(values, [7, 3, 7, 9], seed=1)
    big = np.random.default_rng(0).random(500)
    assert bootstrap_mean(big, seed=1) == bootstrap_mean(big, seed=1)
    assert bootstrap_mean(big, seed=1) != bootstrap_mean(big, seed=2)


def test_statistic_bootstrap_agrees_with_the_mean() -> None:
    values = np.random.default_rng(6).random(400)
    general = bootstrap_statistic(lambda i: float(values[i].mean()), 400, draws=2000)
    mean = bootstrap_mean(values, draws=2000)
    assert general.low == pytest.approx(mean.low, abs=0.004)
    assert general.high == pytest.approx(mean.high, abs=0.004)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: wilson(0, 0), "at least 1"),
        (lambda: wilson(3, 2), "3 successes of 2"),
        (lambda: wilson(1, 2, level=1.0), "strictly between"),
        (lambda: bootstrap_mean([]), "empty"),
        (lambda: bootstrap_mean([1.0]), "at least two independent"),
        (lambda: bootstrap_mean([1.0, 0.0], ["a", "a"]), "at least two independent"),
        (lambda: bootstrap_mean([1.0, np.nan]), "NaN"),
        (lambda: bootstrap_mean([1.0, 2.0], [1]), "lengths differ"),
        (lambda: bootstrap_mean([1.0, 2.0], draws=0), "at least 1"),
        (lambda: bootstrap_mean([1.0, 2.0], level=0.0), "strictly between"),
        (lambda: bootstrap_statistic(lambda i: float("nan"), 5, draws=3), "3 of 3 values are NaN"),
    ],
)
def test_outside_the_domain(call: object, message: str) -> None:
    with pytest.raises(MetricError, match=message):
        call()  # type: ignore[operator]
