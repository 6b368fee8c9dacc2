"""A report as data: tables whose every number knows the records it comes from, charts, and examples.

What a table looks like on paper, on a page or in a file is decided by those who write it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from climp_bench.report.reference import Figure
from climp_bench.results import RunRecord
from climp_bench.results.pictures import Pictures

MISSING = "-"


@dataclass(frozen=True)
class Shown:
    """One cell.

    Attributes:
        text: the value as shown; ``-`` where nothing was measured, else why there is no value, in a word.
        value, low, high: the number in the unit of the table, and its interval.
        bounds: the interval as shown.
        note: what goes with it (repetitions, batch).
        records: what it is made of; several for a mean.
        published: figures that belong to it.
    """

    text: str = MISSING
    value: float | None = None
    low: float | None = None
    high: float | None = None
    bounds: str = ""
    note: str = ""
    records: tuple[RunRecord, ...] = ()
    published: tuple[Figure, ...] = ()

    @property
    def told(self) -> str:
        """All that is shown, as plain text."""
        return " ".join(part for part in (self.text, self.bounds, self.note) if part)


@dataclass(frozen=True)
class Standing:
    """Which cells of a row lead it, by paired tests.

    Attributes:
        best: index of the cell that is better than every other.
        second: index of the cell that only ``best`` beats.
        verdict: in words; empty where there is nothing to compare.
        why: how sure that is, or why nothing was tested.
    """

    best: int | None = None
    second: int | None = None
    verdict: str = ""
    why: str = ""


@dataclass(frozen=True)
class Row:
    """One row: the words that name it, samples, chance level, and a cell a column."""

    labels: tuple[str, ...]
    cells: tuple[Shown, ...]
    n: str = ""
    chance: float | None = None
    standing: Standing = Standing()

    @property
    def records(self) -> tuple[RunRecord | None, ...]:
        """The record of each cell that is one score, None for the others."""
        return tuple(c.records[0] if len(c.records) == 1 else None for c in self.cells)

    @property
    def averages(self) -> bool:
        """Whether several cells are means of several scores."""
        return sum(len(cell.records) > 1 for cell in self.cells) > 1


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        key: its name in files and links.
        title: in words.
        heads: what the words of a row are.
        columns: the columns of cells, mostly models.
        rows: of the table.
        unit: of its numbers.
        notes: what a reader must know.
        ranked: whether rows compare the columns, so that a best one can be told.
        main: whether readers want it at once.
    """

    key: str
    title: str
    heads: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    unit: str = ""
    notes: tuple[str, ...] = ()
    ranked: bool = True
    main: bool = True

    @property
    def has_n(self) -> bool:
        """Whether any row tells its number of samples."""
        return any(row.n for row in self.rows)

    @property
    def has_chance(self) -> bool:
        """Whether any row tells a chance level."""
        return any(row.chance is not None for row in self.rows)

    @property
    def has_verdicts(self) -> bool:
        """Whether any row tells which column is best."""
        return any(row.standing.verdict for row in self.rows)


Judge = Callable[[Sequence[Sequence[RunRecord | None]], Sequence[str]], list[Standing]]
"""(the records of each row of a table, names of its columns) -> a standing a row."""


def judged(table: Table, judge: Judge) -> Table:
    """The table with the standings of its rows."""
    if not table.ranked or len(table.columns) < 2:
        return table
    standings = judge([row.records for row in table.rows], table.columns)
    if not any(s.verdict not in ("", UNTESTED) for s in standings):
        return (
            replace(table, notes=(*table.notes, NOT_TESTED)) if any(s.verdict for s in standings) else table
        )
    rows = [replace(row, standing=s) for row, s in zip(table.rows, standings, strict=True)]
    return replace(table, rows=tuple(replace(r, standing=_AVERAGE) if r.averages else r for r in rows))


UNTESTED = "not tested"
NOT_TESTED = "Differences were not tested: no outcomes of single samples belong to these numbers."
_AVERAGE = Standing(verdict=UNTESTED, why="an average")


@dataclass(frozen=True)
class Chart:
    """A picture of panels that share their series.

    Attributes:
        key: its name in files and links.
        title: in words.
        panels: SVG of each panel, with their width and height in pixels.
        series: what the colours and markers are.
        caption: what a reader must know.
        absent: why it could not be drawn; then there are no panels.
    """

    key: str
    title: str
    panels: tuple[tuple[str, int, int], ...] = ()
    series: tuple[str, ...] = ()
    caption: str = ""
    absent: str = ""


@dataclass(frozen=True)
class Section:
    """A topic of the report.

    Attributes:
        key: its name in links.
        title: in words.
        paper: which tables or figures of the paper it is about, empty if none.
        command: what fills it.
        tables, charts: what there is; without a table there are no results.
    """

    key: str
    title: str
    paper: str
    command: str
    tables: tuple[Table, ...] = ()
    charts: tuple[Chart, ...] = ()


@dataclass(frozen=True)
class Shots:
    """Examples of one model on one task."""

    suite: str
    task: str
    model: str
    pictures: Pictures


@dataclass(frozen=True)
class Report:
    """All of it.

    Attributes:
        title: of the report.
        sections: by topic.
        records: everything in the store, in its order, then those of experiments.
        shots: what models got right and wrong, by task.
        beside: the paper's figures beside ours, rows of text with the head first.
        wanted: commands that would measure what is missing there.
    """

    title: str
    sections: tuple[Section, ...]
    records: tuple[RunRecord, ...]
    shots: tuple[Shots, ...] = ()
    beside: tuple[tuple[str, ...], ...] = ()
    wanted: tuple[str, ...] = ()
