"""Image-text retrieval: recall at k in both directions, with the outcome of every query kept.

Protocol: CLIP_benchmark ``metrics/zeroshot_retrieval.py``. ``image_retrieval_recall@k`` is text to image,
over texts: is the text's image among the k best? ``text_retrieval_recall@k`` is image to text, over images:
is *any* of the image's captions among the k best? (so a hit rate, not a true recall).

Tie rule: of two equal scores the candidate with the lower index ranks first; queries whose outcome this
decides are counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from climp_bench.errors import MetricError
from climp_bench.metrics._checks import (
    Bools,
    Float32s,
    Ints,
    indices,
    positive,
    real,
    same_length,
    same_width,
)

CHUNK_SCORES = 32_000_000
"""Scores held at a time (128 MB in float32): enough that a million candidates are multiplied by some rows."""


@dataclass(frozen=True)
class RetrievalOutcome:
    """Which queries found their match, for each k.

    Attributes:
        ks: the cut-offs, ascending.
        text_hits_M: for each k, one boolean per text (text to image).
        image_hits_N: for each k, one boolean per image (image to text, any caption).
        text_ties, image_ties: for each k, how many queries the tie rule decided.
        image_of_text_M: the image each text belongs to; also the clusters of a bootstrap over texts.
    """

    ks: tuple[int, ...]
    text_hits_M: dict[int, Bools]
    image_hits_N: dict[int, Bools]
    text_ties: dict[int, int]
    image_ties: dict[int, int]
    image_of_text_M: Ints

    def image_retrieval_recall(self, k: int) -> float:
        """The share of texts whose image is among the ``k`` best images."""
        return float(self.text_hits_M[k].mean())

    def text_retrieval_recall(self, k: int) -> float:
        """The share of images with a caption of theirs among the ``k`` best texts."""
        return float(self.image_hits_N[k].mean())


def recall_at_k(
    image_ND: ArrayLike,
    text_MD: ArrayLike,
    image_of_text_M: ArrayLike,
    ks: Sequence[int] = (1, 5, 10),
    *,
    chunk_scores: int = CHUNK_SCORES,
) -> RetrievalOutcome:
    """Score every text against every image and see which queries find their match.

    Args:
        image_ND, text_MD: embeddings, expected unit-norm; scores are float32 dot products.
        image_of_text_M: for each text the index of its image; every image needs at least one text.
        ks: cut-offs, at least 1; one beyond the number of candidates is always a hit.
        chunk_scores: how many scores to hold in memory at a time; does not change the definition.

    Raises:
        MetricError: an image without captions, an index out of range, misshapen or non-finite input.
    """
    if not ks:
        raise MetricError("at least one cut-off is needed", where="ks")
    for k in ks:
        positive("ks", k)
    image = real("image_ND", image_ND, 2).astype(np.float32)
    text = real("text_MD", text_MD, 2).astype(np.float32)
    same_width(image_ND=image, text_MD=text)
    owner = indices("image_of_text_M", image_of_text_M, len(image))
    same_length(text_MD=text, image_of_text_M=owner)
    bare = np.flatnonzero(np.bincount(owner, minlength=len(image)) == 0)
    if bare.size:
        raise MetricError(
            f"{bare.size} image(s) have no caption, the first is image {bare[0]}",
            where="image_of_text_M",
            remedy="Drop images without captions before scoring; they have no right answer.",
        )
    images = np.arange(len(image))
    text_standing = _best_match(text, image, owner, images, chunk_scores)
    image_standing = _best_match(image, text, images, owner, chunk_scores)
    cuts = tuple(sorted({int(k) for k in ks}))
    return RetrievalOutcome(
        ks=cuts,
        text_hits_M={k: text_standing.hits(k) for k in cuts},
        image_hits_N={k: image_standing.hits(k) for k in cuts},
        text_ties={k: text_standing.ties(k) for k in cuts},
        image_ties={k: image_standing.ties(k) for k in cuts},
        image_of_text_M=owner,
    )


@dataclass(frozen=True)
class _Standing:
    """Where each query's best match stands: candidates above it, wrong ones tied before it, all tied."""

    above_Q: Ints
    before_Q: Ints
    tied_Q: Ints

    def hits(self, k: int) -> Bools:
        return self.above_Q + self.before_Q < k

    def ties(self, k: int) -> int:
        return int(np.count_nonzero((self.above_Q < k) & (self.above_Q + self.tied_Q >= k)))


def _best_match(
    query_QD: Float32s,
    candidate_CD: Float32s,
    group_of_query_Q: Ints,
    group_of_candidate_C: Ints,
    budget: int,
) -> _Standing:
    """A candidate matches a query when both have the same group; each query has at least one match."""
    order = np.argsort(group_of_candidate_C, kind="stable")
    starts, stops = (
        np.searchsorted(group_of_candidate_C[order], group_of_query_Q, side) for side in ("left", "right")
    )
    above, before, tied = (np.zeros(len(query_QD), np.int64) for _ in range(3))
    rows = min(max(1, budget // len(candidate_CD)), len(query_QD))
    held = np.empty((rows, len(candidate_CD)), np.float32)
    for first in range(0, len(query_QD), rows):
        some = slice(first, first + rows)
        query_RD = query_QD[some]
        scores_RC = np.matmul(query_RD, candidate_CD.T, out=held[: len(query_RD)])
        best_R = _best_scores(scores_RC, order, starts[some], stops[some])
        for q, (score_C, best) in enumerate(zip(scores_RC, best_R, strict=True), first):
            reached = np.count_nonzero(score_C >= best)
            if reached == 1:  # by the match alone, as for most queries: nothing above, nothing tied
                continue
            above[q] = np.count_nonzero(score_C > best)
            if reached > above[q] + 1:
                equal = np.flatnonzero(score_C == best)
                right = group_of_candidate_C[equal] == group_of_query_Q[q]
                before[q], tied[q] = right.argmax(), np.count_nonzero(~right)
    return _Standing(above, before, tied)


def _best_scores(scores_RC: Float32s, order_C: Ints, starts_R: Ints, stops_R: Ints) -> Float32s:
    """Each row's highest score among its matches, the candidates ``order_C[start:stop]`` (at least one)."""
    sizes = stops_R - starts_R
    offsets = np.cumsum(sizes) - sizes
    places = np.arange(sizes.sum()) + np.repeat(starts_R - offsets, sizes)
    matches = scores_RC[np.repeat(np.arange(len(sizes)), sizes), order_C[places]]
    best_R: Float32s = np.maximum.reduceat(matches, offsets)
    return best_R
