"""``climp-bench bench-kernels``: are the operators' backends correct here, and how fast."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from climp_bench.cli import console
from climp_bench.cli import options as opt

if TYPE_CHECKING:
    from climp_bench.results.kernels import KernelRun

Ops = Annotated[
    list[str] | None,
    typer.Option("--op", help="ss2d, selective_scan or ssd; repeat for more. Default: all."),
]
Backends = Annotated[
    list[str] | None,
    typer.Option("--backend", help="Repeat for more. Default: all that can run here. torch is always run."),
]
Sizes = Annotated[
    str, typer.Option("--sizes", help="small: one image or text, for a CPU. paper: batches, for a GPU.")
]
Repeats = Annotated[
    int | None,
    typer.Option("--repeats", min=1, help="Timed rounds. Default: 20, fewer where a round takes long."),
]
Backward = Annotated[bool, typer.Option("--backward/--no-backward", help="Whether to time gradients, too.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for the tables.")]
DType = Annotated[str, typer.Option("--dtype", help="float32, bfloat16 or float16: of the activations.")]


def bench_kernels(
    op: Ops = None,
    backend: Backends = None,
    device: opt.Device = "auto",
    dtype: DType = "float32",
    sizes: Sizes = "small",
    repeats: Repeats = None,
    backward: Backward = True,
    out: Out = Path("reports"),
    json: opt.AsJson = False,
    quiet: opt.Quiet = False,
) -> None:
    """Check every backend of the state-space operators against its reference, then time those that passed.

    Checked first are values and gradients, on edge cases and at the timed sizes; a backend that fails
    is not timed, and the exit code is 1. Speeds are relative to torch's; milliseconds are for GPUs only.
    Writes `OUT/kernels-cpu.md`, `.csv` and `.json` (on a GPU by its name).

    Examples:

      climp-bench bench-kernels

      climp-bench bench-kernels --op ss2d --backend numba --no-backward

      climp-bench bench-kernels --device cuda --sizes paper --dtype bfloat16
    """
    from climp_bench.eval.kernel_bench import Bench
    from climp_bench.models.adapters import DTYPES, gpu_name, pick_device
    from climp_bench.registry import unknown
    from climp_bench.report.kernels import as_json, write_kernel_report

    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    chosen = pick_device(device)
    bench = Bench(
        ops=op or (), backends=backend or (), device=chosen, gpu=gpu_name(chosen), dtype=dtype,
        sizes=sizes, repeats=repeats, backward=backward,
    )  # fmt: skip
    with console.steps(bench.steps, quiet or json) as step:
        run = bench.run(step)
    files = write_kernel_report(run, out)
    if json:
        console.print_json(as_json(run))
    else:
        _show(run)
        if not quiet:
            console.note("Written: " + ", ".join(str(path) for path in files))
    if run.failed:
        raise typer.Exit(1)


def _show(run: KernelRun) -> None:
    from climp_bench.report.kernels import check_rows, failure_lines, speed_rows

    _print("Checks against the float64 reference", check_rows(run), texts=2)
    for line in failure_lines(run):
        console.out.print(f"failed: {line}", style="red", highlight=False, markup=False, soft_wrap=True)
    console.out.print()
    _print(f"Speed relative to torch, {run.dtype}: 2.00x is twice as fast", speed_rows(run), texts=3)


def _print(title: str, rows: Sequence[Sequence[str]], texts: int) -> None:
    """A table whose first ``texts`` columns are text."""
    from rich.table import Table

    head, *lines = rows
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for k, name in enumerate(head):
        table.add_column(name, justify="left" if k < texts else "right")
    for line in lines:
        table.add_row(*line)
    console.print_table(table)
