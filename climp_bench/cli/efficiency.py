"""``climp-bench efficiency``: FLOPs, memory and time against resolution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from climp_bench.cli import console
from climp_bench.cli import options as opt

if TYPE_CHECKING:
    from climp_bench.eval.efficiency import Conditions
    from climp_bench.models.spec import ModelSpec
    from climp_bench.results import Problem, RunRecord
    from climp_bench.run.efficiency_plan import CellOutcome

BUDGET_S = {"cpu": 25.0, "cuda": 20.0, "meta": 0.0}
ROUNDS = {"cpu": 1, "cuda": 2, "meta": 1}
BASELINE = "rope-vit"
SHOWN = (
    "GMACs", "peak memory", "retained after", "latency at batch 1, ms (median)",
    "latency at batch 1 as a CUDA graph", "images/s", "texts/s",
)  # fmt: skip
"""Beginnings of the titles of the tables that the screen shows; the page has all of them."""

Models = Annotated[
    list[str] | None,
    typer.Option("--model", "-m", help="FAMILY[@SCALE]; repeat for more. Default: all five."),
]
Scale = Annotated[
    str | None, typer.Option("--scale", help="Scale of every --model that names none. Default: base.")
]
Resolutions = Annotated[
    str | None,
    typer.Option("--res", help="Image sizes in pixels: A..B, A..B:STEP or a list. Default: 224..896."),
]
Lengths = Annotated[
    str | None,
    typer.Option("--text", help="Text towers at these lengths, such as 77..2048; without --res only them."),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, or meta: counts only, at once.")]
Batches = Annotated[
    str,
    typer.Option("--batch-sizes", help="Of throughput: a list, A..B, or auto: on a GPU the best, else 1."),
]
Budget = Annotated[
    float | None,
    typer.Option("--budget", min=0.1, help="Seconds of a cell for its passes. Default: 25, on a GPU 20."),
]
Rounds = Annotated[
    int | None,
    typer.Option("--rounds", min=1, help="Times a cell is timed, models in turn. Default: 1, on a GPU 2."),
]
Compile = Annotated[
    bool | None,
    typer.Option("--compile/--no-compile", help="Each tower through torch.compile too. Default: on a GPU."),
]
Baseline = Annotated[
    str | None,
    typer.Option("--baseline", help=f"Family that the others are divided by. Default: {BASELINE}."),
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of weights and inputs.")]


def efficiency(
    model: Models = None,
    scale: Scale = None,
    res: Resolutions = None,
    text: Lengths = None,
    device: Device = "auto",
    dtype: opt.DType = "float32",
    batch_sizes: Batches = "auto",
    budget: Budget = None,
    rounds: Rounds = None,
    compiled: Compile = None,
    baseline: Baseline = None,
    out: opt.Out = Path("reports"),
    fresh: opt.Fresh = False,
    seed: Seed = 0,
    json: opt.AsJson = False,
    quiet: opt.Quiet = False,
) -> None:
    """FLOPs, memory, latency and throughput of towers against resolution or length of the text.

    With no arguments: the image towers of the five families at scale base, 224 to 896 pixels. No weights are
    needed. Every cell runs in a process of its own, within a budget of seconds; one that fails or would take
    too long is a cell with a reason. Writes `OUT/efficiency-DEVICE.md`, `.csv`, `.png`, `.svg` and records.

    Examples:

      climp-bench efficiency --res 224..896

      climp-bench efficiency --device meta --res 224..896

      climp-bench efficiency --model climp-m1 --model rope-vit --res 224,384 --budget 60

      climp-bench efficiency --text 77..2048 --device cuda --dtype bfloat16
    """
    from climp_bench.report.efficiency import write_efficiency
    from climp_bench.results import ResultStore
    from climp_bench.run.efficiency_plan import make_cells, run_cells
    from climp_bench.specs import parse_lengths, parse_resolutions

    sizes = parse_resolutions(res or "224..896") if res or not text else ()
    lengths = parse_lengths(text) if text else ()
    specs = _specs(model, scale)
    family = _baseline(baseline, specs)
    conditions = _conditions(device, dtype, batch_sizes, budget, rounds, seed)
    here = conditions.device
    twice = here != "meta" and (here == "cuda" if compiled is None else compiled)
    cells = make_cells(specs, sizes, lengths, compiled=twice)
    if not (quiet or json):
        console.note(_announced(len(cells), conditions))
    steps = len(cells) * (1 if here == "meta" else 1 + conditions.rounds)  # counted, then measured
    with console.steps(steps, quiet or json) as step:
        outcome = run_cells(cells, conditions, ResultStore(out / "records"), _Watcher(step), fresh=fresh)
    files = write_efficiency(outcome.records, conditions.suite, out, family)
    if json:
        console.print_json([record.model_dump(mode="json") for record in outcome.records])
    else:
        _show(outcome, family, files, quiet)
    if outcome.failed:
        raise typer.Exit(3 if outcome.done else 1)


def _specs(names: Sequence[str] | None, scale: str | None) -> list[ModelSpec]:
    """The models, each once. A family without a scale is at scale base."""
    from climp_bench.cli.prepare import FAMILIES
    from climp_bench.errors import UsageError
    from climp_bench.models.catalogue import find
    from climp_bench.models.peers import is_peer

    specs: dict[str, ModelSpec] = {}
    for name in names or FAMILIES:
        if is_peer(name):
            remedy = "Name families of `climp-bench models list`."
            raise UsageError("only models of the catalogue are measured", where=name, remedy=remedy)
        spec = find(name, scale or (None if "@" in name else "base"))
        specs.setdefault(spec.name, spec)
    return list(specs.values())


def _baseline(asked: str | None, specs: Sequence[ModelSpec]) -> str:
    """The family to divide by; one asked for must be among the models."""
    from climp_bench.registry import unknown

    families = [spec.family for spec in specs]
    if asked is not None and asked not in families:
        raise unknown("baseline among the models", asked, families)
    return asked or BASELINE


def _conditions(
    device: str, dtype: str, batch_sizes: str, budget: float | None, rounds: int | None, seed: int
) -> Conditions:
    import torch

    from climp_bench.eval.efficiency import Conditions
    from climp_bench.models.adapters import DTYPES, gpu_name, pick_device
    from climp_bench.registry import unknown
    from climp_bench.specs import parse_batch_sizes

    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    here = device if device == "meta" else pick_device(device)
    return Conditions(
        device=here,
        gpu=gpu_name(here) if here == "cuda" else None,
        dtype=dtype,
        batches=parse_batch_sizes(batch_sizes),
        budget_s=BUDGET_S[here] if budget is None else budget,
        rounds=ROUNDS[here] if rounds is None else rounds,
        seed=seed,
        threads=torch.get_num_threads(),
    )


def _announced(cells: int, conditions: Conditions) -> str:
    """What is about to run, and within which limit."""
    if conditions.device == "meta":
        return f"{cells} cells, counted from shapes."
    place = conditions.gpu or conditions.device
    limit = f"up to {conditions.budget_s:g} s of passes each (--budget) and a few seconds to start"
    return f"{cells} cells on {place}, {limit}."


def _show(outcome: CellOutcome, baseline: str, files: Sequence[Path], quiet: bool) -> None:
    """The main tables, their ratios, and where the rest is."""
    from climp_bench.report.efficiency import baseline_of, control, towers
    from climp_bench.report.efficiency_tables import grids, is_bound, ratio_grids, steady

    for cells in towers(outcome.records):
        _print(steady(grid for grid in grids(cells) if grid.title.startswith(SHOWN)))
        if name := baseline_of(cells, outcome.records, baseline):
            _print(steady(grid for grid in ratio_grids(cells, name) if grid.title.startswith("latency")))
    if not quiet:
        _show_reasons(outcome.records)
        if noise := control(outcome.records):
            console.note(noise)
        if bounds := sum(map(is_bound, outcome.records)):
            ended = f"the budget ended while larger batches were left to try ({bounds} of the throughputs)"
            console.note(f"≥: {ended}; a larger --budget settles it.", always=True)
        reused = f", {outcome.reused} of them from an earlier run (--fresh measures again)"
        console.note(f"{outcome.done} cells{reused if outcome.reused else ''}, {outcome.failed} failed.")
        console.note("Written: " + ", ".join(str(path) for path in files))


def _show_reasons(records: Sequence[RunRecord]) -> None:
    """Why whole cells or their times are missing."""
    for record in records:
        if record.status == "skipped" and record.metric in ("any", "latency_ms") and record.error:
            words = (f"{record.model.name} {record.task}: skipped, {record.error.what}.", record.error.remedy)
            console.note(" ".join(filter(None, words)))


def _print(grids: Sequence[object]) -> None:
    from rich.table import Table

    from climp_bench.report.efficiency_tables import Grid

    for grid in grids:
        assert isinstance(grid, Grid)
        table = Table(title=grid.title, title_justify="left", box=None, pad_edge=False)
        for k, name in enumerate(grid.head):
            table.add_column(name, justify="right" if k else "left")
        for row in grid.rows:
            table.add_row(*(cell.replace("[", r"\[") for cell in row))
        console.print_table(table)


class _Watcher:
    """Shows which cell runs, and failures."""

    def __init__(self, step: Callable[[str], None]) -> None:
        self.cell = step

    def failed(self, problem: Problem) -> None:
        """A cell failed; the run goes on."""
        from climp_bench.errors import ClimpError

        console.show_error(ClimpError(problem.what, where=problem.where, remedy=problem.remedy))
