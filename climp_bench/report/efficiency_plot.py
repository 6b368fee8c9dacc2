"""Small multiples of the efficiency records: a panel a quantity, a line a model, sizes along the bottom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from climp_bench.report.efficiency_tables import COMPILED, QUANTITIES, Cells, is_bound
from climp_bench.report.plots import COLOURS, MARKERS, save

_PANELS = (
    *("macs", "peak_memory_bytes", "retained_features_memory_bytes", "positional_state_bytes"),
    *("latency_ms", "latency_graphed_ms", "throughput_images_per_s", "throughput_texts_per_s"),
)
_COLUMNS = 2


def plot(cells: Cells, paths: list[Path]) -> None:
    """Draw what was measured into each of ``paths``, as their suffixes say (``.png``, ``.svg``).

    Scales are logarithmic. Where lines coincide the earlier one is wider, so that both are seen; a compiled
    tower has the colour of the eager one and a dashed line.

    Raises:
        StoreError: a file cannot be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator

    panels = [q for q in QUANTITIES if q.metric in _PANELS and cells.measured(q.metric)]
    rows = -(-len(panels) // _COLUMNS)
    figure = Figure(figsize=(9, 0.9 + 2.9 * rows), layout="constrained")
    grid = figure.subplots(rows, _COLUMNS, squeeze=False).flatten()
    for axes, quantity in zip(grid, panels, strict=False):
        for m, model in enumerate(cells.models_with(quantity.metric)):
            _line(axes, cells, model, m, quantity.metric, quantity.unit)
        axes.set(title=quantity.label, xscale="log", yscale="log")
        axes.title.set_fontsize(9)
        axes.set_xticks(cells.sizes, [str(size) for size in cells.sizes], fontsize=8)
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.tick_params(axis="y", labelsize=8)
        axes.minorticks_off()
        axes.grid(axis="y", color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel("pixels a side" if cells.tower == "image" else "tokens", fontsize=8)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    handles, labels = _legend(grid[: len(panels)])
    figure.legend(handles, labels, loc="outside upper center", ncols=3, fontsize=8, frameon=False)
    for path in paths:
        save(figure, path)


def _line(axes: Any, cells: Cells, model: str, number: int, metric: str, unit: float) -> None:
    """The line of a model; zero, what was not measured and lower bounds have no place on it."""
    points = [
        (s, v / unit) for s in cells.sizes
        if (v := cells.value(model, s, metric)) and not is_bound(cells.at(model, s, metric))
    ]  # fmt: skip
    if not points:
        return
    eager = model.removesuffix(COMPILED)
    place = cells.models.index(eager) if eager in cells.models else number
    axes.plot(
        *zip(*points, strict=True),
        marker=MARKERS[place % len(MARKERS)],
        color=COLOURS[place % len(COLOURS)],
        linestyle="-" if model == eager else "--",
        linewidth=max(1.0, 5.5 - 1.1 * place),
        markersize=max(3.0, 10.0 - 1.6 * place),
        label=model,
    )


def _legend(panels: Any) -> tuple[list[Any], list[str]]:
    """Every model once, whichever panel it is in."""
    named: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            named.setdefault(label, handle)
    return list(named.values()), list(named)
