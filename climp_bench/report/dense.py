"""The report of `climp-bench dense`: lengths of captions, what is cut of them, and what that costs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from climp_bench.errors import StoreError
from climp_bench.files import write_text
from climp_bench.report.page import problems, provenance
from climp_bench.report.plots import COLOURS, MARKERS, save
from climp_bench.report.tables import Cell, Line, to_csv
from climp_bench.results import RunRecord
from climp_bench.specs import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_RECALL = re.compile(r"(image|text)_retrieval_recall(?:_(truncated|whole)|_([0-9]+)_tokens)?@([0-9]+)")
_STRATA = {None: "all", "truncated": "truncated", "whole": "not truncated"}
Point = tuple[float, float, Interval | None]
"""Tokens read of a caption, recall, its interval."""
Section = tuple[str, int, list[list[str]]]
"""A title, how many columns are words, and rows of text, the head first."""


def sections(records: Sequence[RunRecord]) -> list[Section]:
    """The tables of a report: lengths, recall, and recall of captions that were cut, if asked for."""
    found = [
        ("length of captions in tokens of each model", 2, _lengths(records)),
        ("recall, percent", 3, _recalls(records)),
        ("recall of captions cut to so many tokens, percent", 2, _cut(records)),
    ]
    return [section for section in found if len(section[2]) > 1]


def write_dense(records: Sequence[RunRecord], suite: str, out: Path) -> list[Path]:
    """Write ``dense-{suite}.md``, ``.csv`` and ``.png`` to ``out`` and return their paths.

    Raises:
        StoreError: a file cannot be written.
    """
    own = [record for record in records if record.suite == suite]
    page, table, picture = (out / f"dense-{suite}{suffix}" for suffix in (".md", ".csv", ".png"))
    panels = _panels(own)
    write_text(page, _page(own, suite, picture.name if panels else ""), StoreError)
    write_text(table, to_csv(own), StoreError)
    if not panels:
        return [page, table]
    _plot(own, panels, picture)
    return [page, table, picture]


def _models(records: Sequence[RunRecord]) -> list[str]:
    return list(dict.fromkeys(record.model.name for record in records))


def _tasks(records: Sequence[RunRecord]) -> list[str]:
    return list(dict.fromkeys(record.task for record in records))


def _one(records: Sequence[RunRecord], task: str, model: str, metric: str) -> RunRecord | None:
    mine = [record for record in records if record.task == task and record.model.name == model]
    exact = next((record for record in mine if record.metric == metric), None)
    return exact or next((record for record in mine if record.status == "failed"), None)


def _lengths(records: Sequence[RunRecord]) -> list[list[str]]:
    head = ["task", "model", "n", "min", "median", "p95", "max", "cut at", "cut"]
    table = [head]
    for task in _tasks(records):
        for model in _models(records):
            found = [_one(records, task, model, f"tokens_{name}") for name in ("min", "median", "p95", "max")]
            share = _one(records, task, model, "truncated_share")
            if share is None or share.value is None:
                table.append([task, model, *[share.status if share else "-"] + [""] * (len(head) - 3)])
                continue
            limit = share.extra.get("context_length")
            values = [f"{r.value:.4g}" if r is not None and r.value is not None else "-" for r in found]
            cell = Cell(share)
            cut = f"{cell.percent}% {cell.bounds}".strip()
            table.append([task, model, f"{share.n_evaluated:,}", *values, str(limit or "no limit"), cut])
    return table


def _recalls(records: Sequence[RunRecord]) -> list[list[str]]:
    """Recall over all captions, then over those that are truncated and those that are not, if any are."""
    models = _models(records)
    table = [["task", "metric", "captions", "n", *models]]
    for task in _tasks(records):
        own = [record for record in records if record.task == task]
        split = any("_truncated@" in record.metric and record.value is not None for record in own)
        for metric in _metrics(own, cut=False) or ["any"]:
            match = _RECALL.fullmatch(metric)
            if match and match[2] and not split:
                continue
            cells = [Cell(_one(records, task, model, metric)) for model in models]
            line = Line(task, metric, None, tuple(cells))
            label, captions = ("any", "") if not match else (f"{match[1]} R@{match[4]}", _STRATA[match[2]])
            table.append([task, label, captions, line.n, *(_shown(cell) for cell in cells)])
    return table


def _cut(records: Sequence[RunRecord]) -> list[list[str]]:
    models = _models(records)
    table = [["task", "metric", "tokens", "n", *models]]
    for task in _tasks(records):
        for metric in _metrics([record for record in records if record.task == task], cut=True):
            match = _RECALL.fullmatch(metric)
            assert match is not None
            cells = [Cell(_one(records, task, model, metric)) for model in models]
            n = Line(task, metric, None, tuple(cells)).n
            shown = [_shown(cell) for cell in cells]
            table.append([task, f"{match[1]} R@{match[4]}", match[3] or "all", n, *shown])
    return table


def _shown(cell: Cell) -> str:
    """``-`` where a stratum is empty for this model."""
    if cell.record is not None and cell.record.status == "skipped" and not cell.record.n_evaluated:
        return "-"
    return f"{cell.percent} {cell.bounds}".strip()


def _metrics(records: Sequence[RunRecord], *, cut: bool) -> list[str]:
    """The recalls of a task by direction, k, stratum or length; ``cut``: those at a length, and as it is."""
    found = {record.metric: match for record in records if (match := _RECALL.fullmatch(record.metric))}
    if cut and not any(match[3] for match in found.values()):
        return []
    kept = [name for name, match in found.items() if (not match[2] if cut else not match[3])]
    strata = list(_STRATA)

    def place(name: str) -> tuple[str, int, int, float]:
        match = found[name]
        return match[1], int(match[4]), strata.index(match[2]), float(match[3] or "inf")

    return sorted(kept, key=place)


def _page(records: Sequence[RunRecord], suite: str, picture: str) -> str:
    parts = [f"# dense: {suite}\n", "In brackets 95% intervals; n of a recall is the number of queries.\n"]
    if picture:
        parts.append(f"![Recall against the number of tokens that captions are cut to]({picture})\n")
    for title, texts, (head, *lines) in sections(records):
        marks = [*["---"] * texts, *["--:"] * (len(head) - texts)]
        parts.append(f"## {title[0].upper()}{title[1:]}\n")
        parts.append("\n".join("| " + " | ".join(line) + " |" for line in (head, marks, *lines)) + "\n")
    parts += [_MEANING, problems(_unexpected(records))]
    parts += ["## How these numbers were made\n", provenance(records)]
    return "\n".join(part for part in parts if part)


_MEANING = """\
Tokens are counted before anything is cut, special ones included; n counts captions. *Cut at* is the length
at which a model's own tokenizer cuts, *cut* the share of captions that it cuts; *no limit*: nothing is cut. A
state-space text tower (Mamba) carries a state of one size, however long a text is. A rotary one (LLaMA) has
no table of positions that could end either, but its cost grows with the square of the length. That a model
reads a length does not say that it was trained for it.

