"""Plots of scores. Colours are the Okabe-Ito set, told apart with colour-blind eyes; markers differ too."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from climp_bench.errors import StoreError
from climp_bench.files import write_atomic
from climp_bench.report.tables import ScoreTable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#888888")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def dot_plot(table: ScoreTable, path: Path) -> None:
    """One row a measurement, one dot a model, with 95% intervals and the chance level.

    Raises:
        StoreError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    lines = [line for line in table.lines if any(cell.ok for cell in line.cells)]
    figure = Figure(figsize=(9, 1.3 + 0.42 * len(lines)), layout="constrained")
    axes = figure.subplots()
    for m, model in enumerate(table.models):
        offset = (m - (len(table.models) - 1) / 2) * 0.13
        xs, ys, low, high = [], [], [], []
        for row, line in enumerate(lines):
            record = line.cells[m].record
            if record is None or record.value is None or record.interval is None:
                continue
            xs.append(100 * record.value)
            ys.append(row + offset)
            low.append(max(0.0, 100 * (record.value - record.interval.low)))
            high.append(max(0.0, 100 * (record.interval.high - record.value)))
        colour, marker = COLOURS[m % len(COLOURS)], MARKERS[m % len(MARKERS)]
        axes.errorbar(
            xs, ys, xerr=[low, high], fmt=marker, color=colour, markersize=4, elinewidth=1, label=model
        )
    chance = [(100 * line.chance, row) for row, line in enumerate(lines) if line.chance is not None]
    if chance:
        axes.plot(
            *zip(*chance, strict=True), "|", color="#555555", markersize=12, label="chance", linestyle="none"
        )
    for row in range(1, len(lines)):
        axes.axhline(row - 0.5, color="#dddddd", linewidth=0.6)
    axes.set_yticks(range(len(lines)), [f"{line.task}  {line.label}" for line in lines], fontsize=8)
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.set_xlim(-1, 101)
    axes.set_xlabel("percent, with 95% interval")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=min(6, len(table.models) + 1), fontsize=8, frameon=False)
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as ``path`` says, PNG or SVG; the same figure gives the same bytes.

    Raises:
        StoreError: the file cannot be written.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    buffer = io.BytesIO()
    if path.suffix == ".svg":
        with matplotlib.rc_context({"svg.hashsalt": "climp-bench"}):
            FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
    else:
        FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    write_atomic(path, lambda handle: handle.write(buffer.getvalue()), StoreError)
