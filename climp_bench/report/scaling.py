"""Curves of ``climp-bench scaling``: power laws through the errors of several sizes (CLIMP's figure 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from climp_bench.metrics.power_law import LEAST_POINTS, PowerLaw, fit_power_law
from climp_bench.report.experiment import Key, Run, heading, keys
from climp_bench.report.plots import COLOURS, MARKERS, save


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
    def told(self) -> str:
        """The law in words."""
        if self.law is None:
            return f"not fitted: {self.why}"
        interval = self.law.interval
        reach = f" [{interval.low:+.3f}, {interval.high:+.3f}]" if interval else f" ({self.why})"
        return f"error = {self.law.factor:.3g} x N^{self.law.exponent:+.3f}{reach}"


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


def laws(runs: Sequence[Run], x: str = "point") -> list[list[str]]:
    """Head and rows: score, model, the law of its error."""
    rows = [[heading(curve.key, runs), curve.family, curve.told] for curve in curves(runs, x)]
    return [["score", "model", "law of the error, exponent with 95% interval"], *rows]


def plot_scaling(runs: Sequence[Run], label: str, path: Path, x: str = "point") -> None:
    """A panel a score: every run, and the law with its band.

    Raises:
        StoreError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    found, scores = curves(runs, x), keys(runs)
    figure = Figure(figsize=(3.2 * len(scores), 3.4), layout="constrained")
    panels = figure.subplots(1, len(scores), squeeze=False)[0]
    for axes, key in zip(panels, scores, strict=True):
        for k, curve in enumerate(curve for curve in found if curve.key == key):
            points = [(n, 100 * s) for n, own in zip(curve.x_K, curve.scores_KS, strict=True) for s in own]
            axes.plot(*zip(*points, strict=True), MARKERS[k], color=COLOURS[k], markersize=4,
                      label=curve.family)  # fmt: skip
            if curve.law is None:
                continue
            x_L = np.geomspace(curve.x_K[0], curve.x_K[-1], 60)
            axes.plot(x_L, 100 * (1 - curve.law.at(x_L)), color=COLOURS[k], linewidth=1)
            if band := curve.law.band(x_L):
                axes.fill_between(
                    x_L, *(100 * (1 - edge) for edge in band), color=COLOURS[k], alpha=0.15, linewidth=0
                )
        axes.set_xscale("log")
        ticks = sorted({n for curve in found for n in curve.x_K})
        axes.set_xticks(ticks if len(ticks) < 6 else [ticks[0], ticks[-1]], minor=False)
        axes.minorticks_off()
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.set_title(heading(key, runs).replace(" (", "\n("), fontsize=8)
        axes.set_xlabel(label, fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("percent", fontsize=8)
    panels[-1].legend(frameon=False, fontsize=7)
    save(figure, path)
