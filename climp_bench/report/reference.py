"""Published figures beside our scores: the difference, and whether our interval covers them.

The figures are data, ``suites/reference/scores.csv``, each with its source. One belongs to a score if data
set, model, metric and (where it is stated) input size are the same; a ``suite:NAME`` row belongs to the mean
of a suite.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from climp_bench.errors import UsageError
from climp_bench.report.tables import Line
from climp_bench.results import RunRecord
from climp_bench.specs import Interval
from climp_bench.suite.loader import load, shipped_dir

COLUMNS = ("dataset", "model", "resolution", "metric", "value", "source")
SUITE = "suite:"


@dataclass(frozen=True)
class Figure:
    """A published score.

    Attributes:
        dataset: as in the catalogue, or ``suite:NAME`` for the mean over a suite's tasks.
        model: as climp-bench names it.
        resolution: side of the input in pixels, None if the source does not say.
        metric: as climp-bench names it.
        value: a share in [0, 1].
        source: where it is published.
    """

    dataset: str
    model: str
    resolution: int | None
    metric: str
    value: float
    source: str


@dataclass(frozen=True)
class Comparison:
    """Our score and a published one.

    Attributes:
        task: the task's name, or ``mean of N tasks``.
        value: ours.
        interval: of ours, or None.
        n: samples (of a mean: tasks).
        figure: the published one.
    """

    task: str
    value: float
    interval: Interval | None
    n: int
    figure: Figure

    @property
    def difference(self) -> float:
        """Ours minus the published one."""
        return self.value - self.figure.value

    @property
    def covered(self) -> bool | None:
        """Whether our interval holds the published value; None without an interval."""
        if self.interval is None:
            return None
        return self.interval.low <= self.figure.value <= self.interval.high


@lru_cache(maxsize=8)
def read_figures(path: Path | None = None) -> tuple[Figure, ...]:
    """Published figures from a CSV file with the columns ``COLUMNS``; None is the one that is shipped.

    Raises:
        UsageError: it cannot be read, or a row is not a figure; names the line.
    """
    where = path or shipped_dir() / "reference" / "scores.csv"
    try:
        with where.open(encoding="utf-8", newline="") as handle:
            rows = csv.DictReader(handle, strict=True)
            if tuple(rows.fieldnames or ()) != COLUMNS:
                raise ValueError(f"its first line is not {','.join(COLUMNS)}")
            return tuple(_figure(row, rows.line_num) for row in rows)
    except (OSError, UnicodeDecodeError, ValueError, csv.Error) as error:
        remedy = f"A header {','.join(COLUMNS)}, then one figure a line; value is a share in [0, 1]."
        raise UsageError(
            f"no table of published figures ({error})", where=str(where), remedy=remedy
        ) from error


def _figure(row: dict[str, str], line: int) -> Figure:
    try:
        value = float(row["value"])
        resolution = int(row["resolution"]) if row["resolution"] else None
    except (ValueError, TypeError) as error:
        raise ValueError(f"line {line}: {error}") from error
    named = all(row[key] for key in ("dataset", "model", "metric", "source"))
    if None in row or not named or not (math.isfinite(value) and 0 <= value <= 1):
        raise ValueError(f"line {line} is no figure")
    return Figure(row["dataset"], row["model"], resolution, row["metric"], value, row["source"])


def compare(records: Sequence[RunRecord], figures: Sequence[Figure] | None = None) -> list[Comparison]:
    """Every record that a published figure belongs to, beside it, then the means of whole suites.

    Args:
        records: of any suites and models.
        figures: default: the shipped ones.
    """
    known = read_figures() if figures is None else figures
    found = []
    for record in records:
        if record.value is None or record.status != "ok":
            continue
        for figure in known:
            if figure.dataset == record.dataset.name and _same(figure, record):
                found.append(
                    Comparison(record.task, record.value, record.interval, record.n_evaluated, figure)
                )
    return found + _means(records, known)


def figures_of(record: RunRecord, figures: Sequence[Figure] | None = None) -> tuple[Figure, ...]:
    """The published figures that belong to one score; ``figures``: default the shipped ones."""
    known = read_figures() if figures is None else figures
    return tuple(f for f in known if f.dataset == record.dataset.name and _same(f, record))


def figures_of_mean(
    suite: str, record: RunRecord, metric: str, tasks: Sequence[str], figures: Sequence[Figure] | None = None
) -> tuple[Figure, ...]:
    """The published means over a suite that belong to a mean of ours over all of its tasks.

    Args:
        suite: its name.
        record: one of the scores that the mean is made of.
        metric: that the mean is of.
        tasks: over which the mean was taken, or which were at least measured.
        figures: default: the shipped ones.
    """
    known = read_figures() if figures is None else figures
    found = tuple(
        f for f in known
        if f.dataset == SUITE + suite and f.metric == metric and f.model == record.model.name
        and f.resolution in (None, max(record.resolution or (0,)))
    )  # fmt: skip
    if not found:
        return ()
    listed = load(suite).tasks
    apart = {task.shifted_from or task.ood_reference for task in listed}
    return found if {task.name for task in listed if task.name not in apart} <= set(tasks) else ()


def _same(figure: Figure, record: RunRecord) -> bool:
    size = max(record.resolution) if record.resolution else None
    return (
        figure.model == record.model.name
        and figure.metric == record.metric
        and figure.resolution in (None, size)
    )


def _means(records: Sequence[RunRecord], figures: Sequence[Figure]) -> list[Comparison]:
    """Means over the tasks of a suite that have the metric, where every task was measured.

    A task that others are only compared with (ImageNet beside its variants) does not count.
    """
    found = []
    for figure in figures:
        if not figure.dataset.startswith(SUITE):
            continue
        suite = figure.dataset[len(SUITE) :]
        own = [r for r in records if r.suite == suite and r.model.name == figure.model]
        fitting = [r for r in own if r.value is not None and r.status == "ok" and _same(figure, r)]
        done = {r.task for r in own if r.value is not None}
        tasks = load(suite).tasks
        apart = {task.shifted_from or task.ood_reference for task in tasks}
        fitting = [r for r in fitting if r.task not in apart]
        if fitting and done == {task.name for task in tasks}:
            mean = sum(r.value or 0.0 for r in fitting) / len(fitting)
            found.append(Comparison(f"mean of {len(fitting)} tasks", mean, None, len(fitting), figure))
    return found


def rows(comparisons: Sequence[Comparison]) -> list[list[str]]:
    """The comparison as a table of text, in percent; its first row is the head."""
    table = [["task", "metric", "model", "n", "ours", "published", "difference", "in our interval", "source"]]
    for c in comparisons:
        ours = f"{100 * c.value:.1f}"
        if c.interval is not None:
            ours += f" [{100 * c.interval.low:.1f}, {100 * c.interval.high:.1f}]"
        covered = {True: "yes", False: "no", None: "no interval"}[c.covered]
        table.append(
            [
                c.task,
                Line(c.task, c.figure.metric, None, ()).label,
                c.figure.model,
                f"{c.n:,}",
                ours,
                f"{100 * c.figure.value:.1f}",
                f"{round(100 * c.difference, 1) + 0.0:+.1f}",
                covered,
                c.figure.source,
            ]
        )
    return table


def section(records: Sequence[RunRecord], figures: Sequence[Figure] | None = None) -> str:
    """A part of a report that sets published figures beside ours, or nothing if there are none."""
    head, *lines = rows(compare(records, figures))
    if not lines:
        return ""
    marks = ["---"] * 3 + ["--:"] * 4 + ["---"] * 2
    table = "\n".join("| " + " | ".join(line) + " |" for line in (head, marks, *lines))
    return f"## Beside published figures\n\n{table}\n"
