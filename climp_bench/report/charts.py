"""Charts of a report, drawn from its tables: scores as dots, curves over size and length, cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from climp_bench.report.document import Chart, Row, Shown, Table
from climp_bench.report.svg import Axis, Panel

PERCENT = Axis(0, 100, "percent")
_ROW = 26


def dot_chart(table: Table, *, close: bool = False) -> Chart:
    """Scores of a table in percent: a line a row, a dot a model, intervals as whiskers, chance as a bar.

    Args:
        table: of scores.
        close: whether the axis is no wider than they need.
    """
    rows = [row for row in table.rows if any(cell.value is not None for cell in row.cells)]
    if not rows:
        return Chart(f"{table.key}-dots", table.title, absent="No score in this table has a value.")
    ticks = tuple((k + 0.5, " ".join(row.labels)) for k, row in enumerate(reversed(rows)))
    panel = Panel(
        "percent, with 95% intervals", _percent(rows) if close else PERCENT, Axis(0, len(rows), ticks=ticks),
        f"{table.title}: scores of {len(rows)} measurements; the table holds the numbers",
        760, _ROW * len(rows) + 64, 250,
    )  # fmt: skip
    step = 0.8 / max(1, len(table.columns))
    for k, row in enumerate(reversed(rows)):
        if row.chance is not None:
            panel.rule((row.chance, k + 0.15), (row.chance, k + 0.85), "chance")
        for c, cell in enumerate(row.cells):
            if cell.value is None:
                continue
            y = k + 0.9 - step * (c + 0.5)
            if cell.low is not None and cell.high is not None:
                panel.rule((cell.low, y), (cell.high, y), f"thin s{c % 8}")
            tip = f"{table.columns[c]}, {' '.join(row.labels)}: {cell.told}"
            panel.mark(cell.value, y, c, tip, small=len(table.columns) > 3)
    chance = " The grey bars are chance." if table.has_chance else ""
    return Chart(
        f"{table.key}-dots", table.title, ((panel.svg(), panel.width, panel.height),), table.columns,
        f"Scores with 95% intervals.{chance}",
    )  # fmt: skip


def size_chart(table: Table) -> Chart:
    """Scores against the size of the input: a panel a task and metric."""
    panels = []
    for labels, rows in _groups(table):
        places = [float(row.labels[-1].split()[0]) for row in rows]
        ticks = tuple((place, f"{place:g}") for place in _thinned(places))
        x = Axis(min(places), max(places), "longer side of the input, pixels", ticks=ticks)
        panels.append(_curves(" ".join(labels), x, _percent(rows), rows, places, table.columns))
    return Chart(
        f"{table.key}-curves", table.title, tuple(panels), table.columns,
        "Scores against the size of the input, with 95% intervals.",
    )  # fmt: skip


def length_chart(table: Table) -> Chart:
    """Recall against the tokens that captions are cut to: a panel a task and direction, R@5 if there is."""
    panels = []
    groups = list(_groups(table))
    wanted = [g for g in groups if g[0][-1].endswith("@5")] or groups
    for labels, rows in wanted:
        places = [float(k) for k in range(len(rows))]
        ticks = tuple((place, row.labels[-1]) for place, row in zip(places, rows, strict=True))
        x = Axis(0, max(1.0, len(rows) - 1.0), "tokens read of a caption", ticks=ticks)
        panels.append(_curves(" ".join(labels), x, _percent(rows), rows, places, table.columns))
    return Chart(
        f"{table.key}-curves", table.title, tuple(panels), table.columns,
        "Recall with captions cut to so many tokens, with 95% intervals.",
    )  # fmt: skip


def cost_chart(tables: Sequence[Table], key: str, title: str) -> Chart:
    """What towers cost against size, on a logarithmic scale: a panel a quantity."""
    series = tuple(dict.fromkeys(row.labels[0] for table in tables for row in table.rows))
    panels = []
    for table in tables:
        places = [float(column.split()[0]) for column in table.columns]
        values = [v for row in table.rows for c in row.cells if (v := c.value) is not None and v > 0]
        if not values:
            continue
        x = Axis(min(places), max(places), table.columns[0].split()[-1], True, _ticks(_thinned(places)))
        name = table.title.partition(" tower, ")[2]
        panel = Panel(name, x, Axis(min(values) / 1.3, max(values) * 1.3, log=True), table.title)
        for row in table.rows:
            s = series.index(row.labels[0])
            found = [(p, c.value) for p, c in zip(places, row.cells, strict=True) if c.value]
            points = [(p, v) for p, v in found if v is not None]
            panel.line(points, s)
            for p, v in points:
                panel.mark(p, v, s, f"{row.labels[0]}, {p:g}: {v:.4g}", small=True)
        panels.append((panel.svg(), panel.width, panel.height))
    return Chart(key, title, tuple(panels), series, "Both axes are logarithmic.")


def _groups(table: Table) -> Iterator[tuple[tuple[str, ...], list[Row]]]:
    """Rows that differ in their last word only."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in table.rows:
        groups.setdefault(row.labels[:-1], []).append(row)
    for labels, rows in groups.items():
        if any(cell.value is not None for row in rows for cell in row.cells):
            yield labels, rows


def _percent(rows: Sequence[Row]) -> Axis:
    """Percent, no wider than the scores need, so that curves are told apart."""
    cells = [cell for row in rows for cell in row.cells]
    lows = [v for c in cells if (v := c.low if c.low is not None else c.value) is not None]
    highs = [v for c in cells if (v := c.high if c.high is not None else c.value) is not None]
    return Axis(max(0.0, 10 * (min(lows) // 10)), min(100.0, 10 * (max(highs) // 10 + 1)), "percent")


def _curves(
    title: str, x: Axis, y: Axis, rows: Sequence[Row], places: Sequence[float], columns: Sequence[str]
) -> tuple[str, int, int]:
    panel = Panel(title, x, y, f"{title}, percent against {x.label}; the table holds the numbers")
    for s, column in enumerate(columns):
        found = [(p, row.cells[s]) for p, row in zip(places, rows, strict=True)]
        kept: list[tuple[float, Shown, float]] = [(p, c, c.value) for p, c in found if c.value is not None]
        panel.band([(p, c.low, c.high) for p, c, _ in kept if c.low is not None and c.high is not None], s)
        panel.line([(p, v) for p, _, v in kept], s)
        for p, cell, v in kept:
            panel.mark(p, v, s, f"{column}, {p:g}: {cell.told}", small=True)
    return panel.svg(), panel.width, panel.height


def _thinned(places: Sequence[float], most: int = 6) -> list[float]:
    """Some of many places, the ends among them."""
    ordered = sorted(set(places))
    step = -(-len(ordered) // most)
    kept = ordered[::step]
    return kept if ordered[-1] in kept else [*kept[:-1], ordered[-1]] if step > 1 else [*kept, ordered[-1]]


def _ticks(places: Sequence[float]) -> tuple[tuple[float, str], ...]:
    return tuple((place, f"{place:g}") for place in places)
