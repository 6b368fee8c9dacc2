"""Statistics of many bootstrap samples at once: sample indices (R, n) in, one value a row out.

Each gives what the metric of the same name gives for ``scores[picks[r]]``; a row for which it is undefined
is NaN, which the bootstrap refuses. Of two equal scores the sample that comes first in the data ranks first.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


def mean_recalls(picks_RN: Ints, correct_N: Bools, labels_N: Ints) -> Floats:
    """The mean over the classes present of the share of their samples that are correct, (R,)."""
    n_classes = int(labels_N.max()) + 1
    cells = labels_N[picks_RN] + n_classes * np.arange(len(picks_RN))[:, None]
    shape = len(picks_RN), n_classes
    counts = np.bincount(cells.ravel(), minlength=shape[0] * shape[1]).reshape(shape)
    hits = np.bincount(cells[correct_N[picks_RN]], minlength=shape[0] * shape[1]).reshape(shape)
    recalls: Floats = (hits / np.maximum(counts, 1)).sum(axis=1) / (counts > 0).sum(axis=1)
    return recalls


def mean_average_precisions(picks_RN: Ints, scores_NC: npt.NDArray[np.float32], targets_NC: Bools) -> Floats:
    """The mean over the classes that have a positive of their average precision, (R,)."""
    total, present = np.zeros(len(picks_RN)), np.zeros(len(picks_RN))
    places = np.arange(1, picks_RN.shape[1] + 1)
    for scores, targets in zip(scores_NC.T, targets_NC.T, strict=True):
        order = np.argsort(-scores, kind="stable")
        rank = np.empty(len(order), np.int32)
        rank[order] = np.arange(len(order), dtype=np.int32)
        positives = targets[order][np.sort(rank[picks_RN], axis=1)]
        found = positives.cumsum(axis=1)
        precisions = np.where(positives, found / places, 0.0).sum(axis=1)
        total += precisions / np.maximum(found[:, -1], 1)
        present += found[:, -1] > 0
    means = np.full(len(picks_RN), np.nan)
    np.divide(total, present, out=means, where=present > 0)
    return means
