"""The geometry of a joint embedding space: alignment, uniformity, modality gap, effective rank, hubness.

All functions expect unit-norm embeddings, compute in float64 and hold a bounded number of scores at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from climp_bench.errors import MetricError
from climp_bench.metrics._checks import Floats, indices, positive, real, same_length, same_width

_CHUNK = 2_000_000
_NORM_TOLERANCE = 1e-3


def alignment(
    image_ND: ArrayLike, text_MD: ArrayLike, image_of_text_M: ArrayLike, *, alpha: float = 2.0
) -> float:
    """The mean distance of matching pairs to the power ``alpha``; lower is better, 0 is perfect.

    Source: Wang and Isola 2020, equation 1, with pairs (image, each of its texts).
    """
    image, text = _pair(image_ND, text_MD)
    owner = indices("image_of_text_M", image_of_text_M, len(image))
    same_length(text_MD=text, image_of_text_M=owner)
    return float((np.linalg.norm(image[owner] - text, axis=1) ** alpha).mean())


def uniformity(embedding_ND: ArrayLike, *, t: float = 2.0) -> float:
    """``log mean exp(-t * squared distance)`` over distinct pairs; at most 0, lower is more uniform.

    Source: Wang and Isola 2020, equation 2 (the pairs i < j, as in their published code).
    """
    x = _unit("embedding_ND", embedding_ND)
    n = len(x)
    if n < 2:
        raise MetricError("uniformity needs at least two embeddings", where="embedding_ND")
    total = 0.0
    rows = max(1, _CHUNK // n)
    for start in range(0, n, rows):
        squared = np.maximum(2.0 - 2.0 * (x[start : start + rows] @ x[start:].T), 0.0)
        total += float(np.triu(np.exp(-t * squared), k=1).sum())
    return float(np.log(total / (n * (n - 1) / 2)))


def modality_gap(image_ND: ArrayLike, text_MD: ArrayLike) -> float:
    """The distance between the mean image and the mean text embedding, in [0, 2].

    Source: Liang et al. 2022, section 4.2.
    """
    image, text = _pair(image_ND, text_MD)
    return float(np.linalg.norm(image.mean(axis=0) - text.mean(axis=0)))


def effective_rank(embedding_ND: ArrayLike) -> float:
    """The exponential of the entropy of the singular values' shares: how many dimensions are in use.

    Between 1 (all rows on one line through the origin) and D.

    Source: Roy and Vetterli 2007, definition 1; on embeddings, Garrido et al. 2023 (RankMe).
    """
    x = _unit("embedding_ND", embedding_ND)
    singular = np.sqrt(np.maximum(np.linalg.eigvalsh(x.T @ x), 0.0))
    shares = singular / singular.sum()
    used = shares[shares > 0]
    return float(np.exp(-(used * np.log(used)).sum()))


@dataclass(frozen=True)
class Hubness:
    """How unevenly the candidates occur among the nearest neighbours of queries.

    Attributes:
        skewness: of N_k; 0 means no hubs (also, by convention, when every candidate occurs equally often).
        robin_hood: share of all occurrences that would have to move for every candidate to occur equally
            often, in [0, 1).
        anti_hubs: share of the candidates that occur for no query, in [0, 1).
    """

    skewness: float
    robin_hood: float
    anti_hubs: float


def hubness(query_QD: ArrayLike, candidate_CD: ArrayLike, *, k: int = 10) -> Hubness:
    """Statistics of N_k, how often each candidate is among the ``k`` nearest of a query.

    Raises:
        MetricError: ``k`` is not below the number of candidates (then every candidate occurs equally often).

    Source: Radovanovic, Nanopoulos and Ivanovic 2010, sections 2 and 3 (skewness, anti-hubs); Feldbauer,
    Leodolter, Plant and Flexer 2018 (Robin Hood index).
    """
    counts = neighbour_counts(query_QD, candidate_CD, k=k)
    centred = counts - counts.mean()
    spread = float(np.sqrt((centred**2).mean()))
    return Hubness(
        skewness=float((centred**3).mean() / spread**3) if spread > 0 else 0.0,
        robin_hood=float(np.abs(centred).sum() / (2 * counts.sum())),
        anti_hubs=float((counts == 0).mean()),
    )


def neighbour_counts(query_QD: ArrayLike, candidate_CD: ArrayLike, *, k: int = 10) -> NDArray[np.int64]:
    """N_k: for each candidate, how many queries have it among their ``k`` nearest, shape (C,).

    Of equal scores the lower index is nearer.
    """
    positive("k", k)
    query, candidate = _pair(query_QD, candidate_CD, names=("query_QD", "candidate_CD"))
    n = len(candidate)
    if k >= n:
        raise MetricError(f"k = {k} must be below the number of candidates, {n}", where="k")
    counts = np.zeros(n, np.int64)
    rows = max(1, _CHUNK // n)
    for start in range(0, len(query), rows):
        scores = query[start : start + rows] @ candidate.T
        kth = np.partition(scores, n - k, axis=1)[:, n - k, None]
        nearer, equal = scores > kth, scores == kth
        room = k - nearer.sum(axis=1, keepdims=True)
        counts += (nearer | (equal & (equal.cumsum(axis=1) <= room))).sum(axis=0)
    return counts


def _unit(name: str, values: ArrayLike) -> Floats:
    x = real(name, values, 2).astype(np.float64)
    worst = float(np.abs(np.linalg.norm(x, axis=1) - 1.0).max())
    if worst > _NORM_TOLERANCE:
        raise MetricError(f"rows are not unit-norm (one is off by {worst:.3g})", where=name)
    return x


def _pair(
    first: ArrayLike, second: ArrayLike, names: tuple[str, str] = ("image_ND", "text_MD")
) -> tuple[Floats, Floats]:
    a, b = _unit(names[0], first), _unit(names[1], second)
    same_width(**{names[0]: a, names[1]: b})
    return a, b
