"""Curves of ``climp-bench scaling``: power laws through the errors of several sizes (CLIMP's figure 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from climp_bench.metrics.power_law import LEAST_POINTS, PowerLaw, fit_power_law
from climp_bench.report.experiment import ACROSS, Key, Rows, Run, chance, heading, keys, named, panels
from climp_bench.report.plots import COLOURS, MARKERS, save
from climp_bench.report.svg import Axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Curve:
    """One model's main score against the point.

    Attributes:
        family, key: which.
        x_K: the points, ascending.
        scores_KS: of every run at each point, in [0, 1].
        law: of the error, 1 - score; None where ``why`` tells why not.
        why: there is no law, or no interval.
    """

    family: str
    key: Key
    x_K: tuple[float, ...]
    scores_KS: tuple[tuple[float, ...], ...]
    law: PowerLaw | None
    why: str = ""

    @property
    def told(self) -> tuple[str, str]:
        """The law's factor, and its exponent with its interval, or why there is none."""
        if self.law is None:
            return "-", f"not fitted: {self.why}"
        interval = self.law.interval
        reach = f" [{interval.low:+.3f}, {interval.high:+.3f}]" if interval else f" ({self.why})"
        return f"{self.law.factor:.3g}", f"{self.law.exponent:+.3f}{reach}"


def curves(runs: Sequence[Run], x: str = "point") -> list[Curve]:
    """A curve for each model and main score.

    Args:
        runs: all of them.
        x: the field of a run that N is: ``point`` or ``image_parameters``.
    """
    found = []
    for key in keys(runs):
        for family in dict.fromkeys(run["family"] for run in runs):
            places: dict[float, list[float]] = {}
            for run in (run for run in runs if run["family"] == family):
                for score in run["scores"]:
                    if (score["task"], score["metric"]) == key:
                        places.setdefault(float(run[x]), []).append(score["value"])
            places = dict(sorted(places.items()))
            found.append(_curve(family, key, tuple(places), tuple(map(tuple, places.values()))))
    return found


def _curve(family: str, key: Key, x_K: tuple[float, ...], scores: tuple[tuple[float, ...], ...]) -> Curve:
    errors = [[1 - score for score in runs] for runs in scores]
    if len(x_K) < LEAST_POINTS:
        return Curve(family, key, x_K, scores, None, f"{len(x_K)} sizes, a law needs {LEAST_POINTS}")
    if min(min(runs) for runs in errors) <= 0:
        return Curve(family, key, x_K, scores, None, "a run makes no error, which has no logarithm")
    law = fit_power_law(x_K, errors)
    single = "no interval with one seed" if law is not None and law.interval is None else ""
    return Curve(family, key, x_K, scores, law, single)


def law_title(point: str) -> str:
    """Of the table of laws, with what N is the number of."""
    return f"Law of the error: 1 - score = factor x N^exponent, N the {point}"


def laws(runs: Sequence[Run], x: str = "point") -> Rows:
    """A row a score and model: factor and exponent of the law of its error."""
    rows = [[named(curve.key), curve.family, *curve.told] for curve in curves(runs, x)]
    return [["score", "model", "factor", "exponent with 95% interval"], *rows]


def apart(places: Sequence[float], least: float = 0.2) -> list[float]:
    """The ends of a logarithmic axis, and what between them has room for its label.

    Args:
        places: ascending, at least one.
        least: distance of labels, as a share of the axis.
    """
    first, *middle, last = places if len(places) > 1 else [places[0], places[0]]
    axis, kept = Axis(first, last, log=True), [first]
    for place in middle:
        if (
            axis.share(place) - axis.share(kept[-1]) >= least
            and axis.share(last) - axis.share(place) >= least
        ):
            kept.append(place)
    return list(dict.fromkeys([*kept, last]))


def plot_scaling(runs: Sequence[Run], label: str, path: Path, x: str = "point") -> None:
    """A panel a score: every run, the law with its band, a line for chance.

    Raises:
        StoreError: the file cannot be written.
    """
    found, scores = curves(runs, x), keys(runs)
    families = list(dict.fromkeys(run["family"] for run in runs))
    figure, drawn = panels(len(scores), 3.8, 2.7)
    ticks = apart(sorted({n for curve in found for n in curve.x_K}))
    for axes, key in zip(drawn, scores, strict=True):
        heights = [100 * s for curve in found if curve.key == key for own in curve.scores_KS for s in own]
        for curve in (curve for curve in found if curve.key == key and curve.x_K):
            _draw(axes, curve, families.index(curve.family) % len(COLOURS))
        if (guess := chance(key, runs)) is not None:
            axes.axhline(100 * guess, color="#888888", linewidth=1, linestyle=":", label="chance")
            heights.append(100 * guess)
        spare = max(0.5, 0.1 * (max(heights) - min(heights)))
        axes.set_ylim(max(0.0, min(heights) - spare), min(100.0, max(heights) + spare))
        axes.set_xscale("log")
        axes.set_xticks(ticks, minor=False)
        axes.minorticks_off()
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.set_title(heading(key, runs), fontsize=11)
    figure.supxlabel(label, fontsize=11)
    figure.supylabel("percent", fontsize=11)
    told = [axes.get_legend_handles_labels() for axes in drawn]
    lines = {name: line for some, names in told for line, name in zip(some, names, strict=True)}
    figure.legend(
        list(lines.values()), list(lines), loc="outside upper center", frameon=False, fontsize=11,
        ncols=min(len(lines), 3 * min(ACROSS, len(scores))),
    )  # fmt: skip
    save(figure, path)


def _draw(axes: Axes, curve: Curve, k: int) -> None:
    """A curve in the ``k``-th colour."""
    points = [(n, 100 * s) for n, own in zip(curve.x_K, curve.scores_KS, strict=True) for s in own]
    axes.plot(*zip(*points, strict=True), MARKERS[k], color=COLOURS[k], markersize=5, label=curve.family)
    if curve.law is None:
        return
    x_L = np.geomspace(curve.x_K[0], curve.x_K[-1], 60)
    axes.plot(x_L, 100 * (1 - curve.law.at(x_L)), color=COLOURS[k], linewidth=1)
    if band := curve.law.band(x_L):
        low, high = (100 * (1 - edge) for edge in band)
        axes.fill_between(x_L, low, high, color=COLOURS[k], alpha=0.15, linewidth=0)
