"""Is a release what its authors say: scores against a published table, within a tolerance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from climp_bench.errors import UsageError
from climp_bench.report.reference import Comparison, Figure, compare
from climp_bench.results import RunRecord
from climp_bench.suite.schema import Suite


@dataclass(frozen=True)
class Verdict:
    """Published figures beside what was measured.

    Attributes:
        measured: those that were measured.
        missing: those that were not: an evaluation failed, or the suite does not ask for that metric.
        tolerance: largest difference allowed, in points (hundredths).
    """

    measured: tuple[Comparison, ...]
    missing: tuple[Figure, ...]
    tolerance: float

    def within(self, comparison: Comparison) -> bool:
        """Whether a score is as near as it should be. Figures rounded to a tenth are taken as printed."""
        return abs(100 * comparison.difference) <= self.tolerance + 1e-9

    @property
    def passed(self) -> bool:
        """Every figure was measured and is near enough."""
        return bool(self.measured) and not self.missing and all(self.within(c) for c in self.measured)


def wanted_figures(
    figures: Sequence[Figure], suite: Suite, models: Sequence[str], where: Path | str
) -> list[Figure]:
    """The figures that a check of ``models`` on ``suite`` is about.

    Raises:
        UsageError: a model has none.
    """
    sets = {task.dataset for task in suite.tasks}
    wanted = [figure for figure in figures if figure.dataset in sets and figure.model in models]
    for model in models:
        if not any(figure.model == model for figure in wanted):
            known = sorted({figure.model for figure in figures if figure.dataset in sets})
            remedy = f"It has figures of: {', '.join(known) or 'nobody'}. Another table: --reference FILE."
            raise UsageError(f"no published figure of {model} on {', '.join(sorted(sets))}", where=str(where),
                             remedy=remedy)  # fmt: skip
    return wanted


def judge(records: Sequence[RunRecord], wanted: Sequence[Figure], tolerance: float) -> Verdict:
    """Set every wanted figure beside its score.

    Args:
        records: of the run.
        wanted: from ``wanted_figures``.
        tolerance: in points.
    """
    measured = tuple(compare(records, wanted))
    done = {comparison.figure for comparison in measured}
    return Verdict(measured, tuple(figure for figure in wanted if figure not in done), tolerance)
