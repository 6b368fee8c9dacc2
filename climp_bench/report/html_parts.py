"""Parts of the page: tables, charts, examples. Every text from outside is escaped here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from climp_bench.report.document import MISSING, Chart, Row, Shots, Shown, Table
from climp_bench.report.formats import published
from climp_bench.report.score_tables import label
from climp_bench.report.svg import marker
from climp_bench.results import RunRecord
from climp_bench.results.pictures import Answer, Example

_LONG = 26
_AUXILIARY = ("chance", "meaning")
"""Columns that a phone does without."""


class Ledger:
    """The records that numbers of the page open, each once."""

    def __init__(self) -> None:
        self.records: list[RunRecord] = []
        self._place: dict[int, int] = {}

    def places(self, records: Sequence[RunRecord]) -> str:
        """Where the page's data has these records: ``12 13``."""
        found = []
        for record in records:
            if id(record) not in self._place:
                self._place[id(record)] = len(self.records)
                self.records.append(record)
            found.append(str(self._place[id(record)]))
        return " ".join(found)


def table_html(table: Table, ledger: Ledger) -> str:
    """A table that sorts, each number a button that opens where it comes from."""
    words = len(table.heads)
    heads = [_head(name, k < words) for k, name in enumerate(_names(table))]
    rows = "\n".join(_row(row, table, ledger) for row in table.rows)
    unit = f" <small>{escape(table.unit)}</small>" if table.unit else ""
    notes = f'<p class="note">{escape(" ".join(table.notes))}</p>' if table.notes else ""
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(table.title)}">'
        f'<table id="{escape(table.key)}"><caption>{escape(table.title)}{unit}</caption>'
        f"<thead><tr>{''.join(heads)}</tr></thead><tbody>\n{rows}\n</tbody></table></div>{notes}"
    )


MARKS = (
    "<b>Bold</b>: better than every other model. <u>Underlined</u>: better than all but that one. "
    "Paired exact tests of the same samples, corrected over the whole table (Holm, 5%). The column “best” "
    "names those that may be best: several where no difference was shown; “not tested” where no outcomes of "
    "single samples exist."
)


def _names(table: Table) -> list[str]:
    extra = ["n"] * table.has_n + ["chance"] * table.has_chance
    return [*table.heads, *extra, *table.columns, *["best"] * table.has_verdicts]


def _head(name: str, word: bool) -> str:
    kinds = ["w"] * (word or name == "best") + ["aux"] * (name in _AUXILIARY)
    kind = f' class="{" ".join(kinds)}"' if kinds else ""
    shown = escape(name).replace("@", "<wbr>@")
    return f'<th scope="col"{kind} aria-sort="none"><button type="button" class="sort">{shown}</button></th>'


def _row(row: Row, table: Table, ledger: Ledger) -> str:
    first, *others = row.labels
    cells = [_first(first)]
    cells += [_word(w, head in _AUXILIARY) for w, head in zip(others, table.heads[1:], strict=True)]
    if table.has_n:
        bare = row.n.partition(" ")[0].partition("-")[0].replace(",", "")
        cells.append(f'<td data-v="{escape(bare)}">{escape(row.n) or _NONE}</td>')
    if table.has_chance:
        chance = row.chance
        shown = f' data-v="{chance:.6g}">{chance:.1f}' if chance is not None else ">"
        cells.append(f'<td class="aux"{shown}</td>')
    cells += [_cell(cell, row, k, ledger) for k, cell in enumerate(row.cells)]
    if table.has_verdicts:
        standing = row.standing
        why = f'<span class="ci">{escape(standing.why)}</span>' if standing.why else ""
        cells.append(f'<td class="w best">{escape(standing.verdict) or _NONE}{why}</td>')
    return f"<tr>{''.join(cells)}</tr>"


_NONE = f'<span class="none">{MISSING}</span>'


def _first(text: str) -> str:
    return f'<th scope="row"{_FOLDED if len(text) > _LONG else ""}>{escape(text)}</th>'


_FOLDED = ' class="long"'


def _word(text: str, auxiliary: bool = False) -> str:
    kind = ("w long" if len(text) > _LONG else "w") + " aux" * auxiliary
    return f'<td class="{kind}">{escape(text)}</td>'


def _cell(cell: Shown, row: Row, k: int, ledger: Ledger) -> str:
    if cell.value is None and not cell.records:
        return f"<td>{_NONE if cell.text == MISSING else escape(cell.told)}</td>"
    mark = {row.standing.best: " best", row.standing.second: " second"}.get(k, "")
    bad = " bad" if cell.value is None and cell.text != MISSING else ""
    button = (
        f'<button type="button" class="num{mark}{bad}" aria-haspopup="dialog" '
        f'data-r="{ledger.places(cell.records)}">{escape(cell.text)}</button>'
    )
    beside = " ".join(part for part in (cell.bounds, cell.note) if part)
    button += f'<span class="ci">{escape(beside)}</span>' if beside else ""
    if told := published(cell, row):
        button += f'<span class="pub">{escape(told)}</span>'
    value = "" if cell.value is None else f' data-v="{cell.value:.10g}"'
    return f"<td{value}>{button}</td>"


