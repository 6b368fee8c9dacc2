"""Geometry against torch's pairwise distances, scipy's skewness and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy, skew

from climp_bench.errors import MetricError
from climp_bench.metrics import geometry


def unit(seed: int, n: int, d: int) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((n, d))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_alignment_of_known_pairs() -> None:
    image, text = np.eye(2), np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, 1.0]])
    assert geometry.alignment(image, text[:2], [0, 1]) == 0.0
    assert geometry.alignment(image, text, [0, 1, 0, 0]) == pytest.approx((0 + 0 + 4 + 2) / 4)
    assert geometry.alignment(image, text, [0, 1, 0, 0], alpha=1) == pytest.approx((2 + 2**0.5) / 4)


@pytest.mark.parametrize("chunk", [7, 10**6])
def test_uniformity_equals_pairwise_distances(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(geometry, "_CHUNK", chunk)
    x = unit(1, 50, 8)
    expected = torch.pdist(torch.from_numpy(x)).pow(2).mul(-2).exp().mean().log().item()
    assert geometry.uniformity(x) == pytest.approx(expected, abs=1e-12)
    assert geometry.uniformity(np.tile([[0.0, 1.0]], (4, 1))) == pytest.approx(0.0)


def test_modality_gap_of_known_means() -> None:
    assert geometry.modality_gap(np.eye(2)[:1], -np.eye(2)[:1]) == pytest.approx(2.0)
    assert geometry.modality_gap(np.eye(2), np.eye(2)[::-1]) == pytest.approx(0.0)


@given(st.integers(0, 50), st.integers(2, 9), st.integers(1, 12), st.booleans(), st.integers(1, 30))
def test_neighbour_counts_equal_a_stable_sort(seed: int, n: int, q: int, tied: bool, chunk: int) -> None:
    candidate = np.eye(3)[np.random.default_rng(seed).integers(0, 3, n)] if tied else unit(seed, n, 3)
    query = unit(seed + 1, q, 3)
    k = 1 + seed % (n - 1)
    expected = np.zeros(n, int)
    for row in query @ candidate.T:
        expected[np.argsort(-row, kind="stable")[:k]] += 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(geometry, "_CHUNK", chunk)
        counts = geometry.neighbour_counts(query, candidate, k=k)
    assert counts.sum() == q * k
    assert counts.tolist() == expected.tolist()


def test_hubness_describes_the_counts() -> None:
    query, candidate = unit(2, 200, 30), unit(3, 80, 30)
    counts = geometry.neighbour_counts(query, candidate, k=5)
    got = geometry.hubness(query, candidate, k=5)
    assert got.skewness == pytest.approx(float(skew(counts)))
    assert got.anti_hubs == pytest.approx(np.mean([c == 0 for c in counts]))
    moved = sum(c - 200 * 5 / 80 for c in counts if c > 200 * 5 / 80)
    assert got.robin_hood == pytest.approx(moved / (200 * 5))
    hub = np.vstack([candidate, query.mean(0) / np.linalg.norm(query.mean(0))])
    assert geometry.hubness(query, hub, k=5).skewness > got.skewness


def test_hubness_of_even_and_of_most_uneven_counts() -> None:
    even = geometry.hubness(np.eye(4), np.eye(4), k=1)
    assert (even.skewness, even.robin_hood, even.anti_hubs) == (0.0, 0.0, 0.0)
    one = geometry.hubness(
        np.tile([[1.0, 0.0]], (6, 1)), np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]), k=1
    )
    assert (one.robin_hood, one.anti_hubs) == (pytest.approx(2 / 3), pytest.approx(2 / 3))


@pytest.mark.parametrize("rows", [6, 40])
def test_effective_rank(rows: int) -> None:
    assert geometry.effective_rank(np.eye(5)) == pytest.approx(5)
    assert geometry.effective_rank(np.tile([[0.6, 0.8]], (4, 1))) == pytest.approx(1, abs=1e-5)
    x = unit(4, rows, 12)
    shares = np.linalg.svd(x, compute_uv=False)
    expected = np.exp(entropy(shares / shares.sum()))
    assert geometry.effective_rank(x) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: geometry.modality_gap(2 * np.eye(2), np.eye(2)), "not unit-norm"),
        (lambda: geometry.modality_gap(np.eye(2), np.eye(3)), "widths differ"),
        (lambda: geometry.uniformity(np.eye(2)[:1]), "at least two"),
        (lambda: geometry.uniformity(np.full((2, 2), np.nan)), "NaN"),
        (lambda: geometry.alignment(np.eye(2), np.eye(2), [0, 5]), "outside"),
        (lambda: geometry.alignment(np.eye(2), np.eye(2), [0]), "lengths differ"),
        (lambda: geometry.hubness(np.eye(3), np.eye(3), k=3), "below the number of candidates"),
    ],
)
def test_outside_the_domain(call: object, message: str) -> None:
    with pytest.raises(MetricError, match=message):
        call()  # type: ignore[operator]
