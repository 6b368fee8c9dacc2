"""Tables as Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence

from climp_bench.report.document import MISSING, Row, Shown, Table

_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%",
    "_": r"\_", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", "≤": r"$\leq$", "…": r"\ldots{}",
}  # fmt: skip
_MARKDOWN = re.compile(r"([\\`*_{}\[\]|])")


def slug(text: str) -> str:
    """A text as a file name and as the name of a link."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.") or "table"


def head_of(table: Table) -> list[str]:
    """The names of all columns as shown: words, n, chance, models, what is best."""
    extra = ["n"] * table.has_n + ["chance"] * table.has_chance
    return [*table.heads, *extra, *table.columns, *["best"] * table.has_verdicts]


def plain_rows(table: Table) -> list[list[str]]:
    """The rows as shown, as plain text, in the columns of :func:`head_of`."""
    found = []
    for row in table.rows:
        chance = "" if row.chance is None else f"{row.chance:.1f}"
        extra = [row.n] * table.has_n + [chance] * table.has_chance
        verdict = [row.standing.verdict] * table.has_verdicts
        found.append([*row.labels, *extra, *(cell.told for cell in row.cells), *verdict])
    return found


def to_markdown(table: Table) -> str:
    """Markdown: the best bold, the second between ``<ins>``, published figures in brackets."""
    words = len(table.heads)
    marks = ["---"] * words + ["--:"] * (len(head_of(table)) - words)
    if table.has_verdicts:
        marks[-1] = "---"
    lines = [list(map(_md, head_of(table))), marks]
    for row, plain in zip(table.rows, plain_rows(table), strict=True):
        line = list(map(_md, plain))
        start = len(line) - len(row.cells) - table.has_verdicts
        for k, cell in enumerate(row.cells):
            line[start + k] = _md_cell(cell, row, k)
        lines.append(line)
    body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    notes = "".join(f"\n{_md(note)}\n" for note in table.notes)
    unit = f" ({table.unit})" if table.unit else ""
    return f"## {_md(table.title)}{unit}\n\n{body}\n{notes}"


def _md(text: str) -> str:
    safe = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKDOWN.sub(r"\\\1", " ".join(safe.split()))


def _md_cell(cell: Shown, row: Row, k: int) -> str:
    text = _md(cell.text)
    if k == row.standing.best:
        text = f"**{text}**"
    elif k == row.standing.second:
        text = f"<ins>{text}</ins>"
    parts = [text, _md(cell.bounds), _md(cell.note)]
    return " ".join(part for part in (*parts, _md(published(cell, row))) if part)


def published(cell: Shown, row: Row) -> str:
    """``(published 38.2)``, or nothing; several differ by source."""
    found = dict.fromkeys(f"{value:.1f}" for value in published_values(cell))
    return f"(published {', '.join(found)})" if found else ""


def published_values(cell: Shown) -> list[float]:
    """The published figures of a cell in percent, as published scores are."""
    return [100 * figure.value for figure in cell.published]


def to_csv(table: Table) -> str:
    """CSV: for every column of numbers its value, ``low``, ``high``, ``published``; what is missing is empty.

    Numbers are in the unit of the table and not rounded. A column that holds words keeps them.
    """
    numeric = [_is_numeric(table, k) for k in range(len(table.columns))]
    head = [*table.heads, "unit", "n", "chance"]
    for name, number in zip(table.columns, numeric, strict=True):
        head += [name, f"{name} low", f"{name} high", f"{name} published"] if number else [name]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*head, "best", "second", "verdict", "why"])
    for row in table.rows:
        line: list[object] = [*row.labels, table.unit, row.n.replace(",", ""), _number(row.chance)]
        for cell, number in zip(row.cells, numeric, strict=True):
            line += _numbers(cell) if number else [cell.told]
        best, second = row.standing.best, row.standing.second
        names = ["" if k is None else table.columns[k] for k in (best, second)]
        writer.writerow([*line, *names, row.standing.verdict, row.standing.why])
    return buffer.getvalue()


def _is_numeric(table: Table, column: int) -> bool:
    cells = [row.cells[column] for row in table.rows]
    return any(c.value is not None or c.records for c in cells) or all(c.text == MISSING for c in cells)


def _numbers(cell: Shown) -> list[object]:
    values = published_values(cell)
    return [
        _number(cell.value),
        _number(cell.low),
        _number(cell.high),
        _number(values[0] if values else None),
    ]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.10g}"


def to_latex(table: Table) -> str:
    """A LaTeX table for the package ``booktabs``: the best bold, the second underlined."""
    words = len(table.heads)
    columns = "l" * words + "r" * (len(head_of(table)) - words)
    if table.has_verdicts:
        columns = columns[:-1] + "l"
    lines = [" & ".join(map(_tex, head_of(table))) + r" \\", r"\midrule"]
    for row, plain in zip(table.rows, plain_rows(table), strict=True):
        line = list(map(_tex, plain))
        start = len(line) - len(row.cells) - table.has_verdicts
        for k, cell in enumerate(row.cells):
            line[start + k] = _tex_cell(cell, row, k)
        lines.append(" & ".join(line) + r" \\")
    unit = f" ({table.unit})" if table.unit else ""
    caption = " ".join([f"{table.title}{unit}.", *table.notes])
    return "\n".join(
        [
            r"\begin{table}", r"\centering", rf"\caption{{{_tex(caption)}}}",
            rf"\label{{tab:{slug(table.key)}}}", rf"\begin{{tabular}}{{{columns}}}", r"\toprule",
            *lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", "",
        ]
    )  # fmt: skip


def _tex(text: str) -> str:
    return "".join(_LATEX.get(c, c) for c in " ".join(text.split()))


def _tex_cell(cell: Shown, row: Row, k: int) -> str:
    text = _tex(cell.text) if cell.text != MISSING else "--"
    if k == row.standing.best:
        text = rf"\textbf{{{text}}}"
    elif k == row.standing.second:
        text = rf"\underline{{{text}}}"
    rest = " ".join(part for part in (cell.bounds, cell.note, published(cell, row)) if part)
    return text + (rf" {{\scriptsize {_tex(rest)}}}" if rest else "")


def markdown_table(rows: Sequence[Sequence[str]], words: int) -> str:
    """Rows of plain text as a Markdown table, the head first; the first ``words`` columns are words."""
    head, *lines = rows
    marks = ["---"] * words + ["--:"] * (len(head) - words)
    shown = [list(map(_md, head)), marks, *(list(map(_md, line)) for line in lines)]
    return "\n".join("| " + " | ".join(line) + " |" for line in shown) + "\n"
