"""What the evaluation commands share: suites and models in, tables on screen and in files out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from climp_bench.cli import console
from climp_bench.cli.helping import help_out, team_of
from climp_bench.cli.prepare import Selection, announcer, make_encoders
from climp_bench.ranks import is_helper

if TYPE_CHECKING:
    from climp_bench.results import RunRecord
    from climp_bench.run.execute import Outcome
    from climp_bench.run.plan import Measure, Settings
    from climp_bench.suite import Suite


@dataclass(frozen=True)
class Output:
    """How a command writes its records to files and shows them.

    Attributes:
        write: (records, suite, folder) -> the files written.
        show: (records, suite) prints tables.
    """

    write: Callable[[Sequence[RunRecord], str, Path], list[Path]]
    show: Callable[[Sequence[RunRecord], str], None]


def run_suites(
    suites: Sequence[Suite],
    selection: Selection,
    settings: Settings,
    output: Output,
    *,
    json: bool,
    measure: Measure = "task",
    sizes: Sequence[int] | None = None,
    dry_run: bool = False,
) -> None:
    """Evaluate models on suites, write the reports and show them; as a helper, encode for the one that does.

    Args:
        suites: what to measure on.
        selection: the models.
        settings: how to run.
        output: of the command.
        json: print records instead of tables.
        measure: what to make of the embeddings.
        sizes: sides of the input in pixels, one run each; None is each model's own.
        dry_run: only say what the run would take.

    Raises:
        RankError: another process of the run is lost.
        typer.Exit: with 3 if some evaluations failed, with 1 if all did; of a dry run, if some or all would.
    """
    from climp_bench.data.catalogue import check_roots

    if is_helper() and dry_run:
        return
    if not is_helper():
        check_roots(settings.data_roots)
    settings = replace(settings, offline=selection.offline, announce=announcer(selection))
    if dry_run:
        from climp_bench.cli.dry_run import show_forecast

        return show_forecast(suites, selection, settings, json=json, measure=measure, sizes=sizes)
    with team_of(selection, settings.rank_timeout) as team:
        if team is not None and team.rank > 0:
            return help_out(team, selection)
        outcome = _evaluate(suites, selection, replace(settings, team=team), measure, sizes)
    files = [path for s in suites for path in output.write(outcome.records, s.name, settings.out)]
    if json:
        console.print_json([record.model_dump(mode="json") for record in outcome.records])
    else:
        for suite in suites:
            output.show(outcome.records, suite.name)
        _tell(outcome, files, selection.quiet)
    if outcome.failed:
        raise typer.Exit(3 if outcome.done else 1)


def _evaluate(
    suites: Sequence[Suite],
    selection: Selection,
    settings: Settings,
    measure: Measure,
    sizes: Sequence[int] | None,
) -> Outcome:
    from climp_bench.run.execute import execute
    from climp_bench.run.plan import make_plan
    from climp_bench.run.sweep import sweep

    encoders = make_encoders(selection)
    plan = make_plan(encoders, suites, measure)
    with console.watch(len(plan.jobs) * len(sizes or [0]), selection.quiet) as watcher:
        if sizes is None:
            return execute(plan, settings, watcher)
        return sweep(encoders, suites, sizes, settings, watcher)


def _tell(outcome: Outcome, files: Sequence[Path], quiet: bool) -> None:
    if quiet:
        return
    reused = f", {outcome.reused} of them from an earlier run (--fresh measures again)"
    console.note(f"{outcome.done} evaluations{reused if outcome.reused else ''}, {outcome.failed} failed.")
    console.note("Written: " + ", ".join(str(path) for path in files))
