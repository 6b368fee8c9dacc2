"""Paired tests: against scipy, enumeration and simulation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from climp_bench.errors import MetricError
from climp_bench.metrics.paired import (
    cluster_interval,
    detectable,
    holm,
    mcnemar,
    pair,
    paired_bootstrap,
    sign_flip,
    standard_error,
)

SIDES = ("two-sided", "less", "greater")


@given(st.integers(0, 80), st.integers(0, 80), st.sampled_from(SIDES))
def test_mcnemar_is_the_binomial_test_of_the_disagreeing_samples(gained: int, lost: int, side: str) -> None:
    expected = stats.binomtest(gained, gained + lost, 0.5, side).pvalue if gained + lost else 1.0
    assert mcnemar(gained, lost, side) == pytest.approx(expected, rel=1e-9)


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=9), st.sampled_from(SIDES))
def test_sign_flips_of_clusters_are_enumerated(totals: list[int], side: str) -> None:
    sums = [sum(s * t for s, t in zip(signs, totals, strict=True)) for signs in _signs(len(totals))]
    found = sum(totals)
    extreme = {
        "two-sided": [abs(s) >= abs(found) for s in sums],
        "less": [s <= found for s in sums],
        "greater": [s >= found for s in sums],
    }[side]
    assert sign_flip(totals, side) == pytest.approx(np.mean(extreme), abs=1e-12)


def _signs(n: int) -> itertools.product:
    return itertools.product((-1, 1), repeat=n)


def test_many_samples_stay_exact() -> None:
    assert mcnemar(25_400, 24_600) == pytest.approx(stats.binomtest(25_400, 50_000).pvalue, rel=1e-7)
    assert mcnemar(3000, 0) == pytest.approx(stats.binomtest(3000, 3000).pvalue, rel=1e-7, abs=1e-300)


def test_counts_and_effect_sizes() -> None:
    """Agresti 2013, chapter 11, approval of a prime minister in two surveys of 1600: -0.04, error 0.0095."""
    a = np.repeat([1, 1, 0, 0], [794, 150, 86, 570])
    b = np.repeat([1, 0, 1, 0], [794, 150, 86, 570])
    pairs = pair(a, b)
    assert (pairs.n, pairs.right_a, pairs.right_b, pairs.gained, pairs.lost) == (1600, 944, 880, 86, 150)
    assert pairs.difference == pytest.approx(-0.04)
    assert pairs.odds_ratio == pytest.approx(86 / 150)
    assert pairs.cohens_g == pytest.approx(86 / 236 - 0.5)
    assert standard_error(pairs) == pytest.approx(0.0095, abs=1e-4)
    alike = pair(a, a)
    assert alike.cohens_g is None and alike.odds_ratio is None and sign_flip(alike.totals) == 1.0


def test_bonett_and_price_is_the_interval_of_independent_samples() -> None:
    pairs = pair(np.repeat([1, 0, 0], [3, 9, 28]), np.repeat([0, 1, 0], [3, 9, 28]))
    up, down, n = 10 / 42, 4 / 42, 42
    half = 1.959963984540054 * np.sqrt((up + down - (up - down) ** 2) / n)
    interval = cluster_interval(pairs)
    assert (interval.low, interval.high) == (pytest.approx(up - down - half), pytest.approx(up - down + half))
    assert standard_error(pairs) == pytest.approx(half / 1.959963984540054)


def test_copies_of_a_sample_count_once_in_test_and_interval() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random(150) < 0.5, rng.random(150) < 0.55
    alone, copied = pair(a, b), pair(np.repeat(a, 10), np.repeat(b, 10), np.repeat(np.arange(150), 10))
    assert sign_flip(copied.totals) == pytest.approx(sign_flip(alone.totals))
    assert cluster_interval(copied).low == pytest.approx(cluster_interval(alone).low)
    assert detectable(copied) == pytest.approx(detectable(alone))
    assert cluster_interval(copied).method == "paired, by cluster"


def test_no_change_has_an_interval_and_a_detectable_difference_all_the_same() -> None:
    pairs = pair(np.ones(300), np.ones(300))
    interval = cluster_interval(pairs)
    assert -0.012 < interval.low < 0 < interval.high < 0.012
    assert 0 < detectable(pairs) < 0.02
    assert paired_bootstrap(np.ones(9), np.ones(9)).high == 0.0


def _pairs_of_models(
    rng: np.random.Generator, images: int, captions: int, gap: float, spread: float = 0.25
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Outcomes of two models: difficulty is shared by the captions of an image, B is better by ``gap``."""
    difficulty = rng.uniform(0.5 - spread, 0.5 + spread, images).repeat(captions)
    tastes = rng.uniform(-0.2, 0.2, (2, images)).repeat(captions, axis=1)
    a = rng.random(images * captions) < difficulty + tastes[0] - gap / 2
    b = rng.random(images * captions) < difficulty + tastes[1] + gap / 2
    return a, b, np.arange(images).repeat(captions)


