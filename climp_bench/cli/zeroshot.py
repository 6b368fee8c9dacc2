"""``climp-bench zeroshot``: zero-shot classification and retrieval."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from climp_bench.cli import console
from climp_bench.cli import options as opt

if TYPE_CHECKING:
    from climp_bench.run.execute import Outcome
    from climp_bench.suite import Suite


def zeroshot(
    context: typer.Context,
    model: opt.Models = None,
    suite: opt.Suites = None,
    scale: opt.Scale = None,
    data_root: opt.DataRoots = None,
    out: opt.Out = Path("reports"),
    cache: opt.Cache = None,
    device: opt.Device = "auto",
    dtype: opt.DType = "float32",
    fresh: opt.Fresh = False,
    workers: opt.Workers = None,
    seed: opt.Seed = 0,
    retrain: opt.Retrain = False,
    json: opt.AsJson = False,
    quiet: opt.Quiet = False,
) -> None:
    """Zero-shot classification and retrieval of every model on every task of a suite.

    With no arguments: the five families at scale micro on the embedded suite; needs no network and no GPU.
    Writes `OUT/zeroshot-SUITE.md`, `.csv`, `.png` and one record file per model and task under `OUT/records`.

    Examples:

      climp-bench zeroshot

      climp-bench zeroshot --model climp-m1 --model rope-vit --suite smoke

      climp-bench zeroshot --data-root ~/data --suite my-suite.toml
    """
    from climp_bench.cli.prepare import make_encoders
    from climp_bench.data.catalogue import check_roots
    from climp_bench.embed.cache import default_root
    from climp_bench.report.page import write_report
    from climp_bench.run.execute import execute
    from climp_bench.run.plan import Settings, make_plan
    from climp_bench.suite import load_all

    suites = load_all(suite or ["embedded"])
    check_roots(data_root or ())
    encoders = make_encoders(model, scale, device, dtype, retrain=retrain, quiet=quiet or json)
    settings = Settings(
        out=out,
        cache=cache or default_root(),
        data_roots=tuple(data_root or ()),
        fresh=fresh,
        workers=opt.default_workers(workers),
        seed=seed,
        debug=context.obj["debug"],
    )
    plan = make_plan(encoders, suites)
    with console.watch(len(plan.jobs), quiet or json) as watcher:
        outcome = execute(plan, settings, watcher)
    files = [path for s in suites for path in write_report(outcome.records, s.name, "zeroshot", out)]
    if json:
        console.print_json([record.model_dump(mode="json") for record in outcome.records])
    else:
        _show(outcome, suites, files, quiet)
    _exit(outcome)


def _show(outcome: Outcome, suites: list[Suite], files: list[Path], quiet: bool) -> None:
    from climp_bench.cli.tables import show_scores

    for suite in suites:
        show_scores(outcome.records, suite.name)
    if not quiet:
        reused = f", {outcome.reused} of them from an earlier run (--fresh measures again)"
        console.note(
            f"{outcome.done} evaluations{reused if outcome.reused else ''}, {outcome.failed} failed."
        )
        console.note("Written: " + ", ".join(str(path) for path in files))


def _exit(outcome: Outcome) -> None:
    if outcome.failed:
        raise typer.Exit(3 if outcome.done else 1)
