"""``climp-bench release-check``: published weights against the table published with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from climp_bench.cli import console
from climp_bench.cli import options as opt

if TYPE_CHECKING:
    from climp_bench.cli.prepare import Selection
    from climp_bench.errors import ClimpError
    from climp_bench.models.adapters import Encoder
    from climp_bench.report.reference import Figure
    from climp_bench.run.plan import Settings
    from climp_bench.run.release_check import Verdict
    from climp_bench.suite import Suite

MODELS = ("climp-m1@base", "climp-m2@base")
Published = Annotated[
    list[str] | None,
    typer.Option("--model", "-m", help="Models to check; repeat for more. Default: the two published."),
]
Tolerance = Annotated[
    float, typer.Option("--tolerance", min=0.0, max=100.0, help="Largest difference allowed, in points.")
]
Reference = Annotated[
    Path | None,
    typer.Option("--reference", help="CSV of published figures. Default: the shipped ones."),
]
OneSuite = Annotated[str, typer.Option("--suite", "-s", help="What to measure: a suite by name or path.")]


def release_check(
    context: typer.Context,
    model: Published = None,
    suite: OneSuite = "release-check",
    reference: Reference = None,
    tolerance: Tolerance = 0.2,
    data_root: opt.DataRoots = None,
    out: opt.Out = Path("reports"),
    cache: opt.Cache = None,
    device: opt.Device = "auto",
    dtype: opt.DType = "float32",
    backend: opt.Backend = "auto",
    fresh: opt.Fresh = False,
    workers: opt.Workers = None,
    seed: opt.Seed = 0,
    weights: opt.Weights = None,
    tokenizer: opt.TokenizerFile = None,
    offline: opt.Offline = False,
    rank_timeout: opt.RankTimeout = 600.0,
    json: opt.AsJson = False,
    quiet: opt.Quiet = False,
) -> None:
    """Check the published CLIMP models against their authors' NoCaps table: the first thing to run on a GPU.

    Fetches what is not here (two models of 5.8 GB, NoCaps of 1.4 GB), each with its size first; `--offline`
    forbids that. Exit codes: 0 every figure within the tolerance, 1 not so, 2 weights or data are missing.
    Writes `OUT/release-check-SUITE.md`.

    Examples:

      climp-bench release-check

      climp-bench release-check --data-root ~/data --model climp-m1@base --offline

      climp-bench release-check --model climp-m1@base --weights model.safetensors --tokenizer tokenizer.json
    """
    from climp_bench.cli.helping import help_out, team_of
    from climp_bench.cli.prepare import Selection, announcer
    from climp_bench.embed.cache import default_root
    from climp_bench.report.reference import read_figures
    from climp_bench.run.plan import Settings
    from climp_bench.suite import load

    selection = Selection(
        names=model or MODELS, device=device, dtype=dtype, backend=backend, weights=weights,
        tokenizer=tokenizer, offline=offline, quiet=quiet or json,
    )  # fmt: skip
    settings = Settings(
        out=out, cache=cache or default_root(), data_roots=tuple(data_root or ()), fresh=fresh,
        workers=opt.default_workers(workers, device), seed=seed, debug=context.obj["debug"], offline=offline,
        announce=announcer(selection), rank_timeout=rank_timeout,
    )  # fmt: skip
    figures, source = read_figures(reference), reference or "the shipped figures"
    with team_of(selection, rank_timeout) as team:
        if team is not None and team.rank > 0:
            return help_out(team, selection)
        settings = replace(settings, team=team)
        passed = _check(load(suite), figures, source, selection, settings, tolerance, json)
    if not passed:
        raise typer.Exit(1)


def _check(
    suite: Suite,
    figures: Sequence[Figure],
    source: Path | str,
    selection: Selection,
    settings: Settings,
    tolerance: float,
    json: bool,
) -> bool:
    """Measure, write, print; whether every figure is met."""
    from climp_bench.data.catalogue import check_roots
    from climp_bench.report.page import write_report
    from climp_bench.run.execute import execute
    from climp_bench.run.plan import make_plan
    from climp_bench.run.release_check import judge, wanted_figures

    check_roots(settings.data_roots)
    encoders, problems = _gather(suite, selection, settings)
    if problems:
        _cannot(problems)
    names = [encoder.name for encoder in encoders]
    wanted = wanted_figures(figures, suite, names, source)
    with console.watch(len(suite.tasks), selection.quiet) as watcher:
        outcome = execute(make_plan(encoders, [suite]), settings, watcher)
    files = write_report(outcome.records, suite.name, settings.out, command="release-check", figures=wanted)
    verdict = judge(outcome.records, wanted, tolerance)
    if json:
        console.print_json(_as_json(verdict))
    else:
        _show(verdict)
        console.note("Written: " + ", ".join(str(path) for path in files))
    return verdict.passed


def _gather(suite: Suite, selection: Selection, settings: Settings) -> tuple[list[Encoder], list[ClimpError]]:
    """Models and data, fetched if need be, and everything that is missing: one look tells all of it."""
    from climp_bench.cli.prepare import make_encoders
    from climp_bench.errors import DataError, WeightsError
    from climp_bench.run.opening import open_task

    encoders: list[Encoder] = []
    problems: list[ClimpError] = []
    for task in suite.tasks:
        try:
            open_task(task, settings)
        except DataError as error:
            problems.append(error)
    for name in selection.names or ():
        try:
            encoders += make_encoders(replace(selection, names=[name]))
        except WeightsError as error:
            problems.append(error)
    return encoders, problems


def _cannot(problems: Sequence[ClimpError]) -> None:
    """Tell what is missing and leave."""
    for problem in problems:
        console.show_error(problem)
    parts = "1 part is" if len(problems) == 1 else f"{len(problems)} parts are"
    console.err.print(f"Nothing was checked: {parts} missing.", highlight=False)
    raise typer.Exit(2)


def _show(verdict: Verdict) -> None:
    from rich.table import Table

    from climp_bench.report.reference import rows

    head, *lines = rows(verdict.measured)
    shown = [2, 1, 3, 4, 5, 6]
    table = Table(title="percent", title_justify="left", box=None, pad_edge=False)
    for k in shown:
        table.add_column(head[k], justify="left" if k < 3 else "right")
    table.add_column(f"within {verdict.tolerance:g}")
    for line, comparison in zip(lines, verdict.measured, strict=True):
        table.add_row(*(line[k] for k in shown), "yes" if verdict.within(comparison) else "NO")
    console.print_table(table)
    for figure in verdict.missing:
        console.out.print(f"not measured: {figure.model} {figure.metric}", highlight=False, soft_wrap=True)
    near = sum(verdict.within(comparison) for comparison in verdict.measured)
    of = len(verdict.measured) + len(verdict.missing)
    word = "PASSED" if verdict.passed else "FAILED"
    text = f"{word}: {near} of {of} published figures within {verdict.tolerance:g} points"
    console.out.print(text, highlight=False, soft_wrap=True)


def _as_json(verdict: Verdict) -> dict[str, object]:
    figures = [
        {
            "model": c.figure.model,
            "dataset": c.figure.dataset,
            "metric": c.figure.metric,
            "n": c.n,
            "value": c.value,
            "published": c.figure.value,
            "difference": c.difference,
            "within": verdict.within(c),
            "in_interval": c.covered,
            "source": c.figure.source,
        }
        for c in verdict.measured
    ]
    missing = [{"model": f.model, "dataset": f.dataset, "metric": f.metric} for f in verdict.missing]
    passed, tolerance = verdict.passed, verdict.tolerance
    return {"passed": passed, "tolerance": tolerance, "figures": figures, "missing": missing}
