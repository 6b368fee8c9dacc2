"""Recall at k against CLIP_benchmark and a twin that sorts the full matrix."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from clip_benchmark.metrics import zeroshot_retrieval as reference
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from climp_bench.errors import MetricError
from climp_bench.eval.standing import standing_on
from climp_bench.metrics.retrieval import StandingOf, recall_at_k, standing_by_numpy

BOTH = pytest.mark.parametrize("standing_of", [standing_by_numpy, standing_on("cpu")], ids=["numpy", "torch"])
Case = tuple[np.ndarray, np.ndarray, np.ndarray, int, int]


@st.composite
def pairs(draw: st.DrawFn) -> Case:
    """Small integer embeddings: exact scores, ties, negatives, several captions, k beyond n."""
    n, extra, d = draw(st.integers(1, 6)), draw(st.integers(0, 8)), draw(st.integers(1, 3))
    more = draw(st.lists(st.integers(0, n - 1), min_size=extra, max_size=extra))
    owner = draw(st.permutations([*range(n), *more]))
    whole = st.integers(-2, 2).map(float)
    image = draw(hnp.arrays(np.float32, (n, d), elements=whole))
    text = draw(hnp.arrays(np.float32, (len(owner), d), elements=whole))
    return image, text, np.array(owner), draw(st.integers(1, 16)), draw(st.integers(1, 40))


def sorted_hits(scores: np.ndarray, match: np.ndarray, k: int, wrong_first: bool | None) -> list[bool]:
    """Hits after sorting; equal scores by index (None), or right answers last (True) or first (False)."""
    hits = []
    for row, right in zip(scores.tolist(), match.tolist(), strict=True):
        tie = {None: lambda c, r: c, True: lambda c, r: r[c], False: lambda c, r: not r[c]}[wrong_first]
        best = sorted(range(len(row)), key=lambda c, row=row, right=right: (-row[c], tie(c, right)))[:k]
        hits.append(any(right[c] for c in best))
    return hits


@BOTH
@given(case=pairs())
def test_equals_a_full_sort(case: Case, standing_of: StandingOf) -> None:
    image, text, owner, k, chunk = case
    out = recall_at_k(image, text, owner, [k], chunk_scores=chunk, standing_of=standing_of)
    scores, match = text @ image.T, owner[:, None] == np.arange(len(image))
    for hits, ties, s, m in (
        (out.text_hits_M[k], out.text_ties[k], scores, match),
        (out.image_hits_N[k], out.image_ties[k], scores.T, match.T),
    ):
        assert hits.tolist() == sorted_hits(s, m, k, None)
        lucky, unlucky = sorted_hits(s, m, k, False), sorted_hits(s, m, k, True)
        assert ties == sum(a != b for a, b in zip(lucky, unlucky, strict=True))
    assert out.image_retrieval_recall(k) == pytest.approx(np.mean(out.text_hits_M[k]))
    assert out.text_retrieval_recall(k) == pytest.approx(np.mean(out.image_hits_N[k]))


@BOTH
@pytest.mark.parametrize("chunk", [1, 997, 20_011, 10**6])
def test_planted_ties_across_chunks_equal_a_stable_argsort(chunk: int, standing_of: StandingOf) -> None:
    """One to many captions an image, in no order, few distinct scores: chunks of one, some and all rows."""
    rng = np.random.default_rng(3)
    owner = rng.permutation(np.concatenate([np.arange(90), rng.integers(0, 30, 360)]))
    image, text = (rng.integers(-1, 2, (n, 4)).astype(np.float32) for n in (90, 450))
    ks = (1, 5, 10, 40)
    out = recall_at_k(image, text, owner, ks, chunk_scores=chunk, standing_of=standing_of)
    match = owner[:, None] == np.arange(90)
    for hits, ties, scores, right in (
        (out.text_hits_M, out.text_ties, text @ image.T, match),
        (out.image_hits_N, out.image_ties, image @ text.T, match.T),
    ):
        order = np.argsort(-scores, axis=1, kind="stable")
        place = np.take_along_axis(right, order, axis=1).argmax(axis=1)
        best = np.where(right, scores, -np.inf).max(axis=1, keepdims=True)
        first, last = (scores > best).sum(axis=1), (np.where(right, -np.inf, scores) >= best).sum(axis=1)
        for k in ks:
            assert hits[k].tolist() == (place < k).tolist()
            assert ties[k] == np.count_nonzero((first < k) & (last >= k)) > 0


def test_holds_no_more_scores_than_asked() -> None:
    rng = np.random.default_rng(0)
    image, text = (rng.standard_normal((n, 4), dtype=np.float32) for n in (500, 5000))
    owner = np.repeat(np.arange(500), 10)
    tracemalloc.start()
    try:
        recall_at_k(image, text, owner, chunk_scores=500_000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.5 * 4 * 500_000


@pytest.mark.parametrize(("captions", "chunk"), [(1, 10**6), (5, 997)])
def test_equals_clip_benchmark(captions: int, chunk: int) -> None:
    rng = np.random.default_rng(captions)
    image = rng.standard_normal((60, 24))
    owner = np.repeat(np.arange(60), captions)
    text = image[owner] + 2.5 * rng.standard_normal((60 * captions, 24))
    image, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text))
    image, text = image.astype(np.float32), text.astype(np.float32)
    scores = torch.from_numpy(text) @ torch.from_numpy(image).T
    positives = torch.zeros_like(scores, dtype=torch.bool)
    positives[torch.arange(len(scores)), torch.from_numpy(owner)] = True
    ours = recall_at_k(image, text, owner, (5, 1, 10), chunk_scores=chunk)
    assert ours.ks == (1, 5, 10)
    for k in ours.ks:
        hits = reference.batchify(reference.recall_at_k, scores, positives, 16, "cpu", k=k) > 0
        assert 0.05 < hits.float().mean() < 0.99
        assert ours.text_hits_M[k].tolist() == hits.tolist()
        assert ours.image_retrieval_recall(k) == pytest.approx(hits.float().mean().item(), abs=1e-6)
        hits = reference.batchify(reference.recall_at_k, scores.T, positives.T, 16, "cpu", k=k) > 0
        assert ours.image_hits_N[k].tolist() == hits.tolist()
        assert ours.text_retrieval_recall(k) == pytest.approx(hits.float().mean().item(), abs=1e-6)


def test_a_match_with_negative_cosine_counts() -> None:
    image, text = np.array([[1.0, 0.0]]), np.array([[-1.0, 0.0]])
    assert recall_at_k(image, text, [0], [1]).image_retrieval_recall(1) == 1.0


def test_k_beyond_the_candidates_always_hits() -> None:
    rng = np.random.default_rng(0)
    out = recall_at_k(rng.standard_normal((3, 4)), rng.standard_normal((6, 4)), [0, 0, 1, 2, 2, 2], [3, 100])
    assert out.image_retrieval_recall(3) == out.image_retrieval_recall(100) == 1.0
    assert out.text_retrieval_recall(100) == 1.0 and out.text_ties[100] == 0


@pytest.mark.parametrize(
    ("image", "text", "owner", "ks", "message"),
    [
        (np.ones((2, 3)), np.ones((2, 3)), [0, 0], [1], "1 image.*first is image 1"),
        (np.ones((2, 3)), np.ones((2, 3)), [0, 2], [1], "outside"),
        (np.ones((2, 3)), np.ones((2, 4)), [0, 1], [1], "widths differ"),
        (np.ones((2, 3)), np.ones((2, 3)), [0], [1], "lengths differ"),
        (np.ones((2, 3)), np.full((2, 3), np.nan), [0, 1], [1], "NaN"),
        (np.ones((0, 3)), np.ones((2, 3)), [0, 1], [1], "empty"),
        (np.ones((2, 3)), np.ones((2, 3)), [0, 1], [0], "at least 1"),
        (np.ones((2, 3)), np.ones((2, 3)), [0, 1], [], "at least one cut-off"),
    ],
)
def test_outside_the_domain(
    image: np.ndarray, text: np.ndarray, owner: list[int], ks: list[int], message: str
) -> None:
    with pytest.raises(MetricError, match=message):
        recall_at_k(image, text, owner, ks)
