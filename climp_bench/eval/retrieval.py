"""Retrieval both ways (CLIP_benchmark 48de38c, ``zeroshot_retrieval.py``, with float32 scores).

``image_retrieval_recall@k`` is text -> image: over texts, 1 if the paired image is in the top k.
``text_retrieval_recall@k`` is image -> text: over images, 1 if any of its captions is in the top k.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from climp_bench.embed.sets import EmbeddingSet
from climp_bench.eval.scores import Score
from climp_bench.metrics.retrieval import CHUNK_SCORES, recall_at_k
from climp_bench.metrics.uncertainty import bootstrap_mean, wilson

MANY_SCORES = CHUNK_SCORES
"""Pairs of an image and a text that go to a GPU. Fewer take a CPU less than half a second, by proportion."""


def retrieve(
    embeddings: EmbeddingSet, ks: Sequence[int], seed: int = 0, *, device: str = "cpu"
) -> list[Score]:
    """Recall@k both ways; ``MANY_SCORES`` pairs or more are scored on ``device``.

    Intervals: Wilson over images for image -> text; for text -> image a bootstrap clustered by image,
    because captions of one image are not independent.
    """
    notes = embeddings.notes
    standing_of, where = None, {}
    if device != "cpu" and len(embeddings.images) * len(embeddings.texts) >= MANY_SCORES:
        from climp_bench.eval.standing import standing_on

        standing_of, where = standing_on(device), {"scores_computed_on": device}
    outcome = recall_at_k(embeddings.images, embeddings.texts, notes.owner, ks, standing_of=standing_of)
    scores = []
    for k in outcome.ks:
        hits = outcome.text_hits_M[k]
        interval = bootstrap_mean(hits.astype(np.float64), clusters_N=notes.owner, seed=seed)
        extra = {"ties": outcome.text_ties[k], "images": len(embeddings.images)} | where
        value = outcome.image_retrieval_recall(k)
        name = f"image_retrieval_recall@{k}"
        scores.append(Score(name, value, interval, len(hits), extra=extra, outcomes=hits, over="texts"))
    for k in outcome.ks:
        found = outcome.image_hits_N[k]
        interval = wilson(int(found.sum()), len(found))
        extra = {"ties": outcome.image_ties[k], "texts": len(embeddings.texts)} | where
        value = outcome.text_retrieval_recall(k)
        name = f"text_retrieval_recall@{k}"
        scores.append(Score(name, value, interval, len(found), extra=extra, outcomes=found))
    return scores
