"""CLIMP's figures at 896 pixels beside ours: what is compared, by which convention, and what stays open."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from climp_bench.report.efficiency_tables import MIB, Cells, Grid
from climp_bench.suite.loader import shipped_dir

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_FLOPS = """\
The paper does not say what it counts. Published GFLOPs of this field are mostly multiply-adds, each counted
once: our GMACs, to which its figures are nearest. As two operations each (our GFLOPs), or without the
products of attention, they would be far off. Ours follow from the shapes alone; layer norms, softmax and GELU
count nothing. With layer norms there are {counted}.
What is left of the difference to the paper is not explained here, and no convention was bent to close it.
"""
_MEMORY = """\
The paper's memory ("resolution-specific") agrees with what the CUDA allocator still holds *after* the forward
pass, less the weights: the input, the output, and the workspace that cuBLAS takes at its first matrix product
and keeps (32 MiB on an H100 or H200). It says nothing of activations, and code whose projections all run as
convolutions, as the authors' VMamba, never takes the workspace; ours multiplies matrices and does. That
quantity and the true peak of others' code, in MiB above the weights, from
{source}:
"""
_ON_A_CPU = """\
Our peak is the rise of resident memory of a process on a CPU. What a GPU's allocator retains is measured on a
GPU only.
"""
_HEAD = (
    *("", "paper, GFLOPs", "ours, GMACs", "ours over paper", "ours, GFLOPs"),
    *("paper, MB", "ours retained, MiB", "the same with all features", "ours peak, MiB"),
)


def paper_section(cells: Cells) -> str:
    """The section of the report; empty if none of the paper's models was counted at the paper's size."""
    text = (shipped_dir() / "reference" / "efficiency.toml").read_text(encoding="utf-8")
    data = tomllib.loads(text)
    side = int(data["resolution"])
    papers = [
        entry for entry in data["paper"] if cells.value(f"{entry['family']}@base", side, "macs") is not None
    ]
    if not papers:
        return ""
    rows = [_HEAD, *(_beside(entry, cells, side) for entry in papers)]
    told = [column for column in zip(*rows, strict=True) if set(column[1:]) != {"-"}]
    head, *lines = zip(*told, strict=True)
    table = Grid("", head, tuple(lines))
    counted = " and ".join(f"{entry['gmacs']} ({entry['source']})" for entry in data["counted"])
    parts = [
        f"## The paper's figures at {side} pixels beside ours\n",
        table.markdown(),
        f"Paper: {papers[0]['source']}.\n",
        _FLOPS.format(counted=counted),
        _MEMORY.format(source=data["memory_source"]),
        _elsewhere(data["memory"]).markdown(),
    ]
    if cells.measured("peak_memory_bytes") and not cells.measured("retained_memory_bytes"):
        parts.append(_ON_A_CPU)
    return "\n".join(parts)


def _beside(entry: Mapping[str, Any], cells: Cells, side: int) -> tuple[str, ...]:
    """The paper's figures of a model, and those of our eager one at scale base."""
    model = f"{entry['family']}@base"

    def ours(metric: str, unit: float) -> str:
        value = cells.value(model, side, metric)
        return "-" if value is None else f"{value / unit:.1f}"

    macs = (cells.value(model, side, "macs") or 0) / 1e9
    return (
        f"{entry['name']}; ours: {model}",
        f"{entry['gflops']}",
        ours("macs", 1e9),
        f"{macs / entry['gflops']:.3f}",
        ours("flops", 1e9),
        f"{entry['memory_mb']}",
        ours("retained_memory_bytes", MIB),
        ours("retained_features_memory_bytes", MIB),
        ours("peak_memory_bytes", MIB),
    )


def _elsewhere(measured: Sequence[Mapping[str, Any]]) -> Grid:
    """Memory of others' code, as the reference file has it."""
    sizes = measured[0]["sizes"]
    rows = [
        (f"{entry['name']}: {what}", *(f"{value:g}" for value in entry[key]))
        for key, what in (("retained", "retained"), ("peak", "peak"))
        for entry in measured
        if key in entry
    ]
    return Grid("", ("", *(f"{size} px" for size in sizes)), tuple(rows))
