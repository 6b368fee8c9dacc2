"""Records as tables: one row a measurement, one column a model."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from climp_bench.results import RunRecord, flatten

HEADLINE = {
    "classification": ("acc1",),
    "multilabel": ("mean_average_precision",),
    "retrieval": ("image_retrieval_recall@5", "text_retrieval_recall@5"),
}
"""The metrics of the short table, by kind of task. Worst-group accuracy is added where it was measured."""

LABELS = {
    "acc1": "acc@1",
    "acc5": "acc@5",
    "mean_per_class_recall": "mean per-class recall",
    "worst_group_acc1": "worst-group acc@1",
    "mean_average_precision": "mAP",
}


@dataclass(frozen=True)
class Cell:
    """One score as shown: percent, half-width of its interval, or why there is none."""

    record: RunRecord | None

    @property
    def ok(self) -> bool:
        """Whether there is a value."""
        return self.record is not None and self.record.value is not None

    @property
    def percent(self) -> str:
        """``97.3``, or ``failed``/``skipped``/``-`` when nothing was measured."""
        if self.record is None:
            return "-"
        if self.record.value is None:
            return self.record.status
        return f"{100 * self.record.value:.1f}"

    @property
    def bounds(self) -> str:
        """``[96.1, 98.1]`` in percent, or nothing."""
        if self.record is None or self.record.interval is None:
            return ""
        return f"[{100 * self.record.interval.low:.1f}, {100 * self.record.interval.high:.1f}]"

    @property
    def half_width(self) -> str:
        """Half the interval's width in points, or nothing."""
        if self.record is None or self.record.interval is None:
            return ""
        return f"{50 * (self.record.interval.high - self.record.interval.low):.1f}"


@dataclass(frozen=True)
class Line:
    """One row: a metric of a task, with its chance level and a cell per model."""

    task: str
    metric: str
    chance: float | None
    cells: tuple[Cell, ...]

    @property
    def n(self) -> str:
        """Samples behind the scores: ``1,000``, or ``75-78`` where the worst group differs by model.

        ``999 (1 left out)`` where images that do not decode were left out.
        """
        present = [c.record for c in self.cells if c.record is not None and c.ok]
        counts = sorted({record.n_evaluated for record in present})
        told = "-".join(f"{n:,}" for n in dict.fromkeys((counts[0], counts[-1]))) if counts else ""
        lost = max((record.n_failed for record in present), default=0)
        return f"{told} ({lost:,} left out)" if lost else told

    @property
    def label(self) -> str:
        """The metric in the words of the field."""
        if self.metric in LABELS:
            return LABELS[self.metric]
        side, _, k = self.metric.partition("_retrieval_recall@")
        return f"{side} R@{k}" if k else self.metric


@dataclass(frozen=True)
class ScoreTable:
    """Rows of scores, one column a model."""

    suite: str
    protocol: str
    models: tuple[str, ...]
    lines: tuple[Line, ...]


def score_table(records: Sequence[RunRecord], suite: str, *, headline: bool = True) -> ScoreTable:
    """Gather the records of one suite.

    Args:
        records: of any suites; those of others are left out.
        headline: only the main metric of each task; else all of them.
    """
    own = [record for record in records if record.suite == suite]
    models = tuple(dict.fromkeys(record.model.name for record in own))
    lines: list[Line] = []
    for task in dict.fromkeys(record.task for record in own):
        of_task = [record for record in own if record.task == task]
        for metric in headline_metrics(of_task) if headline else _measured(of_task):
            lines.append(_line(task, metric, models, of_task))
    protocol = own[0].protocol if own else ""
    return ScoreTable(suite, protocol, models, tuple(lines))


def headline_metrics(records: Sequence[RunRecord]) -> list[str]:
    """The main metrics of one task's records, and worst-group accuracy where it was measured."""
    measured = _measured(records)
    main = [m for m in HEADLINE.get(_kind(records), ()) if m in measured]
    return (main + [m for m in measured if m == "worst_group_acc1"]) or measured


def _measured(records: Sequence[RunRecord]) -> list[str]:
    return sorted({r.metric for r in records if r.status != "failed"}, key=_natural) or ["any"]


def _natural(metric: str) -> tuple[str, int]:
    """``recall@5`` before ``recall@10``."""
    name, _, k = metric.partition("@")
    return name, int(k or 0)


def _kind(records: Sequence[RunRecord]) -> str:
    return next((r.kind for r in records if r.status != "failed"), records[0].kind)


def _line(task: str, metric: str, models: Sequence[str], records: Sequence[RunRecord]) -> Line:
    cells = []
    for model in models:
        mine = [r for r in records if r.model.name == model]
        exact = next((r for r in mine if r.metric == metric), None)
        cells.append(Cell(exact or next((r for r in mine if r.status == "failed"), None)))
    present = [c.record for c in cells if c.record is not None and c.ok]
    chance = next((r.extra["chance"] for r in present if isinstance(r.extra.get("chance"), float)), None)
    return Line(task, metric, chance if isinstance(chance, float) else None, tuple(cells))


def to_markdown(table: ScoreTable) -> str:
    """A Markdown table: percent with 95% interval, n and chance level."""
    head = ["task", "metric", "n", "chance", *table.models]
    rows = [
        [line.task, line.label, line.n, _chance(line.chance)]
        + [f"{cell.percent} {cell.bounds}".strip() for cell in line.cells]
        for line in table.lines
    ]
    marks = ["---", "---", "--:", "--:", *["--:"] * len(table.models)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, marks, *rows]) + "\n"


def _chance(chance: float | None) -> str:
    return "" if chance is None else f"{100 * chance:.1f}"


def to_csv(records: Sequence[RunRecord]) -> str:
    """Every record as one row, all columns, strict CSV."""
    rows = flatten(records)
    if not rows:
        return ""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()
