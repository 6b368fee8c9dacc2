"""Two models on the same samples: exact tests, intervals that know of clusters, effect sizes, Holm.

A difference is always B minus A, in shares. Samples of one cluster (ten captions of one image) are not
independent: tests flip whole clusters, intervals take their spread between clusters. Both tell of sampling
the test set, not of training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from climp_bench.errors import MetricError
from climp_bench.metrics._checks import Floats, Ints, flags, integers, real, same_length
from climp_bench.metrics.uncertainty import bootstrap_mean
from climp_bench.specs import Interval

Alternative = Literal["two-sided", "less", "greater"]
POWER = 0.8


@dataclass(frozen=True)
class Pairs:
    """The paired outcomes of two models, summed by cluster.

    Attributes:
        n: samples.
        right_a, right_b: how many samples each model got right.
        gained, lost: samples that only B, or only A, got right.
        totals: gained minus lost of each cluster, (G,); G is n where samples are independent.
        sizes: samples of each cluster, (G,).
    """

    n: int
    right_a: int
    right_b: int
    gained: int
    lost: int
    totals: Ints
    sizes: Ints

    @property
    def difference(self) -> float:
        """B minus A, as a share of the samples."""
        return (self.gained - self.lost) / self.n

    @property
    def cohens_g(self) -> float | None:
        """Cohen's g: share of B among the samples that only one got right, less a half; None without any.

        Source: Cohen 1988 (0.05 small, 0.15 medium, 0.25 large).
        """
        disagreeing = self.gained + self.lost
        return self.gained / disagreeing - 0.5 if disagreeing else None

    @property
    def odds_ratio(self) -> float | None:
        """The paired odds ratio of B over A, gained by lost; None where nothing is lost."""
        return self.gained / self.lost if self.lost else None


def pair(a_N: ArrayLike, b_N: ArrayLike, clusters_N: ArrayLike | None = None) -> Pairs:
    """Count how two models did on the same samples in the same order.

    Args:
        a_N, b_N: whether each model got each sample right.
        clusters_N: the cluster of each sample, such as the image that captions share; None if independent.

    Raises:
        MetricError: empty, not booleans, or of different lengths.
    """
    a, b = flags("a_N", a_N), flags("b_N", b_N)
    same_length(a_N=a, b_N=b)
    totals, sizes = b.astype(np.int64) - a, np.ones(len(a), np.int64)
    if clusters_N is not None:
        clusters = integers("clusters_N", clusters_N)
        same_length(a_N=a, clusters_N=clusters)
        _, owner, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
        totals = np.bincount(owner, weights=totals).round().astype(np.int64)
    gained, lost = int(np.count_nonzero(b & ~a)), int(np.count_nonzero(a & ~b))
    return Pairs(len(a), int(a.sum()), int(b.sum()), gained, lost, totals, sizes)


def mcnemar(gained: int, lost: int, alternative: Alternative = "two-sided") -> float:
    """McNemar's exact test: the samples that only one model got right are fair coin tosses.

    Args:
        gained, lost: samples that only B, or only A, got right.
        alternative: ``less`` asks whether B is worse, ``greater`` whether it is better.

    Raises:
        MetricError: a negative count.

    Source: McNemar 1947; exact: Agresti 2013, chapter 11.
    """
    if min(gained, lost) < 0:
        raise MetricError(f"counts cannot be negative, got {gained} and {lost}")
    return sign_flip(np.repeat([1, -1], [gained, lost]), alternative)


def sign_flip(totals_G: ArrayLike, alternative: Alternative = "two-sided") -> float:
    """The exact sign-flip test of a sum: were the models alike, each total were as likely with either sign.

    With totals of -1, 0 and 1 it is McNemar's exact test. The distribution of the sum over all sign patterns
    is computed, not drawn: totals of one size give a binomial, sizes are convolved.

    Args:
        totals_G: one whole number a cluster, :attr:`Pairs.totals`; an empty array has p = 1.
        alternative: of the sum against 0.

    Source: Fisher 1935; whole clusters are flipped as in Cameron, Gelbach and Miller 2008.
    """
    totals = np.asarray(totals_G, dtype=np.int64).ravel()
    if alternative == "less":
        return sign_flip(-totals, "greater")
    probabilities = _sums_by_chance(np.abs(totals[totals != 0]))
    reach = (len(probabilities) - 1) // 2
    at_least = int(totals.sum()) if alternative == "greater" else abs(int(totals.sum()))
    tail = float(probabilities[at_least + reach :].sum())
    return min(1.0, tail if alternative == "greater" else 2 * tail)


def _sums_by_chance(sizes: Ints) -> Floats:
    """The probability of each sum -S..S of numbers of these sizes and random signs, S their sum."""
    chances: Floats = np.ones(1)
    for size, count in zip(*np.unique(sizes, return_counts=True), strict=True):
        of_size = np.zeros(2 * size * count + 1)
        of_size[:: 2 * size] = _fair_binomial(int(count))
        chances = np.convolve(chances, of_size)
    return chances


def _fair_binomial(n: int) -> Floats:
    logs = np.concatenate([[0.0], np.log(np.arange(1, n + 1)).cumsum()])
    chances: Floats = np.exp(logs[n] - logs - logs[::-1] - n * math.log(2))
    return chances


def cluster_interval(pairs: Pairs, level: float = 0.95) -> Interval:
    """A confidence interval of the difference from the spread between clusters, never of width zero.

    Two made-up clusters of average size, one all gained and one all lost, are added first; for independent
    samples this is Bonett and Price's interval, whose coverage holds for few samples and few changes.

    Raises:
        MetricError: ``level`` outside (0, 1).

    Source: Bonett and Price 2012; between clusters: Liang and Zeger 1986.
    """
    if not 0 < level < 1:
        raise MetricError(f"must lie strictly between 0 and 1, got {level!r}", where="level")
    centre, error = _centre_and_error(pairs)
    half = NormalDist().inv_cdf((1 + level) / 2) * error
    method = "paired" if len(pairs.totals) == pairs.n else "paired, by cluster"
    return Interval(max(-1.0, centre - half), min(1.0, centre + half), level, method)


def paired_bootstrap(
    a_N: ArrayLike,
    b_N: ArrayLike,
    clusters_N: ArrayLike | None = None,
    *,
    seed: int = 0,
    draws: int = 2000,
    level: float = 0.95,
) -> Interval:
    """Percentile bootstrap of B minus A; whole clusters are drawn. Of width zero where all totals are equal.

    Args, Raises: as :func:`pair` and :func:`~climp_bench.metrics.uncertainty.bootstrap_mean`.
    """
    a, b = flags("a_N", a_N), flags("b_N", b_N)
    same_length(a_N=a, b_N=b)
    return bootstrap_mean(b.astype(float) - a, clusters_N, seed=seed, draws=draws, level=level)


def standard_error(pairs: Pairs) -> float:
    """The standard error of the difference, as a share: what :func:`cluster_interval` is made of, never 0."""
    return _centre_and_error(pairs)[1]


def _centre_and_error(pairs: Pairs) -> tuple[float, float]:
    added = pairs.n / len(pairs.totals) * np.array([1.0, -1.0])
    totals, sizes = np.append(pairs.totals, added), np.append(pairs.sizes, np.abs(added))
    centre = float(totals.sum() / sizes.sum())
    return centre, float(np.sqrt(((totals - centre * sizes) ** 2).sum()) / sizes.sum())


def detectable(pairs: Pairs, level: float = 0.95, power: float = POWER) -> float:
    """The smallest true difference, as a share, that a test of these samples would find with that power.

    From how often the two models disagreed here, under equality, so it tells of the comparison, not of its
    outcome. A single two-sided test at ``1 - level``; corrected for many tests it is larger.

    Source: Connor 1987, with the variance under equality in both terms.
    """
    size = pairs.n / len(pairs.totals)
    squares = float((pairs.totals**2).sum()) + 2 * size**2
    quantiles = NormalDist().inv_cdf((1 + level) / 2) + NormalDist().inv_cdf(power)
    return min(1.0, quantiles * math.sqrt(squares) / (pairs.n + 2 * size))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given: reject below alpha, and one false alarm in all is alpha.

    Raises:
        MetricError: a p-value outside [0, 1].

    Source: Holm 1979.
    """
    if len(p_values) == 0:
        return []
    p = real("p_values", p_values, 1)
    if p.min() < 0 or p.max() > 1:
        raise MetricError("p-values lie in [0, 1]", where="p_values")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return [float(value) for value in adjusted]
