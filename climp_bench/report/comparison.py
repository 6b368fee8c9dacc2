"""The files of ``compare``: a Markdown page, a CSV of everything, a plot of the differences."""

from __future__ import annotations

import csv
import dataclasses
import io
from pathlib import Path

from climp_bench.errors import StoreError
from climp_bench.files import write_text
from climp_bench.report.plots import COLOURS, save
from climp_bench.report.tables import Line
from climp_bench.results.differences import Comparison, Difference

HEAD = ("task", "metric", "n", "A", "B", "B - A", "interval", "p", "p (Holm)", "detectable", "finding")
_COLOUR = {"A better": COLOURS[1], "B better": COLOURS[0], "no difference shown": "#888888"}


def label(difference: Difference, comparison: Comparison) -> str:
    """``embedded/scenes-shape``, with the model where the comparison has several."""
    several = len({d.model_a for d in comparison.differences}) > 1
    return f"{difference.suite}/{difference.task}{f' {difference.model_a}' if several else ''}"


def rows(comparison: Comparison) -> list[list[str]]:
    """The differences as text under ``HEAD``: percent and points for shares."""
    return [[label(d, comparison), *_cells(d)] for d in comparison.differences]


def _cells(d: Difference) -> list[str]:
    scale, digits = (100.0, ".1f") if d.is_share else (1.0, ".6g")

    def shown(value: float | None, form: str = digits) -> str:
        return "-" if value is None else f"{scale * value:{form}}"

    interval = (
        "" if d.interval is None else f"[{shown(d.interval.low, '+.1f')}, {shown(d.interval.high, '+.1f')}]"
    )
    clustered = d.clusters is not None and d.n is not None and d.clusters < d.n
    n = "-" if d.n is None else f"{d.n:,}" + (f" of {d.clusters:,} images" if clustered else "")
    return [
        Line(d.task, d.metric, None, ()).label,
        n,
        shown(d.a),
        shown(d.b),
        shown(d.difference, "+.1f" if d.is_share else "+.6g"),
        interval,
        _p(d.p),
        _p(d.p_holm),
        "" if d.detectable is None else shown(d.detectable, ".1f"),
        d.finding,
    ]


def _p(p: float | None) -> str:
    if p is None:
        return ""
    return "<0.0001" if p < 1e-4 else f"{p:.4f}"


def write_comparison(comparison: Comparison, out: Path, name: str) -> list[Path]:
    """Write ``{name}.md``, ``.csv`` and, where something was tested, ``.png`` to ``out``.

    Raises:
        StoreError: a file cannot be written.
    """
    paths = [out / f"{name}{suffix}" for suffix in (".md", ".csv", ".png")]
    tested = any(d.interval is not None for d in comparison.differences)
    write_text(paths[0], to_markdown(comparison, paths[2].name if tested else ""), StoreError)
    write_text(paths[1], to_csv(comparison), StoreError)
    if tested:
        forest_plot(comparison, paths[2])
    return paths if tested else paths[:2]


def to_markdown(comparison: Comparison, picture: str = "") -> str:
    """A page: what was compared, the table, what was refused and why."""
    parts = [f"# B {comparison.name_b} against A {comparison.name_a}\n", explanation(comparison) + "\n"]
    lines = [list(HEAD), ["---", "---", *["--:"] * 8, "---"], *rows(comparison)]
    parts.append("".join(f"| {' | '.join(line)} |\n" for line in lines))
    if picture:
        parts.append(f"![Differences with their intervals]({picture})\n")
    if notes := reasons(comparison):
        parts.append("## Not compared, not tested\n\n" + "".join(f"- {note}\n" for note in notes))
    return "\n".join(parts)


def explanation(comparison: Comparison) -> str:
    """How to read the table, in a few sentences."""
    level = f"{100 * (1 - comparison.alpha):g}%"
    return (
        f"Percent and points. Interval: of the difference, {level}. p: exact paired test (McNemar's; all "
        "captions of an image are flipped together). A difference is shown where p, corrected by Holm for "
        f"all tests of the table, is below {comparison.alpha:g}. Detectable: the smallest true difference "
        "that one such test finds with 80% power."
    )


def reasons(comparison: Comparison) -> list[str]:
    """Why some differences were refused or not tested, alike reasons together."""
    found: dict[str, list[str]] = {}
    for d in comparison.differences:
        if d.reason:
            found.setdefault(f"{d.finding}: {d.reason}", []).append(f"{label(d, comparison)} {d.metric}")
    return [f"{why} - {', '.join(places)}" for why, places in found.items()]


def to_csv(comparison: Comparison) -> str:
    """Every difference as one row, all columns; shares as they are, not in percent."""
    names = [field.name for field in dataclasses.fields(Difference) if field.name != "interval"]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*names, "difference", "low", "high", "interval_method"])
    for d in comparison.differences:
        low, high, method = (
            (d.interval.low, d.interval.high, d.interval.method) if d.interval else (None,) * 3
        )
        writer.writerow([*(getattr(d, name) for name in names), d.difference, low, high, method])
    return buffer.getvalue()


def forest_plot(comparison: Comparison, path: Path) -> None:
    """A dot and an interval a difference, around zero, coloured by what was found.

    Raises:
        StoreError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    tested = [d for d in comparison.differences if d.interval is not None]
    figure = Figure(figsize=(8, 1.4 + 0.26 * len(tested)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color="#333333", linewidth=0.8)
    for finding, colour in _COLOUR.items():
        points = [(100 * (d.difference or 0), row, d) for row, d in enumerate(tested) if d.finding == finding]
        if not points:
            continue
        xs, ys, of = zip(*points, strict=True)
        low = [max(0.0, x - 100 * d.interval.low) for x, d in zip(xs, of, strict=True) if d.interval]
        high = [max(0.0, 100 * d.interval.high - x) for x, d in zip(xs, of, strict=True) if d.interval]
        marker = {"A better": "<", "B better": ">"}.get(finding, "o")
        axes.errorbar(
            xs, ys, xerr=[low, high], fmt=marker, color=colour, markersize=5, elinewidth=1, label=finding
        )
    names = [f"{label(d, comparison)}  {Line(d.task, d.metric, None, ()).label}" for d in tested]
    axes.set_yticks(range(len(tested)), names, fontsize=8)
    axes.set_ylim(len(tested) - 0.4, -0.6)
    axes.set_xlabel(f"B - A in points, with {100 * (1 - comparison.alpha):g}% interval (uncorrected)")
    axes.set_title(f"A {comparison.name_a}\nB {comparison.name_b}", fontsize=9, loc="left")
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.legend(loc="outside upper right", ncols=3, fontsize=8, frameon=False)
    save(figure, path)
