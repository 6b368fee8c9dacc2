"""``climp-bench suites``: list, show, validate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from climp_bench.cli import console
from climp_bench.cli import options as opt

if TYPE_CHECKING:
    from climp_bench.data.catalogue import DatasetEntry
    from climp_bench.suite import TaskDef

suites_app = typer.Typer(no_args_is_help=True, help="Suites: what is measured.", rich_markup_mode="markdown")
Name = Annotated[str, typer.Argument(help="A shipped suite's name, or the path of a TOML file.")]


@suites_app.command("list")
def list_suites(json: opt.AsJson = False) -> None:
    """List the shipped suites.

    Example:

      climp-bench suites list
    """
    from rich.table import Table

    from climp_bench.suite import available, load

    suites = [load(name) for name in available()]
    if json:
        rows = [{"name": s.name, "tasks": len(s.tasks), "description": s.description} for s in suites]
        console.print_json(rows)
        return
    table = Table("suite", "tasks", "protocol", "what it measures", box=None, pad_edge=False)
    for suite in suites:
        table.add_row(suite.name, str(len(suite.tasks)), suite.protocol, suite.description)
    console.print_table(table)


@suites_app.command("show")
def show_suite(name: Name) -> None:
    """Print a suite's file, to read or to copy.

    Example:

      climp-bench suites show embedded > my-suite.toml
    """
    from climp_bench.suite import available, load

    load(name)
    path = available().get(name, Path(name))
    console.out.print(
        path.read_text(encoding="utf-8").rstrip(), highlight=False, markup=False, soft_wrap=True
    )


@suites_app.command("validate")
def validate_suite(
    name: Name,
    data_root: opt.DataRoots = None,
) -> None:
    """Check a suite's keys and values, and that every data set it names can be opened and has its count.

    A published set that is not here is checked against the catalogue only, and counted apart.

    Example:

      climp-bench suites validate my-suite.toml --data-root ~/data
    """
    from climp_bench.data.catalogue import DATASETS, is_here, open_dataset
    from climp_bench.data.dataset import check_count
    from climp_bench.data.prompts import render
    from climp_bench.errors import ClimpError
    from climp_bench.suite import load

    suite, roots = load(name), tuple(data_root or ())
    faults = absent = 0
    for task in suite.tasks:
        try:
            entry = DATASETS.get(task.dataset) if task.dataset in DATASETS else None
            if entry and entry.published and not is_here(entry.published, roots):
                _check_claims(task, entry)
                absent += 1
                continue
            dataset = open_dataset(task.dataset, roots, task.n)
            check_count(dataset, task.n)
            if dataset.kind != "retrieval":
                render(dataset.classes, task.templates or dataset.templates)
        except ClimpError as error:
            faults += 1
            error.where = error.where or task.name
            console.show_error(error)
    whole = len(suite.tasks) - faults - absent
    checked = f"{suite.name}: keys and values are valid; {whole} of {len(suite.tasks)} data sets open"
    if absent:
        checked += f", {absent} agree with the catalogue and are not here (--dry-run says what to fetch"
        checked += f"; without them: --suite {suite.twin})" if suite.twin else ")"
    console.out.print(checked, highlight=False, soft_wrap=True)
    if faults:
        raise typer.Exit(1)


def _check_claims(task: TaskDef, entry: DatasetEntry) -> None:
    """Raise ``UsageError`` if a suite says of a published set what the catalogue does not."""
    from climp_bench.errors import UsageError

    for word, claimed, known in (("n", task.n, entry.n), ("kind", task.kind, entry.kind)):
        if claimed is not None and claimed != known:
            what = f"the suite says {word} = {claimed!r}, the catalogue {known!r}"
            raise UsageError(what, where=task.name, remedy="Correct the suite.")
