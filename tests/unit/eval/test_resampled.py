"""The vectorised bootstrap statistics equal the metrics on each bootstrap sample."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from climp_bench.errors import MetricError
from climp_bench.eval.resampled import mean_average_precisions, mean_recalls
from climp_bench.metrics.classification import mean_recall
from climp_bench.metrics.multilabel import mean_average_precision
from climp_bench.metrics.uncertainty import bootstrap_statistic, bootstrap_statistics


def test_mean_recall_of_many_samples() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 7, 60) * 2  # classes 1, 3, ... are absent
    correct = rng.random(60) < 0.4
    picks = rng.integers(0, 60, (50, 60))
    expected = [mean_recall(correct[row], labels[row]) for row in picks]
    np.testing.assert_allclose(mean_recalls(picks, correct, labels), expected, rtol=1e-12)


def test_mean_average_precision_of_many_samples() -> None:
    rng = np.random.default_rng(1)
    scores = rng.standard_normal((40, 5)).astype(np.float32)
    targets = rng.random((40, 5)) < [0.3, 0.3, 0.5, 0.03, 0.0]  # the last ones are often without positives
    picks = rng.integers(0, 40, (50, 40))
    expected = [mean_average_precision(scores[row], targets[row], empty_classes="skip") for row in picks]
    np.testing.assert_allclose(mean_average_precisions(picks, scores, targets), expected, rtol=1e-12)


def test_many_at_once_draw_the_same_samples_as_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("climp_bench.metrics.uncertainty._CHUNK", 1000)  # several chunks, the last is short
    rng = np.random.default_rng(2)
    labels, correct = rng.integers(0, 4, 31), rng.random(31) < 0.5
    seen: list[int] = []

    def one(row: np.ndarray) -> float:
        seen.append(len(row))
        return mean_recall(correct[row], labels[row])

    slow = bootstrap_statistic(one, 31, seed=3, draws=77)
    fast = bootstrap_statistics(
        partial(mean_recalls, correct_N=correct, labels_N=labels), 31, seed=3, draws=77
    )
    assert seen == [31] * 77
    assert (fast.low, fast.high) == pytest.approx((slow.low, slow.high), rel=1e-12)
    draws = np.random.default_rng(3)
    sequential = np.array(
        [mean_recall(correct[i], labels[i]) for i in (draws.integers(0, 31, 31) for _ in range(77))]
    )
    assert fast.low == pytest.approx(np.quantile(sequential, 0.025), rel=1e-12)


def test_a_replicate_without_any_positive_is_refused() -> None:
    scores, targets = np.zeros((2, 1), np.float32), np.array([[True], [False]])
    with pytest.raises(MetricError, match="NaN"):
        bootstrap_statistics(
            partial(mean_average_precisions, scores_NC=scores, targets_NC=targets), 2, draws=99
        )
