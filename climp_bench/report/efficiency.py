"""The report of ``climp-bench efficiency``: what each tower costs at each size, from records only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from climp_bench.errors import StoreError
from climp_bench.files import write_text
from climp_bench.report.efficiency_paper import paper_section
from climp_bench.report.efficiency_plot import plot
from climp_bench.report.efficiency_tables import (
    COMPILED,
    Cells,
    Grid,
    grids,
    is_bound,
    label_of,
    parameters_grid,
    ratio_grids,
)
from climp_bench.report.page import problems
from climp_bench.report.tables import to_csv
from climp_bench.results import RunRecord

TOWERS = ("image", "text")
NOISY = 1.25
"""Latencies of one tower that lie further apart than this call for another run."""

_MEANING = """\
## What the numbers mean

- **GMACs** count a multiply-add once, which papers mostly print as FLOPs; **GFLOPs** count the multiply and
  the add. Both come from shapes: matrix products, convolutions, attention, and scans at 9 operations a
  position, channel and state, which are single ones in both, with a multiply-add for the skip. Elementwise
  functions, norms and softmax count nothing. An operator without a formula is named above.
- **Positional state** is the position tables that one pass uses (rotary sines and cosines, resampled learned
  embeddings), float32, by formula. Scans need none.
- **Peak memory** is the most above the weights during one pass of one input{peak}.
- **Latency** is the median of n passes at batch 1 after a pass that warms up, with a 95% interval of the
  median where n is 6 or more; a 95th percentile takes 20. **Throughput** is inputs a second
  at the best batch tried.
- Inputs are random, weights freshly initialised: neither shapes time or memory. Projections into the shared
  space and decoding are left out.
"""
_GRAPH = """\
- **As a CUDA graph** is the same pass recorded once and replayed, after it gave the same output: the time of
  the GPU alone. Passes at batch 1 that are not replayed mostly wait for the host, which launches kernels.
"""
_BOUNDS = """\
- **≥** before a throughput: the budget of the cell ended while larger batches were left to try, so it is a
  lower bound: no ratio is formed of it, and no plot shows it. A larger `--budget` settles it.
