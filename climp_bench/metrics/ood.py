"""Out-of-distribution detection: how well a confidence tells images of known classes from others.

Every measure is made of counts at the distinct values of the confidence, so that equal values stand or fall
together: no order among them is invented. "In" is in distribution; the higher the confidence the more "in".

Sources: Hendrycks and Gimpel 2017 (maximum softmax probability; AUROC, AUPR), Hendrycks et al. 2021 and 2022
(ImageNet-O; maximum logit), Ming et al. 2022 (zero-shot confidence of a dual encoder), Liang et al. 2018
(false positive rate at 95% true positives).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numpy.typing import ArrayLike

from climp_bench.errors import MetricError
from climp_bench.metrics._checks import Floats, Ints, real
from climp_bench.metrics.uncertainty import percentile_interval, resampling
from climp_bench.specs import Interval

MEASURES = ("auroc", "aupr_in", "aupr_out", "fpr95")
TRUE_POSITIVES = 0.95
_CHUNK = 1_000_000
_F64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Detection:
    """How well a confidence detects, all in [0, 1].

    Attributes:
        auroc: chance that an "in" sample is more confident than an "out" one; a tie counts half.
        aupr_in, aupr_out: average precision with "in", or "out", as the positive class; a useless confidence
            gives the share of the positive class.
        fpr95: share of "out" that is accepted by the highest threshold that accepts 95% of "in"; lower is
            better.
    """

    auroc: float
    aupr_in: float
    aupr_out: float
    fpr95: float


def max_logit(cosine_NC: ArrayLike) -> Floats:
    """The best class's cosine, shape (N,). Any positive factor on it detects alike."""
    return np.asarray(real("cosine_NC", cosine_NC, 2).max(axis=1))


def log_max_softmax(cosine_NC: ArrayLike, logit_scale: float) -> Floats:
    """Logarithm of the maximum softmax probability of ``logit_scale * cosine``, float64 of shape (N,).

    The logarithm detects as the probability does, but keeps apart what would all round to 1.

    Raises:
        MetricError: a scale that is not positive and finite.
    """
    if not (np.isfinite(logit_scale) and logit_scale > 0):
        raise MetricError(f"must be positive and finite, got {logit_scale!r}", where="logit_scale")
    logits = logit_scale * real("cosine_NC", cosine_NC, 2).astype(np.float64)
    best = logits.argmax(axis=1)[:, None]
    others = np.exp(logits - np.take_along_axis(logits, best, axis=1))
    np.put_along_axis(others, best, 0.0, axis=1)
    return np.asarray(-np.log1p(others.sum(axis=1)))


def detection(in_N: ArrayLike, out_M: ArrayLike) -> Detection:
    """Measures of a confidence, ties included.

    Args:
        in_N: confidence of the samples in distribution.
        out_M: confidence of the others.

    Raises:
        MetricError: either is empty or not finite.
    """
    rank_N, rank_M, values = _ranks(in_N, out_M)
    counts = (np.bincount(rank, minlength=values)[None] for rank in (rank_N, rank_M))
    return Detection(**{name: float(value[0]) for name, value in _measure(*counts).items()})


def tied_pairs(in_N: ArrayLike, out_M: ArrayLike) -> float:
    """Share of the pairs of an "in" and an "out" sample that are equally confident; AUROC counts half."""
    rank_N, rank_M, values = _ranks(in_N, out_M)
    equal = np.bincount(rank_N, minlength=values) @ np.bincount(rank_M, minlength=values)
    return float(equal) / (len(rank_N) * len(rank_M))


def detection_intervals(
    in_N: ArrayLike, out_M: ArrayLike, *, seed: int = 0, draws: int = 1000, level: float = 0.95
) -> dict[str, Interval]:
    """Percentile bootstrap of every measure, by its name; both sets are resampled, each by itself.

    Raises:
        MetricError: as ``detection``, or a set of one sample.
    """
    rank_N, rank_M, values = _ranks(in_N, out_M)
    rng = resampling(min(len(rank_N), len(rank_M)), seed, draws, level)
    found: dict[str, list[_F64]] = {name: [] for name in MEASURES}
    rows = max(1, _CHUNK // (len(rank_N) + len(rank_M)))
    for start in range(0, draws, rows):
        r = min(rows, draws - start)
        counts = (_resampled(rng, rank, values, r) for rank in (rank_N, rank_M))
        for name, replicates in _measure(*counts).items():
            found[name].append(replicates)
    return {
        name: percentile_interval(np.concatenate(parts), level, "bootstrap") for name, parts in found.items()
    }


def _ranks(in_N: ArrayLike, out_M: ArrayLike) -> tuple[Ints, Ints, int]:
    """Each sample's place among the distinct values, highest first, and how many there are."""
    inside, outside = real("in_N", in_N, 1), real("out_M", out_M, 1)
    values, place = np.unique(-np.concatenate([inside, outside]), return_inverse=True)
    place = place.reshape(-1).astype(np.int64)
    return place[: len(inside)], place[len(inside) :], len(values)


def _resampled(rng: np.random.Generator, rank_N: Ints, values: int, rows: int) -> Ints:
    """Counts at each value of ``rows`` bootstrap samples, shape (rows, values)."""
    picks = rank_N[rng.integers(0, len(rank_N), size=(rows, len(rank_N)))]
    cells = picks + values * np.arange(rows)[:, None]
    return np.bincount(cells.ravel(), minlength=rows * values).reshape(rows, values)


def _measure(in_RU: Ints, out_RU: Ints) -> dict[str, _F64]:
    """Every measure of each row, from the counts at the distinct values, highest first."""
    n, m = in_RU.sum(axis=1, keepdims=True), out_RU.sum(axis=1, keepdims=True)
    in_above, out_above = in_RU.cumsum(axis=1), out_RU.cumsum(axis=1)
    in_below, out_below = n - in_above + in_RU, m - out_above + out_RU
    enough = (in_above >= TRUE_POSITIVES * n - 1e-9).argmax(axis=1)[:, None]
    return {
        "auroc": (in_RU * (m - out_above + 0.5 * out_RU)).sum(axis=1) / (n * m)[:, 0],
        "aupr_in": _average_precision(in_RU, in_above, in_above + out_above),
        "aupr_out": _average_precision(out_RU, out_below, out_below + in_below),
        "fpr95": (np.take_along_axis(out_above, enough, axis=1) / m)[:, 0],
    }


def _average_precision(positive_RU: Ints, hits_RU: Ints, chosen_RU: Ints) -> _F64:
    precision = hits_RU / np.maximum(chosen_RU, 1)
    return np.asarray((positive_RU * precision).sum(axis=1) / positive_RU.sum(axis=1), np.float64)
