"""Confidence intervals: Wilson for proportions, percentile bootstrap (clustered if need be) for the rest.

An interval here describes sampling of the test set, not of training. Zero-width bootstrap intervals occur
when every value is equal; for proportions prefer :func:`wilson`, which never collapses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from climp_bench.errors import MetricError
from climp_bench.metrics._checks import Floats, Ints, positive, real, same_length
from climp_bench.specs import Interval

_CHUNK = 4_000_000


def wilson(successes: int, n: int, level: float = 0.95) -> Interval:
    """The Wilson score interval of a proportion of ``n`` independent trials.

    Raises:
        MetricError: ``n < 1``, ``successes`` outside ``[0, n]``, or ``level`` outside (0, 1).

    Source: Wilson 1927; recommended by Brown, Cai and DasGupta 2001.
    """
    positive("n", n)
    _level(level)
    if not 0 <= successes <= n:
        raise MetricError(f"{successes} successes of {n} trials", where="successes")
    z2 = NormalDist().inv_cdf((1 + level) / 2) ** 2
    share = successes / n
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return Interval(low, high, level, "wilson")


def bootstrap_mean(
    values_N: ArrayLike,
    clusters_N: ArrayLike | None = None,
    *,
    seed: int = 0,
    draws: int = 1000,
    level: float = 0.95,
) -> Interval:
    """Percentile bootstrap of a mean; whole clusters are resampled when samples share one.

    Args:
        values_N: outcomes or differences of outcomes, one per sample.
        clusters_N: the cluster of each sample (integers or strings), such as the image that captions share.
        seed: of numpy's PCG64; the same seed gives the same interval.
        draws: bootstrap replicates.
        level: coverage asked for, in (0, 1).

    Raises:
        MetricError: fewer than two independent samples or clusters, or input outside the domain.

    Source: Efron and Tibshirani 1993, chapter 13; clusters: Davison and Hinkley 1997, section 3.8.
    """
    values: Floats = real("values_N", values_N, 1).astype(np.float64)
    totals, sizes = values, np.ones(len(values))
    if clusters_N is not None:
        clusters = np.asarray(clusters_N)
        if clusters.ndim != 1:
            raise MetricError(f"expected 1 dimension, got shape {clusters.shape}", where="clusters_N")
        same_length(values_N=values, clusters_N=clusters)
        _, owner, counts = np.unique(clusters, return_inverse=True, return_counts=True)
        totals, sizes = np.bincount(owner, weights=values), counts.astype(np.float64)
    n = len(totals)
    rng = resampling(n, seed, draws, level)
    means = np.empty(draws)
    rows = max(1, _CHUNK // n)
    for start in range(0, draws, rows):
        picks = rng.integers(0, n, size=(min(rows, draws - start), n))
        means[start : start + rows] = totals[picks].sum(axis=1) / sizes[picks].sum(axis=1)
    return percentile_interval(means, level, "bootstrap" if clusters_N is None else "cluster bootstrap")


def bootstrap_statistic(
    statistic: Callable[[Ints], float], n: int, *, seed: int = 0, draws: int = 1000, level: float = 0.95
) -> Interval:
    """Percentile bootstrap of any statistic of ``n`` independent samples.

    Args:
        statistic: takes sample indices of shape (n,), drawn with replacement, and returns the statistic of
            those samples, for instance ``lambda i: mean_recall(correct[i], labels[i])``.
        n: how many samples there are.
        seed, draws, level: as for :func:`bootstrap_mean`.

    Raises:
        MetricError: fewer than two samples, or a replicate that is not a finite number.
    """

    def one_by_one(picks_RN: Ints) -> Floats:
        return np.array([statistic(picks) for picks in picks_RN], dtype=np.float64)

    return bootstrap_statistics(one_by_one, n, seed=seed, draws=draws, level=level)


def bootstrap_statistics(
    statistics: Callable[[Ints], Floats], n: int, *, seed: int = 0, draws: int = 1000, level: float = 0.95
) -> Interval:
    """:func:`bootstrap_statistic` for a statistic that handles many bootstrap samples in one call.

    Args:
        statistics: takes sample indices of shape (R, n) and returns R statistics.
        n, seed, draws, level: as for :func:`bootstrap_statistic`; the same seed gives the same interval.

    Raises:
        MetricError: fewer than two samples, or a replicate that is not a finite number.
    """
    rng = resampling(n, seed, draws, level)
    replicates = np.empty(draws)
    rows = max(1, _CHUNK // n)
    for start in range(0, draws, rows):
        picks = rng.integers(0, n, size=(min(rows, draws - start), n))
        replicates[start : start + rows] = statistics(picks)
    return percentile_interval(real("statistic", replicates, 1), level, "bootstrap")


def combine(
    weights_K: ArrayLike, values_K: ArrayLike, intervals: Sequence[Interval], level: float = 0.95
) -> Interval:
    """The interval of ``sum(weights * values)`` of independent estimates, from their own intervals (MOVER).

    With weights 1 and -1 and Wilson intervals it is Newcombe's interval of a difference of proportions; with
    weights 1 / K that of a mean over K independent test sets.

    Raises:
        MetricError: lengths differ, an interval does not hold its value, or has another level.

    Source: Zou and Donner 2008; Newcombe 1998, method 10.
    """
    weights: Floats = real("weights_K", weights_K, 1).astype(np.float64)
    values: Floats = real("values_K", values_K, 1).astype(np.float64)
    bounds = np.array([(interval.low, interval.high) for interval in intervals]).reshape(-1, 2)
    same_length(weights_K=weights, values_K=values, intervals=bounds)
    if any(interval.level != level for interval in intervals):
        raise MetricError(f"every interval must be of level {level}", where="intervals")
    below, above = values - bounds[:, 0], bounds[:, 1] - values
    if min(below.min(), above.min()) < -1e-9:
        raise MetricError("an interval does not hold its value", where="intervals")
    total = float(weights @ values)
    down = np.where(weights > 0, below, above)
    up = np.where(weights > 0, above, below)
    low, high = (math.sqrt(float(((weights * side) ** 2).sum())) for side in (down, up))
    return Interval(total - low, total + high, level, "MOVER")


def resampling(n: int, seed: int, draws: int, level: float) -> np.random.Generator:
    """The generator of a bootstrap of ``n`` samples; raises ``MetricError`` where there can be none."""
    positive("draws", draws)
    _level(level)
    if n < 2:
        raise MetricError(
            f"a bootstrap needs at least two independent samples or clusters, got {n}",
            remedy="Evaluate more samples, or record why there is no interval.",
        )
    return np.random.default_rng(seed)


def _level(level: float) -> None:
    if not 0 < level < 1:
        raise MetricError(f"must lie strictly between 0 and 1, got {level!r}", where="level")


def percentile_interval(replicates: Floats, level: float, method: str) -> Interval:
    """The central ``level`` of bootstrap replicates."""
    low, high = np.quantile(replicates, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), level, method)
