"""The records of one table: which models, in which order the tasks, and what lies where."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from climp_bench.errors import UsageError
from climp_bench.report.document import Row, Shown
from climp_bench.report.reference import Figure, figures_of
from climp_bench.report.tables import Cell, Line
from climp_bench.results import RunRecord
from climp_bench.suite.loader import available, load


@dataclass(frozen=True)
class Unit:
    """How numbers of a table are shown: what they are multiplied by, and how many digits follow the point."""

    name: str = "percent"
    scale: float = 100.0
    digits: int = 1

    def show(self, record: RunRecord | None, figures: Sequence[Figure] | None = None) -> Shown:
        """A cell of one record."""
        if record is None:
            return Shown()
        if record.value is None:
            return Shown(record.status, records=(record,))
        value, interval = self.scale * record.value, record.interval
        low, high = (self.scale * interval.low, self.scale * interval.high) if interval else (None, None)
        bounds = f"[{self.text(low)}, {self.text(high)}]" if low is not None and high is not None else ""
        published = figures_of(record, figures)
        return Shown(self.text(value), value, low, high, bounds, "", (record,), published)

    def text(self, value: float) -> str:
        """A number as shown, never a negative zero."""
        return f"{round(value, self.digits) + 0.0:.{self.digits}f}"


PERCENT = Unit()
POINTS = Unit("points")
PLAIN = Unit("", 1.0, 3)
TOKENS = Unit("tokens", 1.0, 0)
Place = tuple[str, str, str, int | None]
"""Task, metric, column, size in pixels or None."""


class Pool:
    """Records of one suite and protocol. A column is a model, and its precision where there are several.

    Args:
        records: of any order.
        by_size: whether records of one task and model differ by the size of the input.
        figures: published ones; the shipped ones unless given.
    """

    def __init__(
        self,
        records: Iterable[RunRecord],
        *,
        by_size: bool = False,
        figures: Sequence[Figure] | None = None,
    ) -> None:
        self.records = tuple(records)
        self.figures = figures
        several = len({r.provenance.dtype for r in self.records}) > 1
        self._dtype = several
        self.columns = tuple(sorted({self.column(r) for r in self.records}))
        self.tasks = _in_order(self.records)
        self.sizes = tuple(sorted({max(r.resolution) for r in self.records if r.resolution}))
        self._by_place: dict[Place, RunRecord] = {}
        for r in self.records:
            size = max(r.resolution) if by_size and r.resolution else None
            self._by_place[r.task, r.metric, self.column(r), size] = r

    def column(self, record: RunRecord) -> str:
        """The column that a record stands in."""
        return f"{record.model.name} ({record.provenance.dtype})" if self._dtype else record.model.name

    def at(self, task: str, metric: str, column: str, size: int | None = None) -> RunRecord | None:
        """The record of a metric, or the failed one that says why the task has none."""
        exact = self._by_place.get((task, metric, column, size))
        return exact or self._by_place.get((task, "any", column, size))

    def of_task(self, task: str) -> list[RunRecord]:
        """The records of one task."""
        return [record for record in self.records if record.task == task]

    def row(
        self, labels: Sequence[str], task: str, metric: str, unit: Unit = PERCENT, size: int | None = None
    ) -> Row:
        """A row of one metric of a task, a cell a column."""
        found = [self.at(task, metric, column, size) for column in self.columns]
        line = Line(task, metric, None, tuple(Cell(record) for record in found))
        levels = (r.extra.get("chance") for r in found if r is not None and r.metric == metric)
        chance = next((level for level in levels if isinstance(level, float)), None)
        cells = tuple(unit.show(record, self.figures) for record in found)
        return Row(tuple(labels), cells, line.n, None if chance is None else unit.scale * chance)

    def metrics(self, task: str) -> list[str]:
        """What was measured on a task, in natural order; ``any`` if all failed."""
        found = {r.metric for r in self.of_task(task) if r.metric != "any"}
        return sorted(found, key=natural) or ["any"]


def natural(metric: str) -> tuple[str, int]:
    """``recall@5`` before ``recall@10``."""
    name, _, k = metric.partition("@")
    return name, int(k) if k.isdecimal() else 0


def by_suite(records: Iterable[RunRecord]) -> Iterator[tuple[str, str, list[RunRecord]]]:
    """Records by suite and protocol."""
    groups: dict[tuple[str, str], list[RunRecord]] = {}
    for record in records:
        groups.setdefault((record.suite, record.protocol), []).append(record)
    for (suite, protocol), group in groups.items():
        yield suite, protocol, group


def _in_order(records: Sequence[RunRecord]) -> tuple[str, ...]:
    """Tasks as their suite lists them; those of an unknown suite as they were first measured; means last."""
    first: dict[str, tuple[bool, float]] = {}
    for record in records:
        started = (record.metric.startswith("mean_acc"), record.provenance.started_at.timestamp())
        first[record.task] = min(first.get(record.task, started), started)
    listed: dict[str, int] = {}
    suite = records[0].suite if records else ""
    if suite in available():
        try:
            listed = {task.name: k for k, task in enumerate(load(suite).tasks)}
        except UsageError:
            listed = {}
    return tuple(sorted(first, key=lambda task: (listed.get(task, len(listed)), first[task], task)))
