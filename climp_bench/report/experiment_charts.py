"""Charts of experiments: an ablation's dots, scaling with its fitted law, losses by epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from climp_bench.report.charts import dot_chart
from climp_bench.report.document import Chart, Table
from climp_bench.report.experiment import keys
from climp_bench.report.experiment_tables import POINT, Named, words
from climp_bench.report.scaling import Curve, apart, curves
from climp_bench.report.svg import Axis, Panel
from climp_bench.results.experiments import BiasRun, TrialRun

_STEPS = 40


def dots(found: Named, table: Table) -> Chart:
    """The scores of a table as dots, what its intervals are over said beside them."""
    over = (
        "Means over seeds with 95% t intervals, or of samples where seeds tell nothing (one, or all alike)."
    )
    chart = dot_chart(table, close=True)
    chance = " The grey bars are chance." if table.has_chance else ""
    return replace(chart, caption=" ".join((over + chance, *found.warning)))


def scaling_chart(found: Named, runs: Sequence[TrialRun]) -> Chart:
    """A panel a score: every run against the size, the fitted law of the error and its band."""
    plain = [run.plain for run in runs]
    label, drawn = POINT[found.content.name], curves(plain)
    families = tuple(dict.fromkeys(run.family for run in runs))
    panels = []
    for key in keys(plain):
        own = [curve for curve in drawn if curve.key == key and curve.x_K]
        chances = [s.chance for run in runs for s in run.scores if (s.task, s.metric) == key]
        panels.append(_panel(" ".join(words(key)), own, families, label, chances[0]))
    caption = (
        "Dots are single runs, lines the fitted law of the error, bands its 95% interval by a bootstrap over "
        "runs, the grey line chance. The horizontal axis is logarithmic."
    )
    return Chart(
        f"{found.key}-curves", f"{found.title}: score against {label}", tuple(panels), families,
        " ".join((caption, *found.warning)),
    )  # fmt: skip


def _panel(
    title: str, own: Sequence[Curve], families: Sequence[str], label: str, chance: float | None
) -> tuple[str, int, int]:
    x_L = {curve: np.geomspace(curve.x_K[0], curve.x_K[-1], _STEPS) for curve in own}
    bands = {curve: curve.law.band(x_L[curve]) for curve in own if curve.law is not None}
    heights = [100 * score for curve in own for runs in curve.scores_KS for score in runs]
    heights += [100 * (1 - float(y)) for band in bands.values() if band for edge in band for y in edge]
    heights += [100 * chance] if chance is not None else []
    spare = max(1.0, 0.06 * (max(heights) - min(heights)))
    y = Axis(max(0.0, min(heights) - spare), min(100.0, max(heights) + spare), "percent")
    places = sorted({n for curve in own for n in curve.x_K})
    x = Axis(places[0], places[-1], label, True)
    x = replace(x, ticks=tuple((n, f"{n:,.0f}") for n in apart(places)))
    panel = Panel(title, x, y, f"{title}, percent against {label}; the table holds the numbers")
    if chance is not None:
        panel.rule((x.low, 100 * chance), (x.high, 100 * chance), "chance")
    for curve in own:
        s = families.index(curve.family)
        if curve.law is not None:
            if band := bands[curve]:
                panel.band(
                    [(float(n), 100 * (1 - float(high)), 100 * (1 - float(low)))
                     for n, low, high in zip(x_L[curve], *band, strict=True)], s,
                )  # fmt: skip
            line = zip(x_L[curve], curve.law.at(x_L[curve]), strict=True)
            panel.line([(float(n), 100 * (1 - float(error))) for n, error in line], s)
        for n, scores in zip(curve.x_K, curve.scores_KS, strict=True):
            for score in scores:
                panel.mark(n, 100 * score, s, f"{curve.family}, {n:,.0f}: {100 * score:.1f}", small=True)
    return panel.svg(), panel.width, panel.height


def loss_chart(found: Named, runs: Sequence[BiasRun]) -> Chart:
    """A panel a tower: the training loss by epoch, a line a seed."""
    orders = tuple(dict.fromkeys(run.order for run in runs))
    losses = [loss for run in runs for loss in run.losses]
    spare = max(0.01, 0.06 * (max(losses) - min(losses)))
    epochs = max(len(run.losses) for run in runs)
    ticks = tuple((float(k), str(k)) for k in range(1, epochs + 1, -(-epochs // 8)))
    panels = []
    for tower in dict.fromkeys(run.tower for run in runs):
        y = Axis(max(0.0, min(losses) - spare), max(losses) + spare, "nats")
        panel = Panel(tower, Axis(1, epochs, "epoch", ticks=ticks), y, f"{tower}, training loss by epoch")
        for run in (run for run in runs if run.tower == tower):
            s = orders.index(run.order)
            points = [(float(k), loss) for k, loss in enumerate(run.losses, 1)]
            panel.line(points, s, thin=True)
            for k, loss in points:
                panel.mark(k, loss, s, f"{run.order}, seed {run.seed}, epoch {k:.0f}: {loss:.3f}", small=True)
        panels.append((panel.svg(), panel.width, panel.height))
    caption = "Mean training loss of each epoch, a line a seed."
    return Chart(
        f"{found.key}-losses", f"{found.title}: training loss", tuple(panels),
        tuple(f"{order} patches" for order in orders), " ".join((caption, *found.warning)),
    )  # fmt: skip
