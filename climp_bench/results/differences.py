"""What ``compare`` finds: the difference of two scores, how sure it is, or why it cannot be told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from climp_bench.specs import Interval

Finding = Literal["A better", "B better", "no difference shown", "not tested", "not comparable"]


@dataclass(frozen=True)
class Difference:
    """B against A on one metric of one task.

    Attributes:
        suite, task, metric: what was measured.
        model_a, model_b: the models; equal where one model was run twice.
        finding: by the corrected p-value; ``not tested`` without per-sample outcomes.
        reason: why it was not tested or is not comparable.
        is_share: whether the scores are shares, told in percent.
        a, b: the scores; None where there is none.
        n: samples; ``clusters``: images that they belong to.
        interval: of ``b - a``.
        gained, lost: samples that only B, or only A, got right.
        p, p_holm: of the exact paired test; the second corrected for all differences of the comparison.
        cohens_g, odds_ratio: effect sizes; None where undefined.
        detectable: smallest true difference that this test finds with 80% power.
    """

    suite: str
    task: str
    metric: str
    model_a: str
    model_b: str
    finding: Finding
    reason: str = ""
    is_share: bool = True
    a: float | None = None
    b: float | None = None
    n: int | None = None
    clusters: int | None = None
    interval: Interval | None = None
    gained: int | None = None
    lost: int | None = None
    p: float | None = None
    p_holm: float | None = None
    cohens_g: float | None = None
    odds_ratio: float | None = None
    detectable: float | None = None

    @property
    def difference(self) -> float | None:
        """``b - a``; None where that would be a guess."""
        if self.finding == "not comparable" or self.a is None or self.b is None:
            return None
        return self.b - self.a


@dataclass(frozen=True)
class Comparison:
    """All differences of two runs.

    Attributes:
        name_a, name_b: what was compared.
        alpha: level of the tests; one false alarm in all the differences.
        differences: in the order of the run.
    """

    name_a: str
    name_b: str
    alpha: float
    differences: tuple[Difference, ...]

    @property
    def refused(self) -> Sequence[Difference]:
        """Those that cannot be compared."""
        return [d for d in self.differences if d.finding == "not comparable"]
