"""Average precision against CLIP_benchmark, scikit-learn and the definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from clip_benchmark.metrics.zeroshot_classification import average_precision_per_class
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from climp_bench.errors import MetricError
from climp_bench.metrics.multilabel import average_precision, mean_average_precision


@given(st.lists(st.tuples(st.integers(-2, 2), st.booleans()), min_size=1, max_size=15))
def test_equals_the_definition_with_ties(samples: list[tuple[int, bool]]) -> None:
    ranked = sorted(range(len(samples)), key=lambda i: (-samples[i][0], i))
    precisions = []
    for rank in range(1, len(ranked) + 1):
        if samples[ranked[rank - 1]][1]:
            precisions.append(sum(samples[i][1] for i in ranked[:rank]) / rank)
    expected = sum(precisions) / len(precisions) if precisions else 0.0
    scores, positives = zip(*samples, strict=True)
    assert average_precision(scores, positives) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_equals_clip_benchmark_and_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.standard_normal((200, 6)).astype(np.float32)
    targets = rng.random((200, 6)) < 0.2
    targets[:, 4] = False
    per_class = average_precision_per_class(torch.from_numpy(scores), torch.from_numpy(targets))
    zero = mean_average_precision(scores, targets.astype(np.int64), empty_classes="zero")
    assert zero == pytest.approx(float(per_class.mean()), abs=1e-6)
    skipped = mean_average_precision(scores, targets, empty_classes="skip")
    kept = [average_precision_score(targets[:, c], scores[:, c]) for c in range(6) if c != 4]
    assert skipped == pytest.approx(np.mean(kept), abs=1e-12)
    assert skipped > zero


@pytest.mark.parametrize(
    ("scores", "targets", "empty", "message"),
    [
        (np.zeros((2, 3)), np.zeros((2, 2)), "zero", "shapes differ"),
        (np.zeros((2, 3)), np.zeros((2, 3)), "skip", "no class has a positive"),
        (np.zeros((2, 3)), np.full((2, 3), 2), "zero", "expected booleans"),
        (np.full((2, 3), np.inf), np.ones((2, 3)), "zero", "NaN or infinite"),
        (np.zeros((0, 3)), np.zeros((0, 3)), "zero", "empty"),
        (np.zeros((1, 1)), np.ones((1, 1)), "drop", "'zero' or 'skip'"),
    ],
)
def test_outside_the_domain(scores: np.ndarray, targets: np.ndarray, empty: str, message: str) -> None:
    with pytest.raises(MetricError, match=message):
        mean_average_precision(scores, targets, empty_classes=empty)  # type: ignore[arg-type]
