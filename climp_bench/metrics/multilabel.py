"""Multi-label classification: average precision and its mean over classes.

Protocol: CLIP_benchmark ``average_precision_per_class`` (precision averaged at the positives, no
interpolation). Tie rule: of two equal scores the earlier sample ranks first.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from climp_bench.errors import MetricError
from climp_bench.metrics._checks import Bools, Floats, flags, real, same_length


def average_precision(scores_N: ArrayLike, positives_N: ArrayLike) -> float:
    """The mean, over positives, of the precision at their rank; in [0, 1], and 0.0 without positives."""
    scores, positives = real("scores_N", scores_N, 1), flags("positives_N", positives_N)
    same_length(scores_N=scores, positives_N=positives)
    return _average_precision(scores, positives)


def mean_average_precision(
    scores_NC: ArrayLike, targets_NC: ArrayLike, *, empty_classes: Literal["zero", "skip"] = "zero"
) -> float:
    """The plain mean of the classes' average precision, in [0, 1].

    Args:
        scores_NC: one score per sample and class.
        targets_NC: whether the class is present, as booleans or 0 and 1.
        empty_classes: what a class without positives counts as: ``zero`` puts AP 0 into the mean
            (CLIP_benchmark), ``skip`` leaves it out (our ``corrected`` protocol).

    Raises:
        MetricError: shapes differ, or ``skip`` leaves no class.
    """
    scores, targets = real("scores_NC", scores_NC, 2), flags("targets_NC", targets_NC, 2)
    if scores.shape != targets.shape:
        raise MetricError(f"shapes differ: scores {scores.shape}, targets {targets.shape}")
    if empty_classes not in ("zero", "skip"):
        raise MetricError(f"must be 'zero' or 'skip', got {empty_classes!r}", where="empty_classes")
    columns = range(scores.shape[1])
    if empty_classes == "skip":
        columns_kept = [c for c in columns if targets[:, c].any()]
        if not columns_kept:
            raise MetricError("no class has a positive sample", where="targets_NC")
    else:
        columns_kept = list(columns)
    return float(np.mean([_average_precision(scores[:, c], targets[:, c]) for c in columns_kept]))


def _average_precision(scores_N: Floats, positives_N: Bools) -> float:
    order = np.argsort(-scores_N, kind="stable")
    ranks = np.flatnonzero(positives_N[order]) + 1
    return float((np.arange(1, len(ranks) + 1) / ranks).mean()) if len(ranks) else 0.0
