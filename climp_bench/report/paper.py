"""Every figure of the paper that is recorded in ``suites/reference``, beside ours, or why there is none."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

from climp_bench.report.efficiency_tables import MIB
from climp_bench.report.experiment_sections import PARTS, paper_state
from climp_bench.report.pool import PERCENT
from climp_bench.report.reference import SUITE, Comparison, Figure, compare, read_figures
from climp_bench.report.tables import Line
from climp_bench.results import RunRecord
from climp_bench.results.experiments import Stored
from climp_bench.suite.loader import available, load, shipped_dir

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HEAD = (
    "what",
    "model",
    "metric",
    "published",
    "ours",
    "n",
    "difference",
    "in our interval, or why absent",
    "source",
)
_OF_THE_PAPER = "CLIMP"
NOT_MEASURED = "not measured"
Rows = tuple[tuple[str, ...], ...]


def paper_rows(records: Sequence[RunRecord], experiments: Sequence[Stored] = ()) -> Rows:
    """The figures of CLIMP and of its authors' repository beside ours; the first row is the head.

    Scores are in percent. A figure without a counterpart says why; :func:`commands` would measure it. Of
    experiments no figure is on record: their rows say how they stand.
    """
    figures = [f for f in read_figures() if _OF_THE_PAPER in f.source]
    found: dict[Figure, list[Comparison]] = {}
    for comparison in compare(records, figures):
        found.setdefault(comparison.figure, []).append(comparison)
    rows = [row for figure in figures for row in _of(figure, found.get(figure, []), records)]
    return (HEAD, *rows, *_efficiency(records), *_experiments(experiments))


def _of(figure: Figure, found: Sequence[Comparison], records: Sequence[RunRecord]) -> list[tuple[str, ...]]:
    size = f", {figure.resolution} px" if figure.resolution else ""
    what = figure.dataset.replace(SUITE, "average of ") + size
    told = (what, figure.model, Line("", figure.metric, None, ()).label, PERCENT.text(100 * figure.value))
    if not found:
        return [(*told, "-", "-", "-", _absent(figure, records), figure.source)]
    rows: list[tuple[str, ...]] = []
    for c in found:
        around = c.interval
        bounds = f" [{100 * around.low:.1f}, {100 * around.high:.1f}]" if around else ""
        covered = {True: "yes", False: "no", None: "no interval"}[c.covered]
        ours = PERCENT.text(100 * c.value) + bounds
        rows.append(
            (*told, ours, f"{c.n:,}", f"{round(100 * c.difference, 1) + 0.0:+.1f}", covered, figure.source)
        )
    return rows


def commands(records: Sequence[RunRecord], experiments: Sequence[Stored] = ()) -> list[str]:
    """What would measure the figures and carry out the experiments that nothing was measured for."""
    figures = [f for f in read_figures() if _OF_THE_PAPER in f.source]
    done = {c.figure for c in compare(records, figures)}
    wanted = [_command(f) for f in figures if f not in done and _absent(f, records) == NOT_MEASURED]
    costs = [row for row in _efficiency(records) if row[7] == NOT_MEASURED]
    wanted += [f"climp-bench efficiency --res {_side()} --model {row[1]}" for row in costs]
    wanted += [part.full for name, part in PARTS.items() if paper_state(name, experiments) != "measured"]
    return list(dict.fromkeys(wanted))


def _command(figure: Figure) -> str:
    name = figure.dataset.removeprefix(SUITE)
    shifted = name.startswith("imagenet-")
    verb, suite = ("ood", "imagenet-ood") if shifted else ("zeroshot", name)
    return f"climp-bench {verb} --suite {suite} --model {figure.model}"


def _absent(figure: Figure, records: Sequence[RunRecord]) -> str:
    """Why a figure has no counterpart in the store."""
    name = figure.dataset.removeprefix(SUITE)
    of_suite = figure.dataset.startswith(SUITE)
    own = [
        r
        for r in records
        if r.model.name == figure.model and name == (r.suite if of_suite else r.dataset.name)
    ]
    failed = next((r for r in own if r.error is not None), None)
    if failed is not None and failed.error is not None:
        return f"{failed.status}: {failed.error.what}"
    if own and of_suite:
        done = {r.task for r in own if r.value is not None}
        missing = (
            [task.name for task in load(name).tasks if task.name not in done] if name in available() else []
        )
        return (
            f"not all of it was measured, {len(missing)} tasks are missing" if missing else "other conditions"
        )
    if own:
        return "measured under other conditions (size of the input, or metric)"
    return NOT_MEASURED


def _efficiency(records: Sequence[RunRecord]) -> Iterator[tuple[str, ...]]:
    """The cost that the paper prints, beside what we count and measure at its size."""
    data, side = _costs(), _side()
    for entry in data["paper"]:
        model = f"{entry['family']}@base"
        own = {r.metric: r for r in records if r.model.name == model and r.task == f"image-{side}"}
        for metric, ours, unit, key in (
            ("GFLOPs (ours: GMACs)", "macs", 1e9, "gflops"),
            ("memory, MB (ours: retained, MiB)", "retained_memory_bytes", MIB, "memory_mb"),
        ):
            record = own.get(ours)
            shown = ("-", "-", "-", NOT_MEASURED)
            if record is not None and record.value is not None:
                value = record.value / unit
                apart = f"{value - entry[key]:+.1f}"
                shown = (f"{value:.1f}", f"{record.n_evaluated:,}", apart, "no interval")
            elif record is not None and record.error is not None:
                shown = ("-", "-", "-", f"{record.status}: {record.error.what}")
            yield (f"image tower, {side} px", model, metric, f"{entry[key]}", *shown, entry["source"])


def _experiments(stored: Sequence[Stored]) -> Iterator[tuple[str, ...]]:
    for name, part in PARTS.items():
        state = paper_state(name, stored)
        ours = f"see {part.title}" if state else "-"
        source = f"CLIMP paper, arXiv 2601.06891v1, {part.paper}"
        yield (part.title, "-", "-", "not on record", ours, "-", "-", state or NOT_MEASURED, source)


def _costs() -> dict[str, Any]:
    return tomllib.loads((shipped_dir() / "reference" / "efficiency.toml").read_text(encoding="utf-8"))


def _side() -> int:
    return int(_costs()["resolution"])
