"""Long captions: how many tokens they have, which are cut, and what is found of those that are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from climp_bench.embed.sets import Annotations, EmbeddingSet
from climp_bench.errors import DataError, UsageError
from climp_bench.eval.retrieval import retrieve
from climp_bench.eval.scores import Score
from climp_bench.metrics.uncertainty import bootstrap_mean, wilson
from climp_bench.models.adapters import Encoder
from climp_bench.specs import Interval

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
LENGTHS = ("tokens_min", "tokens_median", "tokens_p95", "tokens_max")
SHARE = "truncated_share"
_OF_THE_SET = "exact on the set"


def at(metric: str, tokens: int) -> str:
    """The name of a recall with captions cut to so many tokens: ``image_retrieval_recall_32_tokens@5``."""
    name, _, k = metric.partition("@")
    return f"{name}_{tokens}_tokens@{k}"


def of(metric: str, stratum: str) -> str:
    """The name of a recall over the ``truncated`` or the ``whole`` captions alone."""
    name, _, k = metric.partition("@")
    return f"{name}_{stratum}@{k}"


def lengths_and_recall(
    notes: Annotations,
    encoder: Encoder,
    own: Sequence[Score],
    max_tokens: Sequence[int],
    embed: Callable[[Encoder, Bools], EmbeddingSet],
    ks: Sequence[int],
    seed: int = 0,
) -> list[Score]:
    """Token lengths, the truncated share, recall of truncated and of whole captions, and of cut ones.

    Recall of a stratum ranks all candidates; only the queries are those of the stratum. An image is in the
    truncated one if a caption of it is.

    Args:
        notes: captions and their images.
        encoder: the model, whose tokens are counted.
        own: recall of the captions as they are, with outcomes.
        max_tokens: lengths to which captions are cut beside.
        embed: the embeddings with those of some captions made anew, by an encoder that cuts.
        ks: cut-offs of recall.
        seed: of the bootstrap.

    Raises:
        DataError: the data set has no captions.
    """
    if notes.kind != "retrieval":
        what = f"dense measures how captions are found; this is a {notes.kind} task"
        raise DataError(what, remedy="Name a retrieval task.")
    tokens_M = np.array(encoder.count_tokens(notes.texts), np.int64)
    context = encoder.context_length
    truncated_M = _truncated(tokens_M, context)
    scores = _lengths(tokens_M, truncated_M, notes.owner, context, seed)
    scores += _strata(own, truncated_M, notes.owner, seed)
    for limit in max_tokens:
        longer = tokens_M > limit if context is None or limit < context else np.zeros_like(truncated_M)
        extra = {"max_tokens": limit, "truncated_share": float((longer | truncated_M).mean())}
        try:
            cut = embed(encoder.at_length(limit), longer)
            found = retrieve(cut, ks, seed, device=encoder.device)
        except UsageError as error:
            found = [
                Score(score.metric, None, None, score.n, reason=str(error))
                for score in own
                if "recall" in score.metric
            ]
        scores += [
            replace(score, metric=at(score.metric, limit), extra={**score.extra, **extra}, outcomes=None)
            for score in found
        ]
    return scores


def _truncated(tokens_M: Ints, limit: int | None) -> Bools:
    return np.zeros(len(tokens_M), np.bool_) if limit is None else tokens_M > limit


def _lengths(
    tokens_M: Ints, truncated_M: Bools, owner_M: Ints, context: int | None, seed: int
) -> list[Score]:
    m = len(tokens_M)
    values = (tokens_M.min(), np.median(tokens_M), np.percentile(tokens_M, 95), tokens_M.max())
    extra: dict[str, float | int | str | None] = {"context_length": context}
    scores = [
        Score(name, float(value), None, m, reason=_OF_THE_SET, extra=extra)
        for name, value in zip(LENGTHS, values, strict=True)
    ]
    share = float(truncated_M.mean())
    if context is None:
        return [*scores, Score(SHARE, share, None, m, reason="the model cuts no text", extra=extra)]
    return [*scores, Score(SHARE, share, _share(truncated_M, owner_M, seed), m, extra=extra)]


def _share(flags_N: Bools, owner_N: Ints, seed: int) -> Interval:
    """Of a share of captions: by images where they have several captions, or else Wilson's."""
    several = len(np.unique(owner_N)) < len(owner_N)
    if several and flags_N.any() and not flags_N.all():
        return bootstrap_mean(flags_N.astype(np.float64), clusters_N=owner_N, seed=seed)
    return wilson(int(flags_N.sum()), len(flags_N))


def _strata(own: Sequence[Score], truncated_M: Bools, owner_M: Ints, seed: int) -> list[Score]:
    """The recalls of ``own`` over queries with and without truncated captions."""
    scores = []
    for score in own:
        if score.outcomes is None or "recall" not in score.metric:
            continue
        hits = score.outcomes
        cut = truncated_M
        owner = owner_M
        if score.over == "images":
            owner = np.arange(len(hits))
            cut = np.bincount(owner_M, weights=truncated_M, minlength=len(hits)) > 0
        for stratum, members in (("truncated", cut), ("whole", ~cut)):
            n, name = int(members.sum()), of(score.metric, stratum)
            if n == 0:
                none = "no caption is truncated" if stratum == "truncated" else "every caption is truncated"
                scores.append(Score(name, None, None, 0, reason=none))
                continue
            interval = _share(hits[members], owner[members], seed)
            scores.append(Score(name, float(hits[members].mean()), interval, n))
    return scores
