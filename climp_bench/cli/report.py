"""``climp-bench report``: everything that a folder of results holds, for readers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from climp_bench.cli import console
from climp_bench.cli import options as opt

if TYPE_CHECKING:
    from climp_bench.report.document import Report

Results = Annotated[
    Path,
    typer.Option(
        "--results",
        "-r",
        help="Folder of results: --out of the evaluation commands. Experiments are looked for in it and one "
        "folder below.",
    ),
]
To = Annotated[
    Path | None, typer.Option("--out", "-o", help="Folder for the report. Default: RESULTS/report.")
]
NoPictures = Annotated[
    bool, typer.Option("--no-pictures", help="Without example images, for results that are passed on.")
]
Title = Annotated[str, typer.Option("--title", help="Title of the page.")]


def report(
    results: Results = Path("reports"),
    out: To = None,
    no_pictures: NoPictures = False,
    title: Title = "climp-bench report",
    json: opt.AsJson = False,
    quiet: opt.Quiet = False,
) -> None:
    """Tables, plots and one page of everything in a folder of results; measures nothing.

    Writes `index.html` (opens without a network), `report.md`, `records.csv`, every table as Markdown, CSV
    and LaTeX under `tables`, every plot as SVG under `plots`. The best score of a row is marked only where
    paired tests of the same samples show that it is.

    It looks for `records` and `kernels-*.json` in RESULTS, and in RESULTS and the folders directly in it for
    what `ablation`, `scaling` and `bias` leave: `ablation.json`, `scaling-data.json`, `scaling-model.json`,
    `bias.json`.

    Examples:

      climp-bench report

      climp-bench report --results runs/today --out public --no-pictures
    """
    from climp_bench.report.files import write_files
    from climp_bench.run.reporting import make_report

    made = make_report(results, pictures=not no_pictures, title=title)
    files = write_files(made, out or results / "report")
    if json:
        console.print_json({"page": str(files[0]), "files": [str(path) for path in files]})
        return
    show(made)
    if not quiet:
        size = files[0].stat().st_size / 1e6
        console.note(
            f"Written: {files[0]} ({size:.1f} MB), and {len(files) - 1} files beside it.", always=True
        )


def show(made: Report) -> None:
    """Print what is in a report and what is not."""
    from rich.table import Table

    table = Table(title="what is in the report", title_justify="left", box=None, pad_edge=False)
    for name in ("topic", "paper", "tables", "plots", ""):
        table.add_column(name, justify="right" if name in ("tables", "plots") else "left")
    for s in made.sections:
        drawn = sum(bool(chart.panels) for chart in s.charts)
        missing = "" if s.tables else f"no results: {s.command}"
        table.add_row(s.title, s.paper or "-", str(len(s.tables) or "-"), str(drawn or "-"), missing)
    console.print_table(table)
