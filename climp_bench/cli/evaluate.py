"""What the evaluation commands share: suites and models in, tables on screen and in files out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from climp_bench.cli import console
from climp_bench.cli.prepare import Selection, make_encoders

if TYPE_CHECKING:
    from climp_bench.run.execute import Outcome
    from climp_bench.run.plan import Settings
    from climp_bench.suite import Suite


def run_suites(
    command: str, names: Sequence[str], selection: Selection, settings: Settings, *, json: bool
) -> None:
    """Evaluate models on suites, write the reports and show them.

    Args:
        command: its name, which the report's files begin with.
        names: of the suites, or paths.
        selection: the models.
        settings: how to run.
        json: print records instead of tables.

    Raises:
        typer.Exit: with 3 if some evaluations failed, with 1 if all did.
    """
    from climp_bench.data.catalogue import check_roots
    from climp_bench.report.page import write_report
    from climp_bench.run.execute import execute
    from climp_bench.run.plan import make_plan
    from climp_bench.suite import load_all

    suites = load_all(list(names))
    check_roots(settings.data_roots)
    plan = make_plan(make_encoders(selection), suites)
    with console.watch(len(plan.jobs), selection.quiet) as watcher:
        outcome = execute(plan, settings, watcher)
    files = [path for s in suites for path in write_report(outcome.records, s.name, command, settings.out)]
    if json:
        console.print_json([record.model_dump(mode="json") for record in outcome.records])
    else:
        _show(outcome, suites, files, selection.quiet)
    if outcome.failed:
        raise typer.Exit(3 if outcome.done else 1)


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
