"""One score: its value, its interval, how many samples it rests on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

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
    """

    metric: str
    value: float | None
    interval: Interval | None
    n: int
    reason: str = ""
    extra: Mapping[str, float | int | str | None] = field(default_factory=dict)