"""
_RSS = ",\n  as the rise of resident memory of a process of its own, the libraries loaded"
_CUDA = ",\n  as the CUDA allocator counts it; **retained** is what it still holds after the pass"


def write_efficiency(
    records: Sequence[RunRecord], suite: str, out: Path, baseline: str | None = "rope-vit"
) -> list[Path]:
    """Write ``{suite}.md``, ``.csv``, and per kind of tower ``.png`` and ``.svg``; return their paths.

    Args:
        records: of any suites and kinds; those of others are left out.
        suite: ``efficiency-cpu``, or with a GPU's name.
        out: the folder.
        baseline: family that the others are divided by; where it was not measured there are no ratios.

    Raises:
        StoreError: a file cannot be written.
    """
    own = [record for record in records if record.suite == suite and record.kind == "efficiency"]
    page, table = out / f"{suite}.md", out / f"{suite}.csv"
    paths, pictures = [page, table], {}
    for cells in towers(own):
        name = suite if cells.tower == "image" else f"{suite}-text"
        drawn = [out / f"{name}{suffix}" for suffix in (".png", ".svg")]
        plot(cells, drawn)
        pictures[cells.tower] = drawn[0].name
        paths += drawn
    write_text(page, _page(own, suite, baseline, pictures), StoreError)
    write_text(table, to_csv(own), StoreError)
    return paths


def towers(records: Sequence[RunRecord]) -> list[Cells]:
    """The cells of each kind of tower that was counted."""
    return [cells for tower in TOWERS if (cells := Cells(records, tower)).measured("macs")]


def baseline_of(cells: Cells, records: Sequence[RunRecord], family: str | None) -> str:
    """The eager model of ``family`` among the cells, "" if there is none."""
    names = {label_of(r) for r in records if r.model.family == family and r.protocol.endswith("-eager")}
    return next((model for model in cells.models if model in names), "")


def _page(records: Sequence[RunRecord], suite: str, baseline: str | None, pictures: dict[str, str]) -> str:
    parts = [f"# {suite}\n"]
    if not records:
        return parts[0] + "\nNothing was measured.\n"
    parts += [_claim(records), control(records) and control(records) + "\n"]
    for cells in towers(records):
        parts.append(f"## {cells.tower.capitalize()} towers\n")
        parts.append(f"![Cost of each {cells.tower} tower against size]({pictures[cells.tower]})\n")
        parts.append(parameters_grid(cells).markdown())
        parts += [_titled(grid) for grid in grids(cells)]
        if name := baseline_of(cells, records, baseline):
            for base in (name, name + COMPILED):
                if base in cells.models:
                    parts.append(f"## {cells.tower.capitalize()} towers, ratios to {base}\n")
                    parts += [_titled(grid) for grid in ratio_grids(cells, base)]
        elif baseline:
            parts.append(f"No ratios: {baseline} is not among the models.\n")
        if cells.tower == "image":
            parts.append(paper_section(cells))
    device = records[0].provenance.device
    parts.append(_MEANING.format(peak=_RSS if device == "cpu" else _CUDA if device == "cuda" else ""))
    if any(record.metric == "latency_graphed_ms" for record in records):
        parts.append(_GRAPH)
    if any(map(is_bound, records)):
        parts.append(_BOUNDS)
    parts += [problems(records), _made(records)]
    return "\n".join(part for part in parts if part)


def _titled(grid: Grid) -> str:
    return f"### {grid.title}\n\n{grid.markdown()}"


def _claim(records: Sequence[RunRecord]) -> str:
    """What times on this device may be taken for."""
    run = records[0].provenance
    if run.device == "meta":
        return "Counted from shapes; nothing ran, nothing was timed.\n"
    if run.device == "cpu":
        return (
            f"**Times are of this machine ({run.cpu}) and no claim about others.** Ratios travel better;\n"
            "counts do not depend on it.\n"
        )
    if not any(record.metric.startswith(("latency", "throughput")) for record in records):
        return f"Memory is that of {run.gpu}; no times are among these records.\n"
    return f"Times are of {run.gpu}; models took turns at each size.\n"


def control(records: Sequence[RunRecord]) -> str:
    """Which models have one tower, and how far their latencies lie apart: the noise here. "" without any."""
    named = _by_tower(records, "latency_ms")
    if not named:
        return ""
    groups = "; ".join(dict.fromkeys(", ".join(times) for times in named))
    apart = _apart(named)
    verdict = f"their latencies differ by a factor of up to {apart:.2f}, and less than that says nothing"
    why = ""
    if apart > NOISY and (graphed := _by_tower(records, "latency_graphed_ms")):
        why = f". Most of that is the host, which launches kernels: as CUDA graphs {_apart(graphed):.2f}"
    elif apart > NOISY:
        why = ". The machine is busy: measure again (--fresh, --rounds 3)"
    return f"One tower, measured separately ({groups}): {verdict}{why}."


def _by_tower(records: Sequence[RunRecord], metric: str) -> list[dict[str, float]]:
    """Its values by model, of each size of a tower that several models have."""
    named: dict[tuple[str, str], dict[str, float]] = {}
    for record in records:
        if record.metric == metric and record.value and record.protocol.endswith("-eager"):
            named.setdefault((record.task, str(record.extra["tower"])), {})[record.model.name] = record.value
    return [values for values in named.values() if len(values) > 1]


def _apart(of_towers: Sequence[dict[str, float]]) -> float:
    """The largest factor between values that should be equal."""
    return max(max(values.values()) / min(values.values()) for values in of_towers)


def _made(records: Sequence[RunRecord]) -> str:
    """Conditions, host and versions of the run."""
    run = records[-1].provenance
    facts: dict[str, list[object]] = {}
    for record in records:
        shown = {"budget of a cell, s": "budget_s", "batch sizes": "batch_sizes", "threads": "threads"}
        shown |= {
            "driver": "driver",
            "SM clock, MHz": "sm_clock_mhz",
            "memory clock, MHz": "memory_clock_mhz",
        }
        shown |= {"TF32": "tf32", "peak memory by": "peak_memory_by", "load before": "load_before"}
        for label, name in shown.items():
            if (value := record.extra.get(name)) is not None and value not in facts.setdefault(label, []):
                facts[label].append(value)
    rounds = max(int(record.extra["rounds"] or 0) for record in records)
    spreads = [v for record in records if isinstance(v := record.extra.get("round_spread"), float)]
    lines = ["## How these numbers were made\n"]
    facts = {} if run.device == "meta" else facts
    lines += [f"- {label}: {_listed(values)}" for label, values in facts.items() if values]
    if rounds:
        widest = f"; medians of the rounds differ by at most {100 * max(spreads):.1f}%" if spreads else ""
        lines.append(f"- rounds: {rounds}{widest}")
    errors = [v for r in records if isinstance(v := r.extra.get("error_against_reference"), float)]
    backends = {f"{op}: {name}" for record in records for op, name in record.provenance.backends.items()}
    if backends:
        agreed = f", which agreed with the reference to {max(errors):.1e} before timing" if errors else ""
        lines.append(f"- scans: {', '.join(sorted(backends))}{agreed}")
    commit = f"commit {run.git_commit[:12]}" if run.git_commit else "no commit"
    changes = " (with changes)" if run.git_dirty else ""
    versions = ", ".join(f"{name} {version}" for name, version in run.packages.items())
    lines += ["", f"climp-bench {run.climp_bench}, {commit}{changes}, Python {run.python}, {run.dtype}."]
    gpu = f", {run.gpu}" if run.device == "cuda" else ""
    lines += ["", f"{run.cpu}{gpu}. {versions}.", ""]
    return "\n".join(lines)


def _listed(values: Sequence[object]) -> str:
    """All of a few values, the range of many numbers."""
    numbers = [value for value in values if isinstance(value, int | float)]
    if len(values) > 2 and len(numbers) == len(values):
        return f"{min(numbers):g} to {max(numbers):g}"
    return ", ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)
