"""Efficiency records as grids of text: a row a model, a column a size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from climp_bench.results import RunRecord

MIB = 2**20
_LATENCY = "latency at batch 1"
_GRAPHED = "as a CUDA graph"


@dataclass(frozen=True)
class Quantity:
    """How a metric is shown: its name in words, and what its value is divided by.

    Attributes:
        metric: its name in records.
        label: in words, with the unit.
        unit: what the value is divided by.
        ratio: whether models are compared by it.
    """

    metric: str
    label: str
    unit: float = 1
    ratio: bool = False


QUANTITIES = (
    Quantity("macs", "GMACs", 1e9, True),
    Quantity("flops", "GFLOPs", 1e9),
    Quantity("positional_state_bytes", "positional state, MiB", MIB),
    Quantity("peak_memory_bytes", "peak memory over weights, MiB", MIB, True),
    Quantity("peak_memory_without_workspace_bytes", "the same without cuBLAS's workspace, MiB", MIB),
    Quantity("retained_memory_bytes", "retained after the forward pass, MiB", MIB),
    Quantity("retained_memory_without_workspace_bytes", "the same without cuBLAS's workspace, MiB", MIB),
    Quantity("retained_features_memory_bytes", "retained with all features, MiB", MIB),
    Quantity(
        "retained_features_memory_without_workspace_bytes", "the same without cuBLAS's workspace, MiB", MIB
    ),
    Quantity("latency_ms", f"{_LATENCY}, ms (median)", 1, True),
    Quantity("latency_graphed_ms", f"{_LATENCY} {_GRAPHED}, ms (median)", 1, True),
    Quantity("latency_p95_ms", f"{_LATENCY}, ms (95th percentile)"),
    Quantity("throughput_images_per_s", "images/s at the best batch measured", 1, True),
    Quantity("throughput_texts_per_s", "texts/s at the best batch measured", 1, True),
    Quantity("energy_joule_per_image", "energy an image, J"),
    Quantity("energy_joule_per_text", "energy a text, J"),
    Quantity("gpu_utilisation", "GPU utilisation, %", 0.01),
)
COUNTED = ("macs", "flops", "positional_state_bytes")
"""What compiling does not change."""
OUT_OF_BUDGET = "would exceed the budget"
"""How the fact ``batches_end`` of a throughput ends whose best batch may not have been reached."""
BOUND = "≥ "
"""Stands before such a throughput."""
COMPILED = " (compiled)"
"""How the names of compiled models end."""


@dataclass(frozen=True)
class Grid:
    """A table: its title, its head, and its rows."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """As Markdown, without the title."""
        marks = ["---", *["--:"] * (len(self.head) - 1)]
        return "\n".join("| " + " | ".join(row) + " |" for row in (self.head, marks, *self.rows)) + "\n"


def label_of(record: RunRecord) -> str:
    """The model's name, and whether it was compiled."""
    return record.model.name + (COMPILED if record.protocol.endswith("-compiled") else "")


def tower_of(record: RunRecord) -> str:
    """``image`` or ``text``."""
    return record.task.partition("-")[0]


def is_bound(record: RunRecord | None) -> bool:
    """Whether a throughput is the least that it can be: the budget ended before larger batches were tried."""
    if record is None or not record.metric.startswith("throughput"):
        return False
    return str(record.extra.get("batches_end", "")).endswith(OUT_OF_BUDGET)


def size_of(record: RunRecord) -> int:
    """Pixels a side, or tokens."""
    return int(record.task.rpartition("-")[2])


class Cells:
    """The records of one kind of tower, by model, size and metric."""

    def __init__(self, records: Sequence[RunRecord], tower: str) -> None:
        own = [record for record in records if tower_of(record) == tower]
        self.tower = tower
        eager_first = sorted(own, key=lambda record: record.protocol.endswith("-compiled"))
        self.models = tuple(dict.fromkeys(label_of(record) for record in eager_first))
        self.sizes = tuple(sorted({size_of(record) for record in own}))
        self._by_place = {(label_of(r), size_of(r), r.metric): r for r in own}

    def at(self, model: str, size: int, metric: str) -> RunRecord | None:
        """The record of a metric, or the one that says why the whole cell has none."""
        return self._by_place.get((model, size, metric)) or self._by_place.get((model, size, "any"))

    def value(self, model: str, size: int, metric: str) -> float | None:
        """The value of a metric, if there is one."""
        record = self._by_place.get((model, size, metric))
        return None if record is None else record.value

    def models_with(self, metric: str) -> tuple[str, ...]:
        """The models to show it of: compiled ones only where it was measured, and compiling may change it."""
        return tuple(
            model for model in self.models
            if not model.endswith(COMPILED)
            or (metric not in COUNTED and any(self.at(model, size, metric) for size in self.sizes))
        )  # fmt: skip

    def measured(self, metric: str) -> bool:
        """Whether there is any value of this metric."""
        return any(self.value(m, s, metric) is not None for m in self.models for s in self.sizes)


