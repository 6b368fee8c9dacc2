"""Zero-shot classification: class weights from prompts, scores, accuracy, per-class recall, groups.

Protocol: CLIP_benchmark ``metrics/zeroshot_classification.py``, scored in float32.

Tie rule, everywhere in this module: of two equal scores the class with the lower index ranks first. Accuracy
and per-class recall therefore always agree on the predicted class; :func:`ties_at_k` counts the samples
whose outcome this rule decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from climp_bench.errors import MetricError
from climp_bench.metrics._checks import (
    Bools,
    Float32s,
    Floats,
    Ints,
    flags,
    indices,
    integers,
    positive,
    real,
    same_length,
)

LOGIT_SCALE = np.float32(100.0)
_ROWS = 2048
"""Embeddings turned into float64 at a time: their copies stay in a core's cache."""


class GroupAccuracy(NamedTuple):
    """The accuracy of one group of samples and how many there are."""

    n: int
    accuracy: float


def prompt_weights(text_TD: ArrayLike, class_of_T: ArrayLike, n_classes: int) -> Float32s:
    """Class weights from prompt embeddings: L2-normalise each, average per class, L2-normalise.

    Args:
        text_TD: one embedding per prompt, of any norm but zero.
        class_of_T: the class of each prompt, in ``[0, n_classes)``; every class needs at least one.
        n_classes: C.

    Returns:
        Weights of shape (D, C) with unit columns.

    Raises:
        MetricError: a class has no prompt, or an embedding or a class mean has no direction.

    Source: Radford et al. 2021, section 3.1.4; CLIP_benchmark ``zero_shot_classifier``.
    """
    positive("n_classes", n_classes)
    text = real("text_TD", text_TD, 2)
    owner = indices("class_of_T", class_of_T, n_classes)
    same_length(text_TD=text, class_of_T=owner)
    counts = np.bincount(owner, minlength=n_classes)
    missing = np.flatnonzero(counts == 0)
    if missing.size:
        raise MetricError(f"{missing.size} class(es) have no prompt, the first is class {missing[0]}")
    norms = _norms("text_TD", text)
    of_class = np.split(np.argsort(owner, kind="stable"), np.cumsum(counts)[:-1])
    means = np.stack([(text[rows] / norms[rows]).mean(axis=0) for rows in of_class])
    weights = means / _norms("class means", means)
    return np.ascontiguousarray(weights.T, dtype=np.float32)


def class_scores(image_ND: ArrayLike, weights_DC: ArrayLike) -> Float32s:
    """Scores ``100 * image @ weights`` in float32, shape (N, C). Both inputs are expected unit-norm."""
    image = real("image_ND", image_ND, 2).astype(np.float32)
    weights = real("weights_DC", weights_DC, 2).astype(np.float32)
    if image.shape[1] != weights.shape[0]:
        raise MetricError(f"embedding widths differ: images {image.shape}, weights {weights.shape}")
    return np.asarray((LOGIT_SCALE * image) @ weights, dtype=np.float32)


def top_k_correct(scores_NC: ArrayLike, labels_N: ArrayLike, k: int = 1) -> Bools:
    """Whether the true class is among the ``k`` best, shape (N,). Needs ``1 <= k <= C``."""
    above, earlier_ties, _ = _standing(scores_NC, labels_N, k)
    return above + earlier_ties < k


def ties_at_k(scores_NC: ArrayLike, labels_N: ArrayLike, k: int = 1) -> int:
    """How many samples are right or wrong at ``k`` only because of the tie rule."""
    above, _, ties = _standing(scores_NC, labels_N, k)
    return int(np.count_nonzero((above < k) & (above + ties >= k)))


def accuracy(scores_NC: ArrayLike, labels_N: ArrayLike, k: int = 1) -> float:
    """The share of samples whose true class is among the ``k`` best, in [0, 1]. Needs ``k <= C``."""
    return float(top_k_correct(scores_NC, labels_N, k).mean())


def acc5(scores_NC: ArrayLike, labels_N: ArrayLike) -> float | None:
    """Top-5 accuracy; ``None`` where it is undefined, that is below five classes."""
    return accuracy(scores_NC, labels_N, 5) if real("scores_NC", scores_NC, 2).shape[1] >= 5 else None


def mean_per_class_recall(scores_NC: ArrayLike, labels_N: ArrayLike) -> float:
    """Recall of the best-scored class, averaged over the classes present in ``labels_N``.

    Equals scikit-learn's ``balanced_accuracy_score(labels, scores.argmax(1))``.
    """
    return mean_recall(top_k_correct(scores_NC, labels_N, 1), labels_N)


def mean_recall(correct_N: ArrayLike, labels_N: ArrayLike) -> float:
    """:func:`mean_per_class_recall` from per-sample outcomes; cheap enough to bootstrap."""
    correct, labels = flags("correct_N", correct_N), integers("labels_N", labels_N)
    same_length(correct_N=correct, labels_N=labels)
    if labels.min() < 0:
        raise MetricError(f"negative label {labels.min()}", where="labels_N")
    counts = np.bincount(labels)
    present = counts > 0
    return float((np.bincount(labels, weights=correct)[present] / counts[present]).mean())


def group_accuracy(correct_N: ArrayLike, groups_N: Sequence[str]) -> dict[str, GroupAccuracy]:
    """Accuracy and size of each named group, ordered by name."""
    correct, names = flags("correct_N", correct_N), np.asarray(groups_N, dtype=np.str_)
    same_length(correct_N=correct, groups_N=names)
    groups, owner, counts = np.unique(names, return_inverse=True, return_counts=True)
    hits = np.bincount(owner, weights=correct)
    return {str(g): GroupAccuracy(int(n), float(h / n)) for g, n, h in zip(groups, counts, hits, strict=True)}


def worst_group(groups: Mapping[str, GroupAccuracy]) -> tuple[str, GroupAccuracy]:
    """The group with the lowest accuracy (the first by name among equals) and its score.

    Source: Sagawa et al. 2020, worst-group accuracy.
    """
    if not groups:
        raise MetricError("there is no group to compare")
    name = min(sorted(groups), key=lambda g: groups[g].accuracy)
    return name, groups[name]


def _standing(scores_NC: ArrayLike, labels_N: ArrayLike, k: int) -> tuple[Ints, Ints, Ints]:
    """Per sample: classes scored above the true one, equal ones of lower index, all other equal ones."""
    positive("k", k)
    scores = real("scores_NC", scores_NC, 2)
    n_classes = scores.shape[1]
    if k > n_classes:
        raise MetricError(f"top-{k} is undefined for {n_classes} classes", where="k")
    labels = indices("labels_N", labels_N, n_classes)
    same_length(scores_NC=scores, labels_N=labels)
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    equal = scores == own
    earlier = equal & (np.arange(n_classes) < labels[:, None])
    return (scores > own).sum(1), earlier.sum(1), equal.sum(1) - 1


def _norms(name: str, rows: Floats) -> Floats:
    """The norm of each row in float64, (N, 1)."""
    blocks = (rows[start : start + _ROWS].astype(np.float64) for start in range(0, len(rows), _ROWS))
    norms = np.concatenate([np.linalg.norm(block, axis=1, keepdims=True) for block in blocks])
    if not (norms > 1e-12).all():
        raise MetricError(f"row {int(np.argmin(norms))} has norm 0 and thus no direction", where=name)
    return norms
