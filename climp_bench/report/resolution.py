"""The report of `climp-bench resolution`: scores against the input's size, as a table and as curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from climp_bench.errors import StoreError
from climp_bench.files import write_text
from climp_bench.report import reference
from climp_bench.report.page import problems, provenance
from climp_bench.report.plots import COLOURS, MARKERS, save
from climp_bench.report.tables import Cell, Line, headline_metrics, to_csv
from climp_bench.results import RunRecord

Curve = tuple[str, str]
"""Task and metric: one panel, one block of rows."""


def curves(records: Sequence[RunRecord]) -> list[Curve]:
    """The main metric of every task, in order of the records."""
    found: list[Curve] = []
    for task in dict.fromkeys(record.task for record in records):
        found += [(task, m) for m in headline_metrics([r for r in records if r.task == task])]
    return found


def rows(records: Sequence[RunRecord]) -> list[list[str]]:
    """The table as text: task, metric, size, n, then a cell a model. What failed says so."""
    models = list(dict.fromkeys(record.model.name for record in records))
    table = [["task", "metric", "size", "n", *models]]
    for task, metric in curves(records):
        for size in sizes(records):
            cells = [Cell(_at(records, task, metric, size, model)) for model in models]
            line = Line(task, metric, None, tuple(cells))
            shown = [f"{cell.percent} {cell.bounds}".strip() for cell in cells]
            table.append([task, line.label, str(size), line.n, *shown])
    return table


def sizes(records: Sequence[RunRecord]) -> list[int]:
    """The sizes of the sweep in pixels, ascending (the longer side of what is not square)."""
    return sorted({max(record.resolution) for record in records if record.resolution})


def write_resolution(records: Sequence[RunRecord], suite: str, out: Path) -> list[Path]:
    """Write ``resolution-{suite}.md``, ``.csv`` and ``.png`` to ``out`` and return their paths.

    Raises:
        StoreError: a file cannot be written.
    """
    own = [record for record in records if record.suite == suite]
    page, table, picture = (out / f"resolution-{suite}{suffix}" for suffix in (".md", ".csv", ".png"))
    drawn = any(record.value is not None for record in own)
    write_text(page, _page(own, suite, picture.name if drawn else ""), StoreError)
    write_text(table, to_csv(own), StoreError)
    if not drawn:
        return [page, table]
    _plot(own, picture)
    return [page, table, picture]


def _at(records: Sequence[RunRecord], task: str, metric: str, size: int, model: str) -> RunRecord | None:
    mine = [
        r
        for r in records
        if r.task == task and r.model.name == model and r.resolution and max(r.resolution) == size
    ]
    exact = next((r for r in mine if r.metric == metric), None)
    return exact or next((r for r in mine if r.status == "failed"), None)


def _page(records: Sequence[RunRecord], suite: str, picture: str) -> str:
    head, *lines = rows(records)
    marks = ["---", "---", "--:", "--:", *["--:"] * (len(head) - 4)]
    table = "\n".join("| " + " | ".join(line) + " |" for line in (head, marks, *lines)) + "\n"
    parts = [f"# resolution: {suite}\n", "Percent with 95% interval; size: side of the input in pixels.\n"]
    if picture:
        parts.append(f"![Scores against the size of the input]({picture})\n")
    parts += [
        table,
        reference.section(records),
        problems(records),
        "## How these numbers were made\n",
        provenance(records),
    ]
    return "\n".join(part for part in parts if part)


def _plot(records: Sequence[RunRecord], path: Path) -> None:
    """A panel a curve: one line a model, its 95% interval as a band."""
    from matplotlib.figure import Figure

    models = list(dict.fromkeys(record.model.name for record in records))
    panels, across = curves(records), 2
    down = -(-len(panels) // across)
    figure = Figure(figsize=(9, 0.5 + 2.8 * down), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False).ravel()
    for axes, (task, metric) in zip(grid, panels, strict=False):
        for m, model in enumerate(models):
            found = [_at(records, task, metric, size, model) for size in sizes(records)]
            kept = [
                (max(r.resolution), r.value, r.interval)
                for r in found
                if r and r.resolution and r.value is not None
            ]
            colour = COLOURS[m % len(COLOURS)]
            label = model if (task, metric) == panels[0] else None
            style = f"{MARKERS[m % len(MARKERS)]}-"
            x, y = [size for size, _, _ in kept], [100 * value for _, value, _ in kept]
            axes.plot(x, y, style, color=colour, label=label, markersize=4)
            bounds = [(100 * i.low, 100 * i.high) for _, _, i in kept if i is not None]
            if bounds and len(bounds) == len(x):
                axes.fill_between(x, *zip(*bounds, strict=True), color=colour, alpha=0.12, linewidth=0)
        axes.set_title(f"{task}  {Line(task, metric, None, ()).label}", fontsize=10)
        axes.set(xlabel="pixels a side", ylabel="percent")
        axes.set_xticks(sizes(records))
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    figure.legend(loc="outside upper center", ncols=min(5, len(models)), fontsize=8, frameon=False)
    save(figure, path)
