"""The geometry of image and text embeddings of a captioned set (CLIMP, Table 6)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from climp_bench.embed.sets import EmbeddingSet, Floats, Ints
from climp_bench.errors import DataError
from climp_bench.eval.scores import Score
from climp_bench.metrics import geometry
from climp_bench.metrics.uncertainty import bootstrap_mean
from climp_bench.specs import Interval

NEIGHBOURS = 10
SAMPLES = 20
_OF_THE_SET = "exact on the whole set; --sample N estimates it with an interval"


def describe(embeddings: EmbeddingSet, *, sample: int | None = None, seed: int = 0) -> list[Score]:
    """Alignment, uniformity, modality gap, effective rank and hubness both ways.

    Hubs among images are counted over the texts as queries, as in ``image_retrieval_recall``, and the other
    way round.

    Args:
        embeddings: with captions.
        sample: estimate on ``SAMPLES`` random subsets of so many images, with all their texts: the mean, and
            the interval that holds 95% of the subsets. None is exact. More than there are is exact too.
        seed: of subsets and bootstrap.

    Raises:
        DataError: the data set has no captions.
    """
    notes = embeddings.notes
    if notes.kind != "retrieval":
        raise DataError(
            f"geometry compares images with their captions; this is a {notes.kind} task",
            remedy="Name a retrieval task.",
        )
    n = len(embeddings.images)
    if sample is None or sample >= n:
        values = _measure(embeddings.images, embeddings.texts, notes.owner)
        distances = np.linalg.norm(embeddings.images[notes.owner] - embeddings.texts, axis=1) ** 2
        intervals = {"alignment": bootstrap_mean(distances, clusters_N=notes.owner, seed=seed)}
        return [_score(name, value, intervals.get(name), n, sample) for name, value in values.items()]
    rng = np.random.default_rng(seed)
    picks = [np.sort(rng.choice(n, sample, replace=False)) for _ in range(SAMPLES)]
    found = [_measure(*_subset(embeddings, pick)) for pick in picks]
    scores = []
    for name in found[0]:
        drawn = [values[name] for values in found]
        known = [value for value in drawn if value is not None]
        mean = float(np.mean(known)) if len(known) == len(drawn) else None
        scores.append(_score(name, mean, _spread(known) if mean is not None else None, sample, sample))
    return scores


def _measure(image_ND: Floats, text_MD: Floats, owner_M: Ints) -> dict[str, float | None]:
    """Every quantity by name; None where there are too few candidates for it."""
    values: dict[str, float | None] = {
        "alignment": geometry.alignment(image_ND, text_MD, owner_M),
        "uniformity_image": geometry.uniformity(image_ND),
        "uniformity_text": geometry.uniformity(text_MD),
        "uniformity_joint": geometry.uniformity(np.concatenate([image_ND, text_MD])),
        "modality_gap": geometry.modality_gap(image_ND, text_MD),
        "effective_rank_image": geometry.effective_rank(image_ND),
        "effective_rank_text": geometry.effective_rank(text_MD),
    }
    for side, queries, candidates in (("image", text_MD, image_ND), ("text", image_ND, text_MD)):
        enough = len(candidates) > NEIGHBOURS
        hubs = geometry.hubness(queries, candidates, k=NEIGHBOURS) if enough else None
        for name in ("skewness", "robin_hood", "anti_hubs"):
            values[f"{side}_hub_{name}@{NEIGHBOURS}"] = getattr(hubs, name) if hubs else None
    return values


def _subset(embeddings: EmbeddingSet, pick: Ints) -> tuple[Floats, Floats, Ints]:
    """The images ``pick`` (sorted) with their texts."""
    owner = embeddings.notes.owner
    own = np.flatnonzero(np.isin(owner, pick))
    return embeddings.images[pick], embeddings.texts[own], np.searchsorted(pick, owner[own])


def _spread(values: Sequence[float]) -> Interval:
    low, high = np.percentile(values, [2.5, 97.5])
    return Interval(float(low), float(high), 0.95, "subsets")


def _score(name: str, value: float | None, interval: Interval | None, n: int, sample: int | None) -> Score:
    reason = ""
    if value is None:
        reason = f"needs more than {NEIGHBOURS} candidates"
    elif interval is None:
        reason = _OF_THE_SET
    return Score(name, value, interval, n, reason=reason, extra={"sampled_images": sample})
