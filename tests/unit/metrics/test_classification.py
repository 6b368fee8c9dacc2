"""Classification metrics against CLIP_benchmark, scikit-learn and a twin that sorts."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from clip_benchmark.metrics import zeroshot_classification as reference
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import balanced_accuracy_score

from climp_bench.errors import MetricError
from climp_bench.metrics import classification as ours


def unit(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    x = rng.standard_normal((n, d)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@st.composite
def scored(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    """Scores with many ties and negatives, labels that leave classes out, any k up to C."""
    n, c = draw(st.integers(1, 12)), draw(st.integers(1, 8))
    scores = draw(hnp.arrays(np.float32, (n, c), elements=st.integers(-3, 3).map(float)))
    labels = draw(hnp.arrays(np.int64, n, elements=st.integers(0, c - 1)))
    return scores, labels, draw(st.integers(1, c))


@given(scored())
def test_top_k_equals_a_stable_sort(case: tuple[np.ndarray, np.ndarray, int]) -> None:
    scores, labels, k = case
    by_sorting = [
        label in sorted(range(len(row)), key=lambda c: (-row[c], c))[:k]
        for row, label in zip(scores.tolist(), labels.tolist(), strict=True)
    ]
    assert ours.top_k_correct(scores, labels, k).tolist() == by_sorting


@given(scored())
def test_ties_are_the_samples_that_another_order_would_flip(case: tuple[np.ndarray, np.ndarray, int]) -> None:
    scores, labels, k = case
    flipped = 0
    for row, label in zip(scores.tolist(), labels.tolist(), strict=True):
        first = sorted(range(len(row)), key=lambda c: (-row[c], c != label))
        last = sorted(range(len(row)), key=lambda c: (-row[c], c == label))
        flipped += (label in first[:k]) != (label in last[:k])
    assert ours.ties_at_k(scores, labels, k) == flipped


@given(scored())
def test_per_class_recall_is_balanced_accuracy(case: tuple[np.ndarray, np.ndarray, int]) -> None:
    scores, labels, _ = case
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns of predicted classes that no label has
        expected = balanced_accuracy_score(labels, scores.argmax(1))
    assert ours.mean_per_class_recall(scores, labels) == pytest.approx(expected, abs=1e-12)


def test_scores_and_accuracy_equal_clip_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    # clip-benchmark 1.6.2 calls float() on one-element arrays, which numpy 2.4 refuses.
    monkeypatch.setattr(reference, "float", lambda x: np.asarray(x).item(), raising=False)
    rng = np.random.default_rng(3)
    image, weights = unit(rng, 300, 32), unit(rng, 20, 32).T
    labels = rng.integers(0, 20, 300)
    logits = 100.0 * torch.from_numpy(image) @ torch.from_numpy(np.ascontiguousarray(weights))
    scores = ours.class_scores(image, weights)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, logits.numpy(), rtol=1e-6, atol=1e-5)
    acc1, acc5 = reference.accuracy(logits, torch.from_numpy(labels), topk=(1, 5))
    assert ours.accuracy(scores, labels) == pytest.approx(acc1, abs=1e-6)
    assert ours.acc5(scores, labels) == pytest.approx(acc5, abs=1e-6)


def test_prompt_weights_equal_clip_benchmark() -> None:
    rng = np.random.default_rng(4)
    table = torch.from_numpy(rng.standard_normal((12, 16)).astype(np.float32) * 5)
    prompts = {f"{c} {t}": 4 * i + j for i, c in enumerate("abc") for j, t in enumerate("wxyz")}

    class Model:
        def encode_text(self, ids: torch.Tensor) -> torch.Tensor:
            return table[ids]

    expected = reference.zero_shot_classifier(
        Model(),
        lambda texts: torch.tensor([prompts[t] for t in texts]),
        ["a", "b", "c"],
        ["{c} w", "{c} x", "{c} y", "{c} z"],
        "cpu",
        amp=False,
    )
    order = rng.permutation(12)
    weights = ours.prompt_weights(table.numpy()[order], (np.arange(12) // 4)[order], 3)
    np.testing.assert_allclose(weights, expected.numpy(), atol=1e-6)
    assert weights.shape == (16, 3) and weights.dtype == np.float32


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_prompt_weights_are_those_of_all_prompts_at_once(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "_ROWS", 7)
    rng = np.random.default_rng(0)
    rows, owner = rng.standard_normal((60, 5)).astype(kind), rng.permutation(np.arange(60) % 9)
    sums = np.zeros((9, 5))
    np.add.at(sums, owner, rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=1)[:, None])
    means = sums / np.bincount(owner)[:, None]
    wanted = (means / np.linalg.norm(means, axis=1)[:, None]).T.astype(np.float32)
    np.testing.assert_array_equal(ours.prompt_weights(rows, owner, 9), wanted)
    rows[53] = 0
    with pytest.raises(MetricError, match="row 53 has norm 0"):
        ours.prompt_weights(rows, owner, 9)


def test_acc5_is_none_below_five_classes_and_one_at_five() -> None:
    scores = np.eye(5, dtype=np.float32)
    assert ours.acc5(scores[:, :4], [0, 1, 2, 3, 3]) is None
    assert ours.acc5(scores, [4, 3, 2, 1, 0]) == 1.0


def test_groups_and_the_worst_of_them() -> None:
    groups = ours.group_accuracy([True, False, True, True, False], ["b", "b", "a", "a", "c"])
    assert groups == {"a": (2, 1.0), "b": (2, 0.5), "c": (1, 0.0)}
    assert list(groups) == ["a", "b", "c"]
    assert ours.worst_group(groups) == ("c", (1, 0.0))
    assert ours.worst_group({"z": groups["b"], "m": groups["b"]})[0] == "m"


SCORES = np.zeros((2, 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ours.accuracy(np.zeros((0, 3)), []), "empty"),
        (lambda: ours.accuracy(np.array([[np.nan, 1.0]]), [0]), "1 of 2 values are NaN"),
        (lambda: ours.accuracy(SCORES, [0, 3]), r"outside \[0, 3\)"),
        (lambda: ours.accuracy(SCORES, [0, -1]), r"outside \[0, 3\)"),
        (lambda: ours.accuracy(SCORES, [0.0, 1.0]), "expected integers"),
        (lambda: ours.accuracy(SCORES, [0]), "lengths differ"),
        (lambda: ours.accuracy(SCORES[0], [0]), "expected 2 dimension"),
        (lambda: ours.accuracy(SCORES, [0, 0], 4), "top-4 is undefined for 3 classes"),
        (lambda: ours.accuracy(SCORES, [0, 0], 0), "at least 1"),
        (lambda: ours.class_scores(np.ones((2, 3)), np.ones((4, 2))), "widths differ"),
        (lambda: ours.prompt_weights(np.ones((2, 3)), [0, 2], 3), "first is class 1"),
        (lambda: ours.prompt_weights(np.zeros((1, 3)), [0], 1), "no direction"),
        (lambda: ours.prompt_weights(np.array([[1.0], [-1.0]]), [0, 0], 1), "class means"),
        (lambda: ours.mean_recall([True], [-2]), "negative label"),
        (lambda: ours.mean_recall([2], [0]), "expected booleans"),
        (lambda: ours.group_accuracy([True], ["a", "b"]), "lengths differ"),
        (lambda: ours.worst_group({}), "no group"),
        (lambda: ours.accuracy(np.array([["a", "b"]]), [0]), "expected real numbers"),
    ],
)
def test_outside_the_domain(call: object, message: str) -> None:
    with pytest.raises(MetricError, match=message):
        call()  # type: ignore[operator]
