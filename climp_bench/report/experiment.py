"""Reports of experiments over trained models: ``ablation`` (CLIMP's table 8) and ``scaling`` (its table 7 and
figure 4)."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from climp_bench.errors import StoreError
from climp_bench.files import write_text
from climp_bench.metrics.seeds import t_interval
from climp_bench.report.plots import COLOURS, MARKERS, save
from climp_bench.report.tables import HEADLINE, LABELS
from climp_bench.results.experiments import EXPERIMENT_VERSION

SMALL = (
    "These are thumbnails of the towers, trained for seconds on drawings: this shows that the experiment "
    "runs, and nothing about the paper's claim."
)
OVER = (
    "Means over seeds with 95% t intervals, of training; where seeds tell nothing (one, or all alike), of "
    "samples. Scores in percent; recall is on captions of scenes that no training shows."
)
Run = Mapping[str, Any]
"""What ``run.experiment.run_trials`` returns of each trial."""
Key = tuple[str, str]
"""A task and a metric."""


@dataclass(frozen=True)
class Cell:
    """A score of one model: mean over seeds, in [0, 1].

    Attributes:
        mean, low, high: the last two are a score's own interval where seeds tell nothing; None for none.
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
    task, metric = key
    side, _, k = metric.partition("_retrieval_recall@")
    name = f"{task} {side} R@{k}" if k else f"{task} {LABELS.get(metric, metric)}"
    chance = next((s["chance"] for r in runs if (s := _score(r, key)) and s["chance"] is not None), None)
    return name if chance is None else f"{name} (chance {100 * chance:.1f})"


def cell(runs: Sequence[Run], key: Key) -> Cell | None:
    """A score over runs with different seeds; None where no run has it."""
    scores = [score for run in runs if (score := _score(run, key))]
    if not scores:
        return None
    values = [score["value"] for score in scores]
    mean, interval = sum(values) / len(values), t_interval(values)
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


def differences(runs: Sequence[Run]) -> list[list[str]]:
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


def table(runs: Sequence[Run], point: str = "") -> list[list[str]]:
    """Head and rows: a row a model (and point), a column a main score, means with 95% intervals."""
    scores = keys(runs)
    head = ["image", "text", "parameters", *[point] * bool(point), "seeds"]
    rows = [[*head, *(heading(key, runs) for key in scores)]]
    for (_, place), own in grouped(runs).items():
        first = own[0]
        facts = [first["image"], first["text"], f"{first['parameters']:,}", *[f"{place:,}"] * bool(point)]
        rows.append([*facts, str(len(own)), *(str(cell(own, key) or "-") for key in scores)])
    return rows if point else rows + differences(runs)


def write_experiment(
    name: str, runs: Sequence[Run], facts: Mapping[str, Any], out: Path, *,
    point: str = "", small: bool = False, lead: Sequence[str] = (), remarks: Sequence[str] = (),
) -> list[Path]:  # fmt: skip
    """Write ``NAME.md``, ``.csv`` and ``.json`` to ``out``; their paths.

    Args:
        name: of the experiment, and of the picture ``NAME.png`` that the page shows.
        runs: all of them.
        facts: what they have in common.
        out: folder.
        point: what varies beside the model.
        small: whether the models are thumbnails, which the page says.
        lead: what was found, in sentences under the table.
        remarks: said after that, and kept for ``climp-bench report``.

    Raises:
        StoreError: a file cannot be written.
    """
    rows = table(runs, point)
    lines = [f"| {' | '.join(row)} |" for row in [rows[0], ["---"] * len(rows[0]), *rows[1:]]]
    said = [line for remark in (*lead, *[SMALL] * small, *remarks) for line in ("", remark)]
    settings = [f"- {key}: {value}" for key, value in facts.items()]
    title = name.replace("-", " ").capitalize()
    text = [f"# {title}", "", *lines, *said, "", f"![{title}]({name}.png)", "", *settings]
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


def plot_ablation(runs: Sequence[Run], path: Path) -> None:
    """A panel a score, a row a pair of towers, a dot its mean with its interval.

    Raises:
        StoreError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    groups, scores = list(grouped(runs).values()), keys(runs)
    figure = Figure(figsize=(2.2 + 2.4 * len(scores), 1.2 + 0.35 * len(groups)), layout="constrained")
    panels = figure.subplots(1, len(scores), sharey=True, squeeze=False)[0]
    images = list(dict.fromkeys(run["image"] for run in runs))
    for axes, key in zip(panels, scores, strict=True):
        for row, own in enumerate(groups):
            if found := cell(own, key):
                k = images.index(own[0]["image"])
                low, high = (found.mean if side is None else side for side in (found.low, found.high))
                reach = [[100 * (found.mean - low)], [100 * (high - found.mean)]]
                axes.errorbar(
                    [100 * found.mean], [row], xerr=reach, fmt=MARKERS[k], color=COLOURS[k], markersize=5
                )
        axes.set_title(heading(key, runs).replace(" (", "\n("), fontsize=8)
        axes.set_xlabel("percent", fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(groups)), [f"{g[0]['image']}, {g[0]['text']}" for g in groups], fontsize=8)
    panels[0].set_ylim(len(groups) - 0.5, -0.5)
    save(figure, path)


def _score(run: Run, key: Key) -> Mapping[str, Any] | None:
    return next((s for s in run["scores"] if (s["task"], s["metric"]) == key), None)
