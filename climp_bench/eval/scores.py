"""One score: its value, its interval, how many samples it rests on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from climp_bench.specs import Interval


@dataclass(frozen=True)
class Score:
    """A measured score, or the reason why it is not defined.

    Attributes:
        metric: its name in the field (``acc1``, ``image_retrieval_recall@5``).
        value: a share in [0, 1] unless the metric's name says otherwise; None if undefined.
        interval: confidence interval of ``value``.
        n: samples the score is a mean over.
        reason: why ``value`` is None, or why it has no interval.
        extra: counts that belong to it (ties, groups).
        outcomes: where ``value`` is a mean over samples, each right or wrong: which were right, (n,).
        over: what a sample is; captions of one image are not independent.
    """

    metric: str
    value: float | None
    interval: Interval | None
    n: int
    reason: str = ""
    extra: Mapping[str, float | int | str | None] = field(default_factory=dict)
    outcomes: npt.NDArray[np.bool_] | None = field(default=None, compare=False, repr=False)
    over: Literal["images", "texts"] = "images"
