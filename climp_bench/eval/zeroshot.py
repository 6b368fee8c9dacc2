"""Zero-shot classification, single-label and multilabel (Radford et al. 2021, section 3.1).

Protocol as in CLIP_benchmark 48de38c, ``zeroshot_classification.py``, with float32 scores: prompt
embeddings are normalised, averaged per class and normalised again; logits are 100 times the cosine.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import numpy.typing as npt

from climp_bench.embed.sets import Annotations, EmbeddingSet, merge_shared_names
from climp_bench.eval.protocol import half_scores
from climp_bench.eval.resampled import mean_average_precisions, mean_recalls
from climp_bench.eval.scores import Score
from climp_bench.metrics import classification as metrics
from climp_bench.metrics.multilabel import mean_average_precision
from climp_bench.metrics.uncertainty import bootstrap_statistics, wilson
from climp_bench.suite.protocols import Rules, rules

RECALL_DRAWS = 1000
MAP_DRAWS = 200
SMALLEST_GROUP = 10
"""A group with fewer samples is reported but cannot be the worst one: its accuracy says too little."""


def classify(
    embeddings: EmbeddingSet, seed: int = 0, *, protocol: str = "corrected", dtype: str = "float32"
) -> list[Score]:
    """``acc1``, ``acc5``, ``mean_per_class_recall`` and, with groups, ``worst_group_acc1``.

    Args:
        embeddings: with labels.
        seed: of the bootstrap.
        protocol: one of ``suite.protocols``.
        dtype: that the encoders computed in.
    """
    rule = rules(protocol)
    notes = embeddings.notes if rule.shared_names == "separate" else merge_shared_names(embeddings.notes)
    if notes.labels is None:
        raise ValueError("classification needs labels")
    labels = notes.labels
    logits = _logits(embeddings, notes, rule, dtype)
    correct = metrics.top_k_correct(logits, labels, 1)
    scores = [_accuracy(logits, labels, 1), _accuracy(logits, labels, 5)]
    predicted = logits.argmax(axis=1) == labels
    interval = bootstrap_statistics(
        partial(mean_recalls, correct_N=predicted, labels_N=labels),
        len(labels),
        seed=seed,
        draws=RECALL_DRAWS,
    )
    recall = metrics.mean_per_class_recall(logits, labels)
    scores.append(Score("mean_per_class_recall", recall, interval, len(labels)))
    if notes.groups is not None:
        scores.append(_worst_group(correct, notes.groups))
    return scores


def _logits(embeddings: EmbeddingSet, notes: Annotations, rule: Rules, dtype: str) -> npt.NDArray[np.float32]:
    weights = metrics.prompt_weights(embeddings.texts, notes.owner, len(notes.classes))
    if rule.half_scores and dtype != "float32":
        return half_scores(embeddings.images, weights, dtype)
    return metrics.class_scores(embeddings.images, weights)


def _accuracy(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], k: int) -> Score:
    n, n_classes = len(labels), logits.shape[1]
    if n_classes < k:
        return Score(f"acc{k}", None, None, n, reason=f"undefined for {n_classes} classes")
    hits = metrics.top_k_correct(logits, labels, k)
    ties = metrics.ties_at_k(logits, labels, k)
    interval = wilson(int(hits.sum()), n)
    return Score(f"acc{k}", float(hits.mean()), interval, n, extra={"ties": ties}, outcomes=hits)


def _worst_group(correct: npt.NDArray[np.bool_], groups: tuple[str, ...]) -> Score:
    """Sagawa et al. 2020: the lowest accuracy over groups (of at least ``SMALLEST_GROUP`` samples)."""
    by_group = metrics.group_accuracy(correct, groups)
    extra: dict[str, float | int | str | None] = {}
    for name, group in sorted(by_group.items()):
        extra[f"acc[{name}]"] = group.accuracy
        extra[f"n[{name}]"] = group.n
    large = {name: group for name, group in by_group.items() if group.n >= SMALLEST_GROUP}
    if not large:
        reason = f"no group has {SMALLEST_GROUP} samples"
        return Score("worst_group_acc1", None, None, 0, reason=reason, extra=extra)
    name, worst = metrics.worst_group(large)
    interval = wilson(round(worst.accuracy * worst.n), worst.n)
    return Score("worst_group_acc1", worst.accuracy, interval, worst.n, extra={"group": name, **extra})


def tag(embeddings: EmbeddingSet, protocol: str, seed: int = 0, *, dtype: str = "float32") -> list[Score]:
    """``mean_average_precision`` of a multilabel task.

    A class without positives counts as AP 0 or is left out, as the protocol says.
    """
    rule = rules(protocol)
    notes = embeddings.notes
    if notes.targets is None:
        raise ValueError("multilabel needs targets")
    targets = notes.targets
    logits = _logits(embeddings, notes, rule, dtype)
    value = mean_average_precision(logits, targets, empty_classes=rule.absent_classes)
    interval = bootstrap_statistics(
        partial(mean_average_precisions, scores_NC=logits, targets_NC=targets),
        len(targets),
        seed=seed,
        draws=MAP_DRAWS,
    )
    absent = int((~targets.any(axis=0)).sum())
    extra = {"classes_without_positives": absent}
    return [Score("mean_average_precision", value, interval, len(targets), extra=extra)]