@pytest.mark.parametrize("captions", [1, 5])
def test_false_alarms_come_at_the_nominal_rate(captions: int) -> None:
    """2,000 pairs of equally good models: between 3% and 7% have p < 0.05, for clusters and without."""
    rng, alarms = np.random.default_rng(captions), 0
    for _ in range(2000):
        a, b, images = _pairs_of_models(rng, 300, captions, 0.0)
        alarms += sign_flip(pair(a, b, images).totals) < 0.05
    assert 0.03 <= alarms / 2000 <= 0.07


def test_forgetting_the_clusters_would_raise_false_alarms() -> None:
    rng, alarms = np.random.default_rng(9), 0
    for _ in range(300):
        a, b, _ = _pairs_of_models(rng, 100, 10, 0.0)
        alarms += sign_flip(pair(a, b).totals) < 0.05
    assert alarms / 300 > 0.07


@pytest.mark.parametrize(("images", "captions", "gap"), [(400, 1, 0.1), (60, 1, 0.0), (150, 10, 0.05)])
def test_intervals_cover(images: int, captions: int, gap: float) -> None:
    rng, covered = np.random.default_rng(images), 0
    for _ in range(2000):
        a, b, owner = _pairs_of_models(rng, images, captions, gap)
        interval = cluster_interval(pair(a, b, owner))
        covered += interval.low <= gap <= interval.high
    assert 0.93 <= covered / 2000 <= 0.97


def test_the_bootstrap_agrees_with_the_interval_between_clusters() -> None:
    a, b, owner = _pairs_of_models(np.random.default_rng(3), 300, 5, 0.05)
    drawn, computed = paired_bootstrap(a, b, owner, seed=1), cluster_interval(pair(a, b, owner))
    assert drawn.low == pytest.approx(computed.low, abs=0.004)
    assert drawn.high == pytest.approx(computed.high, abs=0.004)
    assert drawn == paired_bootstrap(a, b, owner, seed=1)


@pytest.mark.parametrize("captions", [1, 5])
def test_a_detectable_difference_is_found_four_times_of_five(captions: int) -> None:
    rng = np.random.default_rng(4)
    gap = np.mean([detectable(pair(*_pairs_of_models(rng, 300, captions, 0.0))) for _ in range(50)])
    found = 0
    for _ in range(1000):
        found += sign_flip(pair(*_pairs_of_models(rng, 300, captions, gap)).totals) < 0.05
    assert found / 1000 == pytest.approx(0.8, abs=0.06)


def test_holm_known_values_and_order() -> None:
    """Holm 1979's procedure on p of 0.01, 0.04, 0.03, 0.005: as R's p.adjust prints it."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


def test_holm_keeps_false_alarms_of_a_family_below_alpha() -> None:
    p = np.random.default_rng(5).random((2000, 20))
    assert 0.03 <= np.mean([min(holm(row)) < 0.05 for row in p]) <= 0.06


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pair([], []), "empty"),
        (lambda: pair([1, 0], [1]), "lengths differ"),
        (lambda: pair([1, 2], [1, 0]), "booleans"),
        (lambda: pair([1, 0], [1, 0], [1]), "lengths differ"),
        (lambda: mcnemar(-1, 2), "negative"),
        (lambda: cluster_interval(pair([1], [0]), level=1.0), "strictly between"),
        (lambda: holm([0.5, 1.5]), "lie in"),
    ],
)
def test_outside_the_domain(call: object, message: str) -> None:
    with pytest.raises(MetricError, match=message):
        call()  # type: ignore[operator]