def grids(cells: Cells) -> Iterator[Grid]:
    """A grid for every quantity that has a value."""
    unit = " px" if cells.tower == "image" else ""
    head = (f"{cells.tower} tower", *(f"{size}{unit}" for size in cells.sizes))
    for quantity in QUANTITIES:
        if cells.measured(quantity.metric):
            rows = tuple(
                (model, *(_shown(cells.at(model, size, quantity.metric), quantity) for size in cells.sizes))
                for model in cells.models_with(quantity.metric)
            )
            yield Grid(quantity.label, head, rows)


def ratio_grids(cells: Cells, baseline: str) -> Iterator[Grid]:
    """For each quantity that compares models, their values over those of the model called ``baseline``."""
    unit = " px" if cells.tower == "image" else ""
    head = (f"over {baseline}", *(f"{size}{unit}" for size in cells.sizes))
    for quantity in QUANTITIES:
        if not quantity.ratio or not any(cells.value(baseline, s, quantity.metric) for s in cells.sizes):
            continue
        rows = []
        for model in cells.models_with(quantity.metric):
            ratios = []
            for size in cells.sizes:
                mine = cells.value(model, size, quantity.metric)
                base = cells.value(baseline, size, quantity.metric)
                bound = any(is_bound(cells.at(name, size, quantity.metric)) for name in (model, baseline))
                ratios.append("-" if mine is None or not base or bound else f"{mine / base:.2f}")
            rows.append((model, *ratios))
        yield Grid(quantity.label.removesuffix(", MiB").removesuffix(", ms (median)"), head, tuple(rows))


def steady(found: Iterable[Grid]) -> list[Grid]:
    """Without latencies, and ratios of them, that the host's launches make where a CUDA graph has others.

    Those of graphs repeat from one process to the next; those of launches do not (``design/log.md``).
    """
    kept = list(found)
    if not any(_GRAPHED in grid.title for grid in kept):
        return kept
    return [grid for grid in kept if _GRAPHED in grid.title or not grid.title.startswith(_LATENCY)]


def parameters_grid(cells: Cells) -> Grid:
    """Parameters and operators that were not counted, of each model."""
    rows = []
    for model in cells.models:
        found = [r for s in cells.sizes if (r := cells.at(model, s, "parameters")) and r.value is not None]
        macs = [r for s in cells.sizes if (r := cells.at(model, s, "macs"))]
        missed = sorted({str(r.extra["unsupported"]) for r in macs if r.extra.get("unsupported")})
        tower = str(found[0].extra["tower"]) if found else "-"
        million = f"{(found[0].value or 0) / 1e6:,.2f}" if found else "-"
        rows.append((model, f"`{tower}`", million, ", ".join(missed) or "none"))
    return Grid("towers", ("model", "tower", "parameters, M", "operators not counted"), tuple(rows))


def digits(value: float) -> str:
    """Three to four digits that matter, never in powers of ten."""
    if value >= 1000:
        return f"{value:,.0f}"
    if value >= 10:
        return f"{value:.1f}"
    return "0" if value == 0 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def _shown(record: RunRecord | None, quantity: Quantity) -> str:
    """A value with its interval, repetitions or batch, or why there is none in a word."""
    if record is None:
        return "-"
    if record.value is None:
        return record.status
    text = digits(record.value / quantity.unit)
    if record.interval is not None:
        low, high = record.interval.low / quantity.unit, record.interval.high / quantity.unit
        text += f" [{digits(low)}, {digits(high)}]"
    if quantity.metric.startswith("latency"):
        return f"{text} (n {record.n_evaluated})"
    if quantity.metric.startswith("throughput"):
        return f"{BOUND * is_bound(record)}{text} (batch {record.extra['batch']})"
    return text
