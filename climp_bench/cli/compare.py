"""``climp-bench compare``: is one model better than another, sample by sample?"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from climp_bench.cli import console
from climp_bench.cli import options as opt

if TYPE_CHECKING:
    from climp_bench.gate.measured import Measured
    from climp_bench.gate.runs import Run
    from climp_bench.results.differences import Comparison

A = Annotated[str, typer.Argument(help="A model of --results; or a run: DIR, DIR:MODEL or a file.")]
B = Annotated[str, typer.Argument(help="What it is compared with, said alike. Differences are B - A.")]
Results = Annotated[Path, typer.Option("--results", help="Results directory that A and B are models of.")]
Suites = Annotated[list[str] | None, typer.Option("--suite", "-s", help="Suite by name or glob; repeat.")]
Metrics = Annotated[
    list[str] | None,
    typer.Option("--metric", help="Metric by name or glob; repeat. Default: the main ones of each task."),
]
Alpha = Annotated[float, typer.Option("--alpha", min=0.0001, max=0.5, help="Level of the tests.")]
Bootstrap = Annotated[bool, typer.Option("--bootstrap", help="Intervals by a bootstrap over images.")]
Across = Annotated[bool, typer.Option("--across-resolutions", help="Allow inputs of different size.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for the page, the CSV and the plot.")]


def compare(
    a: A,
    b: B,
    results: Results = Path("reports"),
    suite: Suites = None,
    metric: Metrics = None,
    alpha: Alpha = 0.05,
    bootstrap: Bootstrap = False,
    seed: opt.Seed = 0,
    across_resolutions: Across = False,
    out: Out = Path("reports"),
    json: opt.AsJson = False,
    quiet: opt.Quiet = False,
) -> None:
    """Compare two models, or two runs, sample by sample: exact tests, intervals, Holm's correction.

    Scores that do not measure the same thing (protocol, data, number or order of samples, resolution) are not
    compared, and the table says why. Writes `OUT/compare-A-B.md`, `.csv` and `.png`.

    Examples:

      climp-bench compare rope-vit climp-m1

      climp-bench compare climp-m1 climp-m2 --results runs/today --metric "acc*"

      climp-bench compare runs/monday runs/tuesday

      climp-bench compare runs/monday:climp-m1 runs/tuesday:climp-m1
    """
    from climp_bench.gate import compare as comparing
    from climp_bench.report.comparison import write_comparison

    first, second = _open(a, b, results)
    options = comparing.Options(
        wanted=lambda score: _wanted(score, suite or ["*"], metric),
        alpha=alpha,
        bootstrap=bootstrap,
        seed=seed,
        across=("resolution",) if across_resolutions else (),
    )
    comparison = comparing.compare(first, second, options)
    name = "-".join(re.sub(r"[^A-Za-z0-9._@+-]+", "_", run.name).strip("_") for run in (first, second))
    files = write_comparison(comparison, out, f"compare-{name}")
    if json:
        import dataclasses

        console.print_json([dataclasses.asdict(d) for d in comparison.differences])
    else:
        _show(comparison)
        if not quiet:
            console.note("Written: " + ", ".join(map(str, files)))
    if comparison.refused:
        raise typer.Exit(3 if len(comparison.refused) < len(comparison.differences) else 1)


def _open(a: str, b: str, results: Path) -> list[Run]:
    """Two runs where one of the words is a path, else two models of ``results``."""
    from climp_bench.gate.runs import open_named, open_run

    if any(_is_path(word) for word in (a, b)):
        return [open_named(word) for word in (a, b)]
    run = open_run(results)
    return [run.of_model(word) for word in (a, b)]


def _is_path(word: str) -> bool:
    place = word.partition(":")[0]
    return place.startswith((".", "/", "~")) or Path(place).exists() or Path(word).exists()


def _wanted(score: Measured, suites: list[str], metrics: list[str] | None) -> bool:
    from fnmatch import fnmatchcase

    from climp_bench.report.tables import HEADLINE
    from climp_bench.results.store import has_outcomes

    if not any(fnmatchcase(score.suite, glob) for glob in suites):
        return False
    if metrics is not None:
        return any(fnmatchcase(score.metric, glob) for glob in metrics)
    main = HEADLINE.get(score.condition.kind)
    tested = has_outcomes(score.metric) if main is None else score.metric in main
    return score.metric == "any" or tested


def _show(comparison: Comparison) -> None:
    from rich.markup import escape
    from rich.table import Table

    from climp_bench.report.comparison import HEAD, explanation, reasons, rows

    names = f"A {comparison.name_a}\nB {comparison.name_b}"
    console.out.print(names, highlight=False, markup=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    for name in HEAD:
        left = name in ("task", "metric", "interval", "finding")
        table.add_column(name, justify="left" if left else "right", no_wrap=True)
    for line in rows(comparison):
        table.add_row(*map(escape, line))
    console.print_table(table)
    console.out.print(explanation(comparison), style="dim", highlight=False, markup=False, soft_wrap=True)
    for note in reasons(comparison):
        console.out.print(note, highlight=False, markup=False, soft_wrap=True)
