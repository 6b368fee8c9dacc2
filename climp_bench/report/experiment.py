"""Reports of experiments over trained models: ``ablation`` (CLIMP's table 8) and ``scaling`` (its table 7 and
figure 4)."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from climp_bench.errors import StoreError
from climp_bench.files import write_text
from climp_bench.metrics.seeds import t_interval
from climp_bench.report.plots import COLOURS, MARKERS, save
from climp_bench.report.tables import HEADLINE, LABELS
from climp_bench.results.experiments import EXPERIMENT_VERSION

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SMALL = (
    "These are thumbnails of the towers, trained for seconds on drawings: this shows that the experiment "
    "runs, and nothing about the paper's claim."
)
OVER = (
    "Means over seeds with 95% t intervals, of training; where seeds tell nothing (one, or all alike), of "
    "samples. Scores in percent; recall is on captions of scenes that no training shows."
)
CUT = "Intervals of scores are cut at 0 and 100, those of differences are not."
FEW = 6
"""Main scores that have a column each; of more, each has a row."""
ACROSS = 4
"""Panels of a picture that stand side by side."""
Run = Mapping[str, Any]
"""What ``run.experiment.run_trials`` returns of each trial."""
Key = tuple[str, str]
"""A task and a metric."""
Rows = list[list[str]]
"""A table, its head first."""


@dataclass(frozen=True)
class Cell:
    """A score of one model: mean over seeds, in [0, 1].

    Attributes:
        mean, low, high: the last two are a score's own interval where seeds tell nothing; None for none.
            Student's interval takes runs as normal and may leave [0, 1]: it is cut there.
        seeds, n: runs, and samples of each.
        over: what the interval is over, ``seeds`` or ``samples``.
    """

    mean: float
    low: float | None
    high: float | None
    seeds: int
    n: int
    over: str

    def __str__(self) -> str:
        return _percent(self.mean, self.low, self.high, ".1f")


@dataclass(frozen=True)
class Change:
    """What one image tower has over another, paired by seed: a mean difference of shares.

    Attributes:
        mean, low, high: without several seeds there is no interval.
        seeds: of the runs that make pairs.
        n: samples of each.
    """

    mean: float
    low: float | None
    high: float | None
    seeds: tuple[int, ...]
    n: int

    def __str__(self) -> str:
        return _percent(self.mean, self.low, self.high, "+.1f")


def _percent(mean: float, low: float | None, high: float | None, form: str) -> str:
    if low is None or high is None:
        return f"{100 * mean:{form}}"
    return f"{100 * mean:{form}} [{100 * low:{form}}, {100 * high:{form}}]"


def keys(runs: Sequence[Run]) -> list[Key]:
    """The main scores of each task."""
    found = {
        (s["task"], s["metric"]): None
        for run in runs
        for s in run["scores"]
        if s["metric"] in HEADLINE.get(s["kind"], ())
    }
    return list(found)


def heading(key: Key, runs: Sequence[Run]) -> str:
    """Task, metric and what a guess scores, if known."""
    guess = chance(key, runs)
    return named(key) if guess is None else f"{named(key)} (chance {100 * guess:.1f})"


def named(key: Key) -> str:
    """Task and metric."""
    task, metric = key
    side, _, k = metric.partition("_retrieval_recall@")
    return f"{task} {side} R@{k}" if k else f"{task} {LABELS.get(metric, metric)}"


def chance(key: Key, runs: Sequence[Run]) -> float | None:
    """What a guess scores, in [0, 1], if known."""
    return next((s["chance"] for r in runs if (s := _score(r, key)) and s["chance"] is not None), None)


def cell(runs: Sequence[Run], key: Key) -> Cell | None:
    """A score over runs with different seeds; None where no run has it."""
    scores = [score for run in runs if (score := _score(run, key))]
    if not scores:
        return None
    values = [score["value"] for score in scores]
    mean, interval = sum(values) / len(values), t_interval(values, least=0.0, most=1.0)
    if interval is None:
        one = scores[0]
        return Cell(mean, one["low"], one["high"], len(scores), one["n"], "samples")
    return Cell(mean, interval.low, interval.high, len(values), scores[0]["n"], "seeds")


def grouped(runs: Sequence[Run]) -> dict[tuple[str, int], list[Run]]:
    """Runs of one model at one point, all seeds together."""
    found: dict[tuple[str, int], list[Run]] = {}
    for run in runs:
        found.setdefault((run["family"], run["point"]), []).append(run)
    return found


def differences(runs: Sequence[Run]) -> Rows:
    """Of an ablation: what the image tower changes with each text tower, in points, paired by seed.

    First image tower named minus the other; a row a text tower: label, seeds, then each score.
    """
    images = list(dict.fromkeys(run["image"] for run in runs))
    rows = []
    for text in dict.fromkeys(run["text"] for run in runs):
        found = [change(runs, text, key) for key in keys(runs)]
        seeds = {seed for one in found if one for seed in one.seeds}
        if seeds:
            row = [f"{images[0]} - {images[1]}", text, "", str(len(seeds))]
            rows.append([*row, *(str(one or "-") for one in found)])
    return rows


def change(runs: Sequence[Run], text: str, key: Key) -> Change | None:
    """What the image tower changes with one text tower; None unless two image towers share a seed."""
    images = list(dict.fromkeys(run["image"] for run in runs))
    if len(images) != 2:
        return None
    of = {(r["image"], r["seed"]): _score(r, key) for r in runs if r["text"] == text}
    pairs = {s: (one, of.get((images[1], s))) for (i, s), one in sorted(of.items()) if i == images[0]}
    whole = {s: (one, other) for s, (one, other) in pairs.items() if one and other}
    if not whole:
        return None
    values = [one["value"] - other["value"] for one, other in whole.values()]
    mean, interval, n = sum(values) / len(values), t_interval(values), next(iter(whole.values()))[0]["n"]
    low, high = (interval.low, interval.high) if interval else (None, None)
    return Change(mean, low, high, tuple(whole), n)


def tables(runs: Sequence[Run], point: str = "") -> dict[str, Rows]:
    """What there is to show, by title: one table of few scores, else models, scores and differences.

    Args:
        runs: all of them.
        point: what varies beside the model; "" for an ablation.
    """
    if len(keys(runs)) <= FEW:
        return {"Scores": table(runs, point)}
    if point:
        return {"Models": _models(runs, point), "Scores": _by_point(runs, point)}
    found = {"Models": _models(runs, point), "Scores": _by_model(runs)}
    changed = differences(runs)
    if changed:
        columns = [[row[1], *row[4:]] for row in changed]
        rows = [["score", *map(named, keys(runs))], *columns]
        found[f"{changed[0][0]} by text tower: points, paired by seed"] = [
            list(row) for row in zip(*rows, strict=True)
        ]
    return found


def _models(runs: Sequence[Run], point: str) -> Rows:
    """A row a model and point."""
    rows = [["model", "image", "text", "parameters", *[point] * bool(point), "pairs seen", "seeds"]]
    for (family, place), own in grouped(runs).items():
        first = own[0]
        facts = [family, first["image"], first["text"], f"{first['parameters']:,}"]
        rows.append([*facts, *[f"{place:,}"] * bool(point), f"{first['pairs']:,}", str(len(own))])
    return rows


def _by_model(runs: Sequence[Run]) -> Rows:
    """A row a score, a column a model."""
    groups = list(grouped(runs).values())
    head = ["score", "chance", "samples", *(f"{own[0]['image']}, {own[0]['text']}" for own in groups)]
    return [head, *([*_about(key, runs), *_cells(groups, key)] for key in keys(runs))]


def _by_point(runs: Sequence[Run], point: str) -> Rows:
    """A row a score and model, a column a point; where models have different points, a row each."""
    groups = grouped(runs)
    families = list(dict.fromkeys(family for family, _ in groups))
    places = {family: sorted(place for own, place in groups if own == family) for family in families}
    alike = len({tuple(own) for own in places.values()}) == 1
    columns = [f"{place:,} {point}" for place in places[families[0]]] if alike else [point, "score"]
    rows = [["score", "chance", "samples", "model", *columns]]
    for key in keys(runs):
        for family in families:
            facts = [*_about(key, runs), family]
            found = _cells([groups[family, place] for place in places[family]], key)
            if alike:
                rows.append([*facts, *found])
            else:
                own = zip(places[family], found, strict=True)
                rows += [[*facts, f"{place:,}", score] for place, score in own]
    return rows


def _about(key: Key, runs: Sequence[Run]) -> list[str]:
    """A score, what a guess scores, and of how many samples it is."""
    guess, found = chance(key, runs), cell(runs, key)
    return [named(key), "-" if guess is None else f"{100 * guess:.1f}", f"{found.n:,}" if found else "-"]


def _cells(groups: Sequence[Sequence[Run]], key: Key) -> list[str]:
    return [str(cell(own, key) or "-") for own in groups]


def table(runs: Sequence[Run], point: str = "") -> Rows:
    """A row a model (and point), a column a main score, means with 95% intervals."""
    scores = keys(runs)
    head = ["image", "text", "parameters", *[point] * bool(point), "seeds"]
    rows = [[*head, *(heading(key, runs) for key in scores)]]
    for (_, place), own in grouped(runs).items():
        first = own[0]
        facts = [first["image"], first["text"], f"{first['parameters']:,}", *[f"{place:,}"] * bool(point)]
        rows.append([*facts, str(len(own)), *(str(cell(own, key) or "-") for key in scores)])
    return rows if point else rows + differences(runs)


def with_budget(facts: Mapping[str, Any], runs: Sequence[Run]) -> dict[str, Any]:
    """Facts, with the pairs and steps of a run where they do not say them: older files do not."""
    pairs, batch = [run["pairs"] for run in runs], facts.get("batch")
    found = {"pairs seen by a run": _reach(pairs)}
    if isinstance(batch, int):
        found["steps of a run"] = _reach([seen // batch for seen in pairs])
    return {**facts, **{key: value for key, value in found.items() if key not in facts}}


def _reach(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def write_experiment(
    name: str, runs: Sequence[Run], facts: Mapping[str, Any], out: Path, *, point: str = "",
    small: bool = False, more: Mapping[str, Rows] | None = None, remarks: Sequence[str] = (),
) -> list[Path]:  # fmt: skip
    """Write ``NAME.md``, ``.csv`` and ``.json`` to ``out``; their paths.

    Args:
        name: of the experiment, and of the picture ``NAME.png`` that the page shows.
        runs: all of them.
        facts: what they have in common; see ``with_budget``.
        out: folder.
        point: what varies beside the model.
        small: whether the models are thumbnails, which the page says.
        more: tables that the page shows under those of the scores, by title.
        remarks: said after that, and kept for ``climp-bench report``.

    Raises:
        StoreError: a file cannot be written.
    """
    shown, facts = {**tables(runs, point), **(more or {})}, with_budget(facts, runs)
    title = name.replace("-", " ").capitalize()
    text = [f"# {title}", ""]
    for heading_of, rows in shown.items():
        text += [f"## {heading_of}", ""] if len(shown) > 1 else []
        text += [f"| {' | '.join(row)} |" for row in [rows[0], ["---"] * len(rows[0]), *rows[1:]]] + [""]
    for remark in (*[SMALL] * small, *remarks, CUT):
        text += [remark, ""]
    text += [f"![{title}]({name}.png)", "", *(f"- {key}: {value}" for key, value in facts.items())]
    page, sheet = out / f"{name}.md", out / f"{name}.csv"
    write_text(page, "\n".join(text) + "\n", StoreError)
    write_text(sheet, _csv(runs), StoreError)
    return [page, sheet, write_numbers(name, runs, facts, out, small=small, remarks=remarks)]


def write_numbers(
    name: str, runs: Sequence[Run], facts: Mapping[str, Any], out: Path, *,
    small: bool, remarks: Sequence[str],
) -> Path:  # fmt: skip
    """Write ``NAME.json``, which ``results.experiments`` reads if the runs have their records; its path.

    Raises:
        StoreError: it cannot be written.
    """
    content = {
        "schema_version": EXPERIMENT_VERSION, "name": name, "small": small, "facts": dict(facts),
        "remarks": list(remarks), "runs": [dict(run) for run in runs],
    }  # fmt: skip
    path = out / f"{name}.json"
    write_text(path, json.dumps(content, indent=1) + "\n", StoreError)
    return path


def _csv(runs: Sequence[Run]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    head = ["family", "image", "text", "parameters", "image_parameters", "point", "pairs", "seeds"]
    writer.writerow([*head, "task", "metric", "n", "mean", "low", "high", "interval_over"])
    for own in grouped(runs).values():
        for key in keys(runs):
            if found := cell(own, key):
                facts = [own[0][name] for name in head[:-1]]
                writer.writerow([*facts, found.seeds, *key, found.n, found.mean, found.low, found.high,
                                 found.over])  # fmt: skip
    return buffer.getvalue()


def panels(count: int, width: float, height: float, left: float = 0.0) -> tuple[Figure, list[Axes]]:
    """A figure with so many panels, at most ``ACROSS`` in a row.

    Args:
        count: at least 1.
        width, height: of a panel, in inches.
        left: room beside the first column, for labels that all panels share; 0 if each has its own.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    across = min(ACROSS, count)
    down = -(-count // across)
    room = ConstrainedLayoutEngine(h_pad=0.1, w_pad=0.06)
    figure = Figure(figsize=(left + width * across, 0.8 + height * down), layout=room)
    found: list[Axes] = list(figure.subplots(down, across, sharey=left > 0, squeeze=False).flat)
    for axes in found[count:]:
        axes.remove()
    for axes in found[:count]:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=10)
    return figure, found[:count]


