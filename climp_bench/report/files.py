"""A report as files: a page, a Markdown file, and every table and chart by itself."""

from __future__ import annotations

from pathlib import Path

from climp_bench.errors import StoreError
from climp_bench.files import write_text
from climp_bench.report.document import Chart, Report, Section
from climp_bench.report.formats import markdown_table, to_csv, to_latex, to_markdown
from climp_bench.report.html import to_html
from climp_bench.report.missing import missing
from climp_bench.report.svg import compose
from climp_bench.report.tables import to_csv as records_csv

PAGE, TEXT, EVERYTHING, PAPER = "index.html", "report.md", "records.csv", "paper.md"
_MARKS = (
    "Bold is better than every other model, underlined better than all but that one, by paired exact tests\n"
    "of the same samples, corrected over the whole table (Holm, 5%). Intervals are 95%.\n"
)


def write_files(report: Report, out: Path) -> list[Path]:
    """Write ``index.html``, ``report.md``, ``records.csv``, ``paper.md``, ``tables/*`` and ``plots/*.svg``.

    Returns:
        The page first.

    Raises:
        StoreError: a file cannot be written.
    """
    files: dict[Path, str] = {
        out / PAGE: to_html(report),
        out / TEXT: _markdown(report),
        out / EVERYTHING: records_csv(report.records),
        out / PAPER: _paper(report),
    }
    for section in report.sections:
        for table in section.tables:
            made = {"md": to_markdown(table), "csv": to_csv(table), "tex": to_latex(table)}
            files |= {out / "tables" / f"{table.key}.{suffix}": text for suffix, text in made.items()}
        for chart in section.charts:
            if chart.panels:
                files[_plot(chart, out)] = compose(chart.panels, chart.series)
    for path, text in files.items():
        write_text(path, text, StoreError)
    return list(files)


def _plot(chart: Chart, out: Path) -> Path:
    return out / "plots" / f"{chart.key}.svg"


def _markdown(report: Report) -> str:
    parts = [f"# {report.title}\n", _MARKS, *(_section(s) for s in report.sections if s.tables)]
    absent = [f"- {s.title}: `{s.command}`" for s in report.sections if not s.tables]
    if absent:
        parts.append("# Without results\n\nThese commands make some:\n\n" + "\n".join(absent) + "\n")
    parts.append(f"# Paper against measured\n\nEvery figure on record: [{PAPER}]({PAPER}).\n")
    if told := missing(report.records):
        parts.append("# Not measured\n\n" + markdown_table(told, len(told[0])))
    return "\n".join(parts)


def _paper(report: Report) -> str:
    parts = ["# Paper against measured\n", "Scores in percent.\n", markdown_table(report.beside, 3)]
    if report.wanted:
        parts.append("What would measure the others:\n")
        parts.append("".join(f"- `{command}`\n" for command in report.wanted))
    return "\n".join(parts)


def _section(section: Section) -> str:
    paper = f" ({section.paper} of the paper)" if section.paper else ""
    parts = [f"# {section.title}{paper}\n", *map(to_markdown, section.tables)]
    for chart in section.charts:
        shown = f"![{chart.title}](plots/{chart.key}.svg)\n\n{chart.caption}\n"
        parts.append(shown if chart.panels else f"Not drawn: {chart.title}. {chart.absent}\n")
    return "\n".join(parts)