def chart_html(chart: Chart) -> str:
    """A chart with its legend, or what is missing for it."""
    title = f"<h3>{escape(chart.title)}</h3>"
    if not chart.panels:
        why = f'<p class="note">Not drawn. {escape(chart.absent)}</p>'
        return f'<div id="{escape(chart.key)}">{title}{why}</div>'
    legend = "".join(f"<li>{marker(k)}{escape(name)}</li>" for k, name in enumerate(chart.series))
    panels = "".join(svg for svg, _, _ in chart.panels)
    kind = "wide" if len(chart.panels) == 1 and chart.panels[0][1] > 500 else "charts"
    focus = f' tabindex="0" role="region" aria-label="{escape(chart.title)}"' if kind == "wide" else ""
    return (
        f'<figure id="{escape(chart.key)}">{title}<ul class="legend">{legend}</ul>'
        f'<div class="{kind}"{focus}>{panels}</div><figcaption>{escape(chart.caption)}</figcaption></figure>'
    )


def text_table_html(title: str, rows: Sequence[Sequence[str]], words: Sequence[int]) -> str:
    """A table of plain text that sorts; ``words`` are the columns that are no numbers."""
    head, *lines = rows
    heads = "".join(_head(name, k in words) for k, name in enumerate(head))
    body = []
    for line in lines:
        cells = [_first(line[0])]
        for k, text in enumerate(line[1:], 1):
            number = text.partition(" ")[0].replace(",", "")
            cells.append(_word(text) if k in words else f'<td data-v="{escape(number)}">{escape(text)}</td>')
        body.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(title)}"><table>'
        f"<caption>{escape(title)}</caption><thead><tr>{heads}</tr></thead><tbody>\n"
        + "\n".join(body)
        + "\n</tbody></table></div>"
    )


class Thumbnails:
    """Pictures as style rules, each content once."""

    def __init__(self) -> None:
        self._place: dict[str, int] = {}

    def span(self, jpeg: str | None, tells: str) -> str:
        """A picture; ``tells`` is what it is for those who do not see it."""
        if jpeg is None:
            return f'<span class="thumb" role="img" aria-label="{escape(tells)} (not kept)"></span>'
        place = self._place.setdefault(jpeg, len(self._place))
        return f'<span class="thumb t{place}" role="img" aria-label="{escape(tells)}"></span>'

    def style(self) -> str:
        """The rules."""
        return "\n".join(
            f".t{place}{{background-image:url(data:image/jpeg;base64,{jpeg})}}"
            for jpeg, place in self._place.items()
        )


def shots_html(shots: Sequence[Shots], thumbnails: Thumbnails) -> str:
    """Examples by task, then by model, folded."""
    tasks: dict[tuple[str, str], list[Shots]] = {}
    for one in shots:
        tasks.setdefault((one.suite, one.task), []).append(one)
    parts = []
    for (suite, task), own in tasks.items():
        inside = "".join(_of_model(one, thumbnails) for one in own)
        told = f"{task} ({suite}): {len(own)} model{'s' if len(own) > 1 else ''}"
        parts.append(f"<details><summary>{escape(told)}</summary>{inside}</details>")
    return "\n".join(parts)


def _of_model(shots: Shots, thumbnails: Thumbnails) -> str:
    head = f"<h4>{escape(shots.model)}</h4>"
    if shots.pictures.problem:
        return f'{head}<p class="note">No pictures: {escape(shots.pictures.problem)}</p>'
    cards = "".join(_card(e, shots.pictures.thumbnails, thumbnails) for e in shots.pictures.examples)
    return f'{head}<div class="cards">{cards}</div>'


def _card(example: Example, jpegs: Mapping[str, str], thumbnails: Thumbnails) -> str:
    word = "✓ hit" if example.right else "✗ miss"
    asked = "image" if example.query == "image" else "caption"
    told = f"of {label(example.metric)}, asked with the {asked}"
    head = f'<p class="meta"><b class="word">{word}</b> {escape(told)}</p>'
    truth = thumbnails.span(jpegs.get(example.item), f"image {example.item}: {example.text}")
    if example.query == "image":
        answers = "".join(f"<li{_right(a)}>{escape(a.text)} {_score(a)}</li>" for a in example.answers)
        inside = f"{truth}<p>{escape(example.text)}</p><ol>{answers}</ol>"
    else:
        found = "".join(
            f'<li class="{"right" if a.right else "wrong"}">'
            f"{thumbnails.span(jpegs.get(a.item), f'answer {k}: image {a.item}')}{_score(a)}</li>"
            for k, a in enumerate(example.answers, 1)
        )
        inside = f'{truth}<p>“{escape(example.text)}”</p><ol class="row">{found}</ol>'
    kind = "card" if example.right else "card miss"
    return f'<figure class="{kind}">{head}{inside}</figure>'


def _right(answer: Answer) -> str:
    return ' class="right"' if answer.right else ""


def _score(answer: Answer) -> str:
    right = '<span class="unseen">, right</span>' if answer.right else ""
    return f"<small>{answer.cosine:.2f}</small>{right}"
