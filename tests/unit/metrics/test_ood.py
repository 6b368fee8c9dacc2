"""Detection measures against scikit-learn, scipy and definitions spelt out pair by pair, ties included."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from climp_bench.errors import MetricError
from climp_bench.metrics import ood
from climp_bench.metrics.uncertainty import combine, wilson
from climp_bench.specs import Interval

few = st.integers(-3, 3).map(float)
any_real = st.floats(-1e3, 1e3, width=32)
scores = st.lists(few, min_size=1, max_size=12) | st.lists(any_real, min_size=1, max_size=12)


def brute(inside: list[float], outside: list[float]) -> dict[str, float]:
    """AUROC over pairs, FPR over thresholds, average precision over thresholds."""
    wins = [(a > b) + 0.5 * (a == b) for a in inside for b in outside]
    accepted = [
        (np.mean([b >= t for b in outside]), t)
        for t in set(inside) | set(outside)
        if np.mean([a >= t for a in inside]) >= 0.95 - 1e-12
    ]

    def precision(positive: list[float], negative: list[float]) -> float:
        total, before = 0.0, 0.0
        for t in sorted({*positive, *negative}, reverse=True):
            hits, wrong = sum(p >= t for p in positive), sum(x >= t for x in negative)
            recall = hits / len(positive)
            total += (recall - before) * hits / (hits + wrong)
            before = recall
        return total

    return {
        "auroc": float(np.mean(wins)),
        "aupr_in": precision(inside, outside),
        "aupr_out": precision([-b for b in outside], [-a for a in inside]),
        "fpr95": float(min(rate for rate, _ in accepted)),
    }


@given(scores, scores)
def test_measures_equal_scikit_learn_and_the_definitions(inside: list[float], outside: list[float]) -> None:
    found = ood.detection(inside, outside)
    expected = brute(inside, outside)
    for name in ood.MEASURES:
        assert getattr(found, name) == pytest.approx(expected[name], abs=1e-12), name
    labels = np.array([1] * len(inside) + [0] * len(outside))
    both = np.array(inside + outside)
    assert found.auroc == pytest.approx(roc_auc_score(labels, both), abs=1e-12)
    assert found.aupr_in == pytest.approx(average_precision_score(labels, both), abs=1e-12)
    assert found.aupr_out == pytest.approx(average_precision_score(1 - labels, -both), abs=1e-12)
    false, true, _ = roc_curve(labels, both, drop_intermediate=False)
    assert found.fpr95 == pytest.approx(false[true >= 0.95 - 1e-12].min(), abs=1e-12)


@given(scores, scores, st.integers(0, 99))
def test_only_the_order_of_the_confidence_matters(
    inside: list[float], outside: list[float], seed: int
) -> None:
    found = ood.detection(inside, outside)
    rng = np.random.default_rng(seed)
    ranks = {value: float(k) for k, value in enumerate(sorted({*inside, *outside}))}
    moved = [[ranks[value] ** 3 - 7 for value in rng.permutation(side)] for side in (inside, outside)]
    again = ood.detection(*moved)
    swapped = ood.detection([-b for b in outside], [-a for a in inside])
    for name in ood.MEASURES:
        assert 0 <= getattr(found, name) <= 1
        assert getattr(again, name) == pytest.approx(getattr(found, name), abs=1e-12)
    assert swapped.auroc == pytest.approx(found.auroc)
    assert swapped.aupr_out == pytest.approx(found.aupr_in)


def test_known_cases() -> None:
    perfect = ood.Detection(auroc=1.0, aupr_in=1.0, aupr_out=1.0, fpr95=0.0)
    assert ood.detection([3, 4], [1, 2]) == perfect
    useless = ood.detection([1.0] * 3, [1.0])
    assert useless == ood.Detection(auroc=0.5, aupr_in=0.75, aupr_out=0.25, fpr95=1.0)
    assert ood.tied_pairs([1, 1, 2], [1, 3]) == pytest.approx(2 / 6)
    inside = np.arange(100)
    assert ood.detection(inside, [4.5]).fpr95 == 0.0 and ood.detection(inside, [5.0]).fpr95 == 1.0


def test_intervals_come_from_resampling_each_set_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    inside, outside = np.round(rng.normal(1, 1, 80), 1), np.round(rng.normal(0, 1, 50), 1)
    found = ood.detection_intervals(inside, outside, seed=3, draws=400)
    monkeypatch.setattr(ood, "_CHUNK", 10**9)
    draws = np.random.default_rng(3)
    picks = draws.integers(0, 80, (400, 80)), draws.integers(0, 50, (400, 50))
    slow = [ood.detection(inside[a], outside[b]) for a, b in zip(*picks, strict=True)]
    at_once = ood.detection_intervals(inside, outside, seed=3, draws=400)
    for name in ood.MEASURES:
        low, high = np.quantile([getattr(one, name) for one in slow], [0.025, 0.975])
        assert (at_once[name].low, at_once[name].high) == pytest.approx((low, high), abs=1e-12)
        value = getattr(ood.detection(inside, outside), name)
        assert found[name].low <= value <= found[name].high
    share = (inside[:, None] > outside).mean()
    half = 1.96 * math.sqrt(share * (1 - share) / 50)
    assert found["auroc"].high - found["auroc"].low < 2 * half


def test_the_interval_of_auroc_covers_as_often_as_it_says() -> None:
    truth, rng = 0.7602499389065233, np.random.default_rng(5)  # P(X > Y), X ~ N(1, 1), Y ~ N(0, 1)
    covered = 0
    for k in range(200):
        intervals = ood.detection_intervals(rng.normal(1, 1, 60), rng.normal(0, 1, 60), seed=k, draws=300)
        covered += intervals["auroc"].low <= truth <= intervals["auroc"].high
    assert 0.88 <= covered / 200 <= 0.99


@given(st.integers(0, 99), st.integers(2, 8), st.floats(0.1, 200))
def test_log_softmax_equals_scipy(seed: int, classes: int, scale: float) -> None:
    cosine = np.random.default_rng(seed).uniform(-1, 1, (7, classes))
    expected = log_softmax(scale * cosine, axis=1).max(axis=1)
    np.testing.assert_allclose(ood.log_max_softmax(cosine, scale), expected, atol=1e-12)
    np.testing.assert_array_equal(ood.max_logit(cosine), cosine.max(axis=1))


def test_saturated_probabilities_stay_apart() -> None:
    cosine = np.array([[1.0, 0.55], [1.0, 0.50], [1.0, 1.0]])
    probability = np.exp(log_softmax(100 * cosine, axis=1).max(axis=1))
    assert probability[0] == probability[1] == 1.0
    confidence = ood.log_max_softmax(cosine, 100)
    assert confidence[1] > confidence[0] > confidence[2] == pytest.approx(-math.log(2))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: ood.detection([], [1.0]), "empty"),
        (lambda: ood.detection([1.0], [math.nan]), "NaN"),
        (lambda: ood.detection([[1.0]], [1.0]), "dimension"),
        (lambda: ood.detection_intervals([1.0], [1.0, 2.0]), "at least two"),
        (lambda: ood.log_max_softmax([[1.0]], 0.0), "logit_scale"),
        (lambda: combine([1], [0.5], [Interval(0.4, 0.6, 0.9, "x")]), "level"),
        (lambda: combine([1], [0.7], [Interval(0.4, 0.6, 0.95, "x")]), "does not hold"),
        (lambda: combine([1, 1], [0.5], [Interval(0.4, 0.6, 0.95, "x")]), "lengths differ"),
    ],
)
def test_input_outside_the_domain_is_refused(call: object, says: str) -> None:
    with pytest.raises(MetricError, match=says):
        call()  # type: ignore[operator]


def test_newcombe_s_published_example() -> None:
    """Newcombe 1998, table II, method 10: 56/70 against 48/80 gives 0.0524 to 0.3339."""
    found = combine([1, -1], [56 / 70, 48 / 80], [wilson(56, 70), wilson(48, 80)])
    assert (found.low, found.high) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert found.method == "MOVER"


def test_a_mean_over_sets_has_the_width_of_independent_sets() -> None:
    one = Interval(0.4, 0.6, 0.95, "x")
    assert combine([1], [0.5], [one]) == Interval(pytest.approx(0.4), pytest.approx(0.6), 0.95, "MOVER")
    four = combine([0.25] * 4, [0.5] * 4, [one] * 4)
    assert (four.low, four.high) == pytest.approx((0.45, 0.55))


def test_the_mean_over_sets_covers_as_often_as_it_says() -> None:
    rng, truth, n = np.random.default_rng(1), np.array([0.9, 0.5, 0.1]), np.array([60, 200, 30])
    covered = 0
    for hits in rng.binomial(n, truth, (2000, 3)):
        found = combine([1 / 3] * 3, hits / n, [wilson(int(h), int(m)) for h, m in zip(hits, n, strict=True)])
        covered += found.low <= truth.mean() <= found.high
    assert 0.93 <= covered / 2000 <= 0.98