def plot_ablation(runs: Sequence[Run], path: Path) -> None:
    """A panel a score, a row a pair of towers, a dot its mean with its interval, a line for chance.

    Raises:
        StoreError: the file cannot be written.
    """
    groups, scores = list(grouped(runs).values()), keys(runs)
    figure, drawn = panels(len(scores), 3.4, 0.9 + 0.27 * len(groups), 1.7)
    images = list(dict.fromkeys(run["image"] for run in runs))
    for axes, key in zip(drawn, scores, strict=True):
        for row, own in enumerate(groups):
            if found := cell(own, key):
                k = images.index(own[0]["image"]) % len(COLOURS)
                low, high = (found.mean if side is None else side for side in (found.low, found.high))
                reach = [[max(0.0, 100 * (found.mean - low))], [max(0.0, 100 * (high - found.mean))]]
                axes.errorbar(
                    [100 * found.mean], [row], xerr=reach, fmt=MARKERS[k], color=COLOURS[k], markersize=6
                )
        if (guess := chance(key, runs)) is not None:
            axes.axvline(100 * guess, color="#888888", linewidth=1, linestyle=":")
        axes.set_title(heading(key, runs), fontsize=11)
    labels = [f"{own[0]['image']}, {own[0]['text']}" for own in groups]
    drawn[0].set_yticks(range(len(groups)), labels)
    drawn[0].set_ylim(len(groups) - 0.5, -0.5)
    figure.supxlabel("percent; dotted: chance", fontsize=11)
    save(figure, path)


def _score(run: Run, key: Key) -> Mapping[str, Any] | None:
    return next((s for s in run["scores"] if (s["task"], s["metric"]) == key), None)