*Truncated* and *not truncated* are the queries whose captions a model cuts, or not (an image: if one of its
captions is cut), ranked among all candidates. Captions *cut* to N tokens keep an end token.
"""


def _unexpected(records: Sequence[RunRecord]) -> list[RunRecord]:
    """Without the strata that are empty: the table of lengths says so."""
    return [r for r in records if r.status != "skipped" or r.n_evaluated]


def _panels(records: Sequence[RunRecord]) -> list[tuple[str, str, str]]:
    """Task, direction and k of every panel: recall@5, or the k in the middle."""
    found = []
    for task in _tasks(records):
        own = [record for record in records if record.task == task and record.value is not None]
        for side in ("image", "text"):
            ks = sorted({int(m[4]) for r in own if (m := _RECALL.fullmatch(r.metric)) and m[1] == side})
            if ks:
                found.append((task, side, str(5 if 5 in ks else ks[len(ks) // 2])))
    return found


def _plot(records: Sequence[RunRecord], panels: Sequence[tuple[str, str, str]], path: Path) -> None:
    """A panel a task and direction: recall against the length captions are cut to, then as they are."""
    from matplotlib.figure import Figure

    down = -(-len(panels) // 2)
    figure = Figure(figsize=(9, 0.6 + 2.9 * down), layout="constrained")
    grid = figure.subplots(down, 2, squeeze=False).ravel()
    models = _models(records)
    for axes, (task, side, k) in zip(grid, panels, strict=False):
        curves = [_curve(records, task, side, k, model) for model in models]
        for m, (model, curve) in enumerate(zip(models, curves, strict=True)):
            _draw(axes, curve, m, model if axes is grid[0] else None)
        ticks = sorted({tokens for curve in curves for tokens, _, _ in curve})
        axes.set_title(f"{task}  {side} R@{k}", fontsize=10)
        axes.set(xlabel="tokens read of a caption (right end: as it is)", ylabel="percent")
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [f"{tokens:.0f}" for tokens in ticks], minor=False)
        axes.xaxis.minorticks_off()
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    figure.legend(loc="outside upper center", ncols=min(5, len(models)), fontsize=8, frameon=False)
    save(figure, path)


def _draw(axes: Axes, curve: Sequence[Point], m: int, label: str | None) -> None:
    colour, style = COLOURS[m % len(COLOURS)], f"{MARKERS[m % len(MARKERS)]}-"
    x, y = [tokens for tokens, _, _ in curve], [100 * value for _, value, _ in curve]
    axes.plot(x, y, style, color=colour, label=label, markersize=4)
    bounds = [(100 * i.low, 100 * i.high) for _, _, i in curve if i is not None]
    if bounds and len(bounds) == len(x):
        low, high = zip(*bounds, strict=True)
        axes.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
        if len(x) == 1:
            axes.vlines(x, *bounds[0], color=colour, linewidth=1)


def _curve(records: Sequence[RunRecord], task: str, side: str, k: str, model: str) -> list[Point]:
    """Recall by tokens read at most; the last point is captions as they are, at the longest one's length."""
    points = []
    longest = _one(records, task, model, "tokens_max")
    for record in records:
        match = _RECALL.fullmatch(record.metric)
        mine = record.task == task and record.model.name == model
        if not match or not mine or match[2] or (match[1], match[4]) != (side, k):
            continue
        if record.value is None or longest is None or longest.value is None:
            continue
        limit = longest.extra.get("context_length")
        reads = min(longest.value, float(limit)) if isinstance(limit, int) else longest.value
        if not match[3] or float(match[3]) < reads:
            points.append((float(match[3] or reads), record.value, record.interval))
    return sorted(points, key=lambda point: point[0])
