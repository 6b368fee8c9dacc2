"""Checks and timings of the operators' backends: rows for tables, and the files of a run.

Milliseconds of a CPU depend on what else it does and say little about another one: tables show them for
GPUs only, and the CSV and the JSON call them ``this machine``. Ratios of backends that took turns stand.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from climp_bench.errors import StoreError
from climp_bench.files import write_text
from climp_bench.results.kernels import BASELINE, KernelCheck, KernelRun, KernelTiming

Row = list[str]


def write_kernel_report(run: KernelRun, out: Path) -> list[Path]:
    """Write ``kernels-{cpu or the GPU's name}.md``, ``.csv`` and ``.json`` to ``out``; returns their paths.

    Raises:
        StoreError: a file cannot be written.
    """
    name = re.sub(r"[^a-z0-9]+", "-", (run.provenance.gpu or "cpu").lower()).strip("-")
    paths = [out / f"kernels-{name}{suffix}" for suffix in (".md", ".csv", ".json")]
    content = json.dumps(as_json(run), indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    for path, text in zip(paths, (_page(run), _csv(run), content), strict=True):
        write_text(path, text, StoreError)
    return paths


def as_json(run: KernelRun) -> dict[str, Any]:
    """The run as plain data, with ``milliseconds_of``: the GPU's name, or ``this machine``."""
    return {**run.model_dump(mode="json"), "milliseconds_of": _clocked(run)}


def check_rows(run: KernelRun) -> list[Row]:
    """A head and a row for each backend of each op: how many checks it passed, and its largest error.

    The error is given as a share of what is tolerated: 1 is the limit.
    """
    rows = [["op", "backend", "passed", "failed", "skipped", "largest error / tolerance"]]
    for op, backend in dict.fromkeys((check.op, check.backend) for check in run.checks):
        own = [check for check in run.checks if (check.op, check.backend) == (op, backend)]
        counts = [
            str(sum(check.status == status for check in own)) for status in ("passed", "failed", "skipped")
        ]
        measured = [check for check in own if check.status != "skipped"]
        rows.append([op, backend, *counts, _share(max(map(_worst, measured), default=0.0))])
    return rows


def failure_lines(run: KernelRun) -> list[str]:
    """One line for each failed check: what, by how much, or what was raised."""
    return [
        f"{check.op}, {check.backend}, {check.case}, {check.dtype}: {_why(check)}" for check in run.failed
    ]


def speed_rows(run: KernelRun) -> list[Row]:
    """A head and a row for each timed size and direction, a column for each backend.

    A cell is the speed relative to the baseline (2.0x is twice as fast) with its spread, after the median in
    milliseconds on a GPU; or why nothing was timed.
    """
    backends = list(dict.fromkeys(timing.backend for timing in run.timings))
    backends.sort(key=lambda name: name == BASELINE)
    rows = [["op", "size", "direction", *backends]]
    for key in dict.fromkeys((t.op, t.size, t.direction) for t in run.timings):
        own = {t.backend: t for t in run.timings if (t.op, t.size, t.direction) == key}
        rows.append([*key, *(_cell(own.get(name), run) for name in backends)])
    return rows


def memory_rows(run: KernelRun) -> list[Row]:
    """A head and rows as of ``speed_rows``, with peak memory in MiB; only the head if none was measured."""
    backends = list(dict.fromkeys(timing.backend for timing in run.timings))
    rows = [["op", "size", "direction", *backends]]
    for key in dict.fromkeys((t.op, t.size, t.direction) for t in run.timings if t.peak_mib is not None):
        own = {t.backend: t.peak_mib for t in run.timings if (t.op, t.size, t.direction) == key}
        peaks = [own.get(name) for name in backends]
        rows.append([*key, *("" if peak is None else f"{peak:,.1f}" for peak in peaks)])
    return rows


def _cell(timing: KernelTiming | None, run: KernelRun) -> str:
    if timing is None:
        return ""
    if timing.median_ms is None:
        return timing.reason
    speed = "no baseline" if timing.speed is None else f"{timing.speed:.2f}x"
    if timing.p95_ms is None:
        speed += f" (n = {timing.repeats})"
    else:
        speed += f" (+{100 * (timing.p95_ms / timing.median_ms - 1):.0f}%)"
    return speed if run.device == "cpu" else f"{timing.median_ms:.3f} ms, {speed}"


def _worst(check: KernelCheck) -> float:
    """Largest error of a check over what is tolerated; infinite where something is not finite, or raised."""
    if check.values is None:
        return float("inf")
    shares = [check.values / check.tolerance]
    for error in check.gradients.values():
        shares.append(float("inf") if error is None else error / check.gradient_tolerance)
    return max(shares)


def _share(worst: float) -> str:
    return "not finite" if worst == float("inf") else f"{worst:.2g}"


def _why(check: KernelCheck) -> str:
    if check.reason:
        return check.reason
    parts = [("the result", check.values, check.tolerance)]
    parts += [
        (f"the gradient of {name}", error, check.gradient_tolerance)
        for name, error in check.gradients.items()
    ]
    return "; ".join(
        f"{what} is not finite, or of another shape"
        if error is None
        else f"{what} is off by {error:.1e}, allowed is {limit:.1e}"
        for what, error, limit in parts
        if error is None or error >= limit
    )


def _clocked(run: KernelRun) -> str:
    return run.provenance.gpu or "this machine"


def _page(run: KernelRun) -> str:
    speed, memory = speed_rows(run), memory_rows(run)
    skipped = [
        f"{c.op}, {c.backend}, {c.case}, {c.dtype}: {c.reason}" for c in run.checks if c.status == "skipped"
    ]
    absent = [f"{name}: {reason}" for name, reason in run.absent.items()]
    parts = [
        f"# Backends of the state-space operators on {run.provenance.gpu or 'a CPU'}\n",
        "## Correct\n",
        "Values, and gradients of every argument, against the float64 reference on edge cases; values at the "
        "timed sizes. Errors are relative to the largest value.\n",
        _markdown(check_rows(run)),
        _section("Failed", failure_lines(run)),
        _section("Skipped", skipped),
        "## Fast\n",
        f"Speed relative to the {BASELINE} backend, from medians: 2.00x is twice as fast. {run.dtype} "
        f"activations, {run.warmup} calls of warm-up, then the backends take turns. In brackets how far the "
        "95th percentile lies above the median, or the repeats if they were too few for one.\n",
        _markdown(speed),
        "## Peak memory, MiB\n\n" + _markdown(memory) if len(memory) > 1 else "",
        _section("Cannot run here", absent),
        "## How these numbers were made\n",
        _provenance(run),
        "## All checks\n",
        _markdown(_all_checks(run)),
    ]
    return "\n".join(part for part in parts if part)


def _all_checks(run: KernelRun) -> list[Row]:
    rows = [["op", "backend", "case", "dtype", "status", "values", "gradients", "compared with"]]
    for check in run.checks:
        errors = [error for error in check.gradients.values() if error is not None]
        gradients = "not finite" if len(errors) < len(check.gradients) else _error(max(errors, default=None))
        values = "" if check.status == "skipped" else _error(check.values) or "not finite"
        if check.reason:
            values, gradients = "", ""
        rows.append(
            [check.op, check.backend, check.case, check.dtype, check.status, values, gradients, check.oracle]
        )
    return rows


def _error(error: float | None) -> str:
    return "" if error is None else f"{error:.1e}"


def _section(title: str, lines: Sequence[str]) -> str:
    return f"## {title}\n\n" + "".join(f"- {line}\n" for line in lines) if lines else ""


def _provenance(run: KernelRun) -> str:
    made = run.provenance
    dirty = " (with changes)" if made.git_dirty else ""
    commit = f"{made.git_commit[:12]}{dirty}" if made.git_commit else "none"
    gpu = f", {made.gpu}, driver {run.driver or 'unknown'}, CUDA {run.cuda or 'unknown'}" if made.gpu else ""
    versions = ", ".join(f"{name} {version}" for name, version in made.packages.items())
    return (
        f"{made.cpu}, {run.threads} threads{gpu}. {made.platform}. climp-bench {made.climp_bench}, commit "
        f"{commit}, Python {made.python}, {versions}. Sizes {run.sizes}, seed {run.seed}, "
        f"{made.started_at:%Y-%m-%d %H:%M} UTC.\n"
    )


def _markdown(rows: Iterable[Row]) -> str:
    head, *lines = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *lines)) + "\n"


def _csv(run: KernelRun) -> str:
    """Checks and timings, one row each; ``kind`` tells which."""
    made = run.provenance
    host = {
        "cpu": made.cpu,
        "threads": run.threads,
        "gpu": made.gpu,
        "driver": run.driver,
        "torch": made.packages.get("torch"),
        "climp_bench": made.climp_bench,
        "git_commit": made.git_commit,
        "seed": run.seed,
    }
    rows: list[dict[str, Any]] = []
    for check in run.checks:
        row = check.model_dump(exclude={"gradients"})
        row |= {f"gradient.{name}": error for name, error in check.gradients.items()}
        rows.append({"kind": "check", **row})
    for timing in run.timings:
        rows.append({"kind": "timing", **timing.model_dump(), "milliseconds_of": _clocked(run)})
    buffer = io.StringIO()
    names = dict.fromkeys(name for row in [*rows, host] for name in row)
    writer = csv.DictWriter(buffer, fieldnames=list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row, **host} for row in rows)
    return buffer.getvalue()
