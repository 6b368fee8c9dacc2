"""Score tables on the screen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

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
    show_published([record for record in records if record.suite == suite])


def show_published(records: Sequence[RunRecord]) -> None:
    """Print published figures beside the scores they belong to, if any; the report names sources."""
    from rich.table import Table

    from climp_bench.report.reference import compare, rows

    head, *lines = rows(compare(records))
    if not lines:
        return
    table = Table(title="beside published figures (percent)", title_justify="left", box=None, pad_edge=False)
    for k, name in enumerate(head[:-1]):
        table.add_column(name, justify="left" if k < 3 else "right")
    for line in lines:
        table.add_row(*line[:-1])
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


def show_ood(records: Sequence[RunRecord], suite: str) -> None:
    """Print accuracy, what was lost to the shift, and detection: percent, a column a model."""
    from climp_bench.report.ood import SECTIONS, rows

    own = [record for record in records if record.suite == suite]
    for section, (unit, _) in SECTIONS.items():
        _show_rows(f"{suite}: {section}, {unit}", rows(own, section), texts=2)


def show_dense(records: Sequence[RunRecord], suite: str) -> None:
    """Print token lengths, recall, and recall of captions that were cut."""
    from climp_bench.report.dense import sections

    own = [record for record in records if record.suite == suite]
    for title, texts, rows in sections(own):
        _show_rows(f"{suite}: {title}", rows, texts=texts)


def _show_rows(title: str, rows: Sequence[Sequence[str]], *, texts: int) -> None:
    """Print rows under their head; a set's name stands once. The first ``texts`` columns are words.

    A terminal too narrow for intervals loses them and folds words, never digits of a score.
    """
    from rich.markup import escape
    from rich.table import Table

    head, *lines = rows
    if not lines:
        return
    widths = [max(map(len, column)) + 1 for column in zip(*rows, strict=True)]
    full = not console.out.is_terminal or sum(widths) <= console.out.width
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for k, name in enumerate(head):
        word = k < texts
        side: Literal["left", "right"] = "left" if word else "right"
        table.add_column(name.replace("@", "\n@"), justify=side, no_wrap=not word, overflow="fold")
    for before, line in zip([None, *lines], lines, strict=False):
        name = "" if before is not None and before[0] == line[0] else line[0]
        cells = line[texts:] if full else [cell.partition(" [")[0] for cell in line[texts:]]
        table.add_row(name, *line[1:texts], *map(escape, cells))
    console.print_table(table)
