"""Score tables on the screen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from climp_bench.cli import console

if TYPE_CHECKING:
    from climp_bench.results import RunRecord


def show_scores(records: Sequence[RunRecord], suite: str) -> None:
    """Print the headline table of a suite: percent, and where there is room half the 95% interval.

    A terminal too narrow for that loses the intervals and the chance level, never digits of a score.
    """
    from rich.table import Table

    from climp_bench.report.tables import score_table

    scores = score_table(records, suite)
    piped = not console.out.is_terminal
    full = piped or console.out.width >= 66 + 13 * len(scores.models)
    table = Table(
        title=f"{suite}: percent{', ± half of the 95% interval' if full else ''}",
        caption=f"protocol {scores.protocol}; n = samples the score rests on",
        title_justify="left",
        caption_justify="left",
        box=None,
        pad_edge=False,
    )
    for name in ("task", "metric"):
        table.add_column(name, no_wrap=True)
    for name in ("n", *["chance"] * full, *scores.models):
        table.add_column(name.replace("@", "\n@"), justify="right", no_wrap=True)
    for line in scores.lines:
        chance = "" if line.chance is None else f"{100 * line.chance:.1f}"
        cells = [
            f"{cell.percent} [dim]±{cell.half_width:>4}[/dim]" if full and cell.half_width else cell.percent
            for cell in line.cells
        ]
        table.add_row(line.task, line.label, line.n, *[chance] * full, *cells)
    console.print_table(table)


def show_geometry(records: Sequence[RunRecord], suite: str) -> None:
    """Print a table a task: three digits, a column a model."""
    from rich.table import Table

    from climp_bench.report.geometry import rows

    own = [record for record in records if record.suite == suite]
    for task in dict.fromkeys(record.task for record in own):
        head, *lines = rows(own, task)
        table = Table(title=f"{task}: geometry", title_justify="left", box=None, pad_edge=False)
        table.add_column("")
        for name in head[1:]:
            table.add_column(name.replace("@", "\n@"), justify="right")
        for label, *cells in lines:
            table.add_row(label, *(cell.partition(" ")[0] for cell in cells))
        console.print_table(table)


def show_resolution(records: Sequence[RunRecord], suite: str) -> None:
    """Print scores by task and size: percent, a column a model."""
    from rich.table import Table

    from climp_bench.report.resolution import rows

    head, *lines = rows([record for record in records if record.suite == suite])
    table = Table(title=f"{suite}: percent", title_justify="left", box=None, pad_edge=False)
    for k, name in enumerate(head):
        table.add_column(name.replace("@", "\n@"), justify="left" if k < 2 else "right", no_wrap=True)
    for before, line in zip([None, *lines], lines, strict=False):
        repeated = before is not None and before[:2] == line[:2]
        start = ["", ""] if repeated else line[:2]
        table.add_row(*start, *line[2:4], *(cell.partition(" ")[0] for cell in line[4:]))
    console.print_table(table)
