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
    from climp_bench.run.plan import Measure, Settings
    from climp_bench.suite import Suite


def run_suites(
    command: str,
    suites: Sequence[Suite],
    selection: Selection,
    settings: Settings,
    *,
    json: bool,
    measure: Measure = "task",
) -> None:
    """Evaluate models on suites, write the reports and show them.

    Args:
        command: its name, which the report's files begin with.
        suites: what to measure on.
        selection: the models.
        settings: how to run.
        json: print records instead of tables.
        measure: what to make of the embeddings.

    Raises:
        typer.Exit: with 3 if some evaluations failed, with 1 if all did.
    """
    from climp_bench.data.catalogue import check_roots
    from climp_bench.report.geometry import write_geometry
    from climp_bench.report.page import write_report
    from climp_bench.run.execute import execute
    from climp_bench.run.plan import make_plan

    check_roots(settings.data_roots)
    plan = make_plan(make_encoders(selection), suites, measure)
    with console.watch(len(plan.jobs), selection.quiet) as watcher:
        outcome = execute(plan, settings, watcher)
    files: list[Path] = []
    for suite in suites:
        if measure == "geometry":
            files += write_geometry(outcome.records, suite.name, settings.out)
        else:
            files += write_report(outcome.records, suite.name, command, settings.out)
    if json:
        console.print_json([record.model_dump(mode="json") for record in outcome.records])
    else:
        _show(outcome, suites, files, selection.quiet, measure)
    if outcome.failed:
        raise typer.Exit(3 if outcome.done else 1)


def _show(
    outcome: Outcome, suites: Sequence[Suite], files: list[Path], quiet: bool, measure: Measure
) -> None:
    from climp_bench.cli.tables import show_geometry, show_scores

    for suite in suites:
        (show_geometry if measure == "geometry" else show_scores)(outcome.records, suite.name)
    if not quiet:
        reused = f", {outcome.reused} of them from an earlier run (--fresh measures again)"
        console.note(
            f"{outcome.done} evaluations{reused if outcome.reused else ''}, {outcome.failed} failed."
        )
        console.note("Written: " + ", ".join(str(path) for path in files))
