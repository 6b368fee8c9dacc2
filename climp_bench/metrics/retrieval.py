"""Image-text retrieval: recall at k in both directions, with the outcome of every query kept.

Protocol: CLIP_benchmark ``metrics/zeroshot_retrieval.py``. ``image_retrieval_recall@k`` is text to image,
over texts: is the text's image among the k best? ``text_retrieval_recall@k`` is image to text, over images:
is *any* of the image's captions among the k best? (so a hit rate, not a true recall).

Tie rule: of two equal scores the candidate with the lower index ranks first; queries whose outcome this
decides are counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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


@dataclass(frozen=True)
class Standing:
    """Where each query's best match stands.

    Attributes:
        above_Q: candidates with a higher score.
        before_Q: wrong candidates with an equal score and a lower index.
        tied_Q: all wrong candidates with an equal score.
    """

    above_Q: Ints
    before_Q: Ints
    tied_Q: Ints

    def hits(self, k: int) -> Bools:
        """Whether each query's best match is among its ``k`` best candidates."""
        return self.above_Q + self.before_Q < k

    def ties(self, k: int) -> int:
        """For how many queries another order of equal scores could decide otherwise at ``k``."""
        return int(np.count_nonzero((self.above_Q < k) & (self.above_Q + self.tied_Q >= k)))


StandingOf = Callable[[Float32s, Float32s, Ints, Ints, int], Standing]
"""What finds where the best match of each query stands among all candidates: see ``standing_by_numpy``."""


@dataclass(frozen=True)
class Matches:
    """The matches of some consecutive queries, K in all, those of one query together.

    Attributes:
        queries: which queries, R of them.
        row_K: the query of each match, from 0 for the first of these queries.
        candidate_K: the candidate of each match, ascending for each query.
        offset_R: where the matches of each query begin.
    """

    queries: slice
    row_K: Ints
    candidate_K: Ints
    offset_R: Ints


def rows_at_a_time(query_QD: Float32s, candidate_CD: Float32s, budget: int) -> int:
    """Of how many queries ``budget`` holds the scores; one at least."""
    return min(max(1, budget // len(candidate_CD)), len(query_QD))


def matches(group_of_query_Q: Ints, group_of_candidate_C: Ints, rows: int) -> Iterator[Matches]:
    """The matches of ``rows`` queries at a time."""
    order = np.argsort(group_of_candidate_C, kind="stable")
    starts_Q, stops_Q = (
        np.searchsorted(group_of_candidate_C[order], group_of_query_Q, side) for side in ("left", "right")
    )
    for first in range(0, len(group_of_query_Q), rows):
        some = slice(first, first + rows)
        sizes = stops_Q[some] - starts_Q[some]
        offsets = np.cumsum(sizes) - sizes
        places = np.arange(sizes.sum()) + np.repeat(starts_Q[some] - offsets, sizes)
        yield Matches(some, np.repeat(np.arange(len(sizes)), sizes), order[places], offsets)


def recall_at_k(
    image_ND: ArrayLike,
    text_MD: ArrayLike,
    image_of_text_M: ArrayLike,
    ks: Sequence[int] = (1, 5, 10),
    *,
    chunk_scores: int = CHUNK_SCORES,
    standing_of: StandingOf | None = None,
) -> RetrievalOutcome:
    """Score every text against every image and see which queries find their match.

    Args:
        image_ND, text_MD: embeddings, expected unit-norm; scores are float32 dot products.
        image_of_text_M: for each text the index of its image; every image needs at least one text.
        ks: cut-offs, at least 1; one beyond the number of candidates is always a hit.
        chunk_scores: how many scores to hold in memory at a time; does not change the definition.
        standing_of: multiplies and compares; by default ``standing_by_numpy``.

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
    standing_of = standing_of or standing_by_numpy
    text_standing = standing_of(text, image, owner, images, chunk_scores)
    image_standing = standing_of(image, text, images, owner, chunk_scores)
    cuts = tuple(sorted({int(k) for k in ks}))
    return RetrievalOutcome(
        ks=cuts,
        text_hits_M={k: text_standing.hits(k) for k in cuts},
        image_hits_N={k: image_standing.hits(k) for k in cuts},
        text_ties={k: text_standing.ties(k) for k in cuts},
        image_ties={k: image_standing.ties(k) for k in cuts},
        image_of_text_M=owner,
    )


def standing_by_numpy(
    query_QD: Float32s,
    candidate_CD: Float32s,
    group_of_query_Q: Ints,
    group_of_candidate_C: Ints,
    budget: int,
) -> Standing:
    """Where the best match of each query stands, on the CPU.

    A candidate matches a query when both have the same group; each query has at least one match.

    Args:
        query_QD, candidate_CD: embeddings; scores are their dot products.
        group_of_query_Q, group_of_candidate_C: what belongs together.
        budget: how many scores to hold at a time.
    """
    above, before, tied = (np.zeros(len(query_QD), np.int64) for _ in range(3))
    held = np.empty((rows_at_a_time(query_QD, candidate_CD, budget), len(candidate_CD)), np.float32)
    for some in matches(group_of_query_Q, group_of_candidate_C, len(held)):
        query_RD = query_QD[some.queries]
        scores_RC = np.matmul(query_RD, candidate_CD.T, out=held[: len(query_RD)])
        best_R = np.maximum.reduceat(scores_RC[some.row_K, some.candidate_K], some.offset_R)
        for q, (score_C, best) in enumerate(zip(scores_RC, best_R, strict=True), some.queries.start):
            reached = np.count_nonzero(score_C >= best)
            if reached == 1:  # by the match alone, as for most queries: nothing above, nothing tied
                continue
            above[q] = np.count_nonzero(score_C > best)
            if reached > above[q] + 1:
                equal = np.flatnonzero(score_C == best)
                right = group_of_candidate_C[equal] == group_of_query_Q[q]
                before[q], tied[q] = right.argmax(), np.count_nonzero(~right)
    return Standing(above, before, tied)
