"""``--dry-run`` of the evaluation commands: what a run would take, on the screen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from climp_bench.cli import console
from climp_bench.cli.prepare import Selection, survey

if TYPE_CHECKING:
    from climp_bench.run.dry_run import Forecast, Totals
    from climp_bench.run.plan import Measure, Settings
    from climp_bench.suite import Suite


SKIPPING = (
    "--skip-corrupt: the run decodes every image once to find those that do not decode. Nothing was decoded "
    "here, so these are still counted, and what was recorded without them is not found."
)


def show_forecast(
    suites: Sequence[Suite],
    selection: Selection,
    settings: Settings,
    *,
    json: bool,
    measure: Measure = "task",
    sizes: Sequence[int] | None = None,
) -> None:
    """Print what ``run_suites`` with the same arguments would do.

    Raises:
        typer.Exit: with 3 if some evaluations would fail, with 1 if all would.
    """
    from climp_bench.run.dry_run import as_rows, forecast, totals
    from climp_bench.run.plan import make_plan

    encoders, unready = survey(selection)
    plan = make_plan(encoders, suites, measure)
    found = forecast(plan.jobs, encoders, unready, settings, sizes)
    sums = totals(found)
    if json:
        console.print_json({"jobs": as_rows(found), "totals": vars(sums)})
    else:
        _show(found, sums, by_size=sizes is not None)
        if settings.skip_corrupt:
            console.out.print(SKIPPING, highlight=False, soft_wrap=True)
    if sums.cannot:
        raise typer.Exit(1 if sums.cannot == sums.evaluations else 3)


def _show(found: Sequence[Forecast], sums: Totals, *, by_size: bool) -> None:
    from rich.table import Table

    from climp_bench.run.dry_run import in_words, problems, rows

    head, *lines = rows(found, by_size=by_size)
    alone = len({line[0] for line in lines}) < 2
    table = Table(
        title=f"{lines[0][0] if alone else 'dry run'}: what would be done, models counted by state",
        title_justify="left", box=None, pad_edge=False,
    )  # fmt: skip
    for k, name in enumerate(head[alone:], start=alone):
        table.add_column(name, justify="left" if k in (0, 1, 4) else "right", no_wrap=True)
    for line in lines:
        table.add_row(*line[alone:])
    console.print_table(table)
    fetch = in_words(sums.bytes) if sums.bytes else "nothing"
    if sums.unsized:
        fetch = f"{fetch} and " if sums.bytes else ""
        fetch += f"{sums.unsized} data sets of unknown size"
    lines_of_text = [
        f"{sums.evaluations} evaluations: {sums.recorded} recorded, {sums.embedded} only to be scored, "
        f"{sums.cannot} cannot run.",
        f"To encode: {sums.images:,} images, each model and size counted. To fetch: {fetch}.",
        *problems(found),
    ]
    for text in lines_of_text:
        console.out.print(text, highlight=False, markup=False, soft_wrap=True)
