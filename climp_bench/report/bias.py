"""The report of ``climp-bench bias``: a table (CLIMP's table 14) and curves of the loss (its figure 6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from pathlib import Path
from typing import Any

from climp_bench.errors import StoreError
from climp_bench.files import write_text
from climp_bench.metrics.seeds import t_interval
from climp_bench.report.experiment import write_numbers
from climp_bench.report.plots import COLOURS, save

DRAWINGS = (
    "These are drawings, not the paper's CIFAR-10: this shows that the experiment runs, and nothing about "
    "the paper's claim."
)
NOTE = (
    "Means over seeds; intervals are Student's over seeds, 95%: they describe training, not the choice of "
    "test images, and are cut where no loss or accuracy can be. The permuted images have their patches in "
    "one fixed other order, the same for all images and seeds."
)
Run = Mapping[str, Any]
"""The fields of ``train.bias.BiasRun``, with its accuracy."""
HEAD = (
    "tower",
    "parameters",
    "patches",
    "seeds",
    "training loss, last epoch",
    "test accuracy",
    "n of the test",
)


def rows(runs: Sequence[Run]) -> list[list[str]]:
    """A row a tower and order of patches, means over seeds with 95% intervals; then what the order costs.

    The cost is the difference between runs of one seed, natural minus permuted.
    """
    table = []
    for tower in dict.fromkeys(run["tower"] for run in runs):
        own = [run for run in runs if run["tower"] == tower]
        for order in dict.fromkeys(run["order"] for run in own):
            here = [run for run in own if run["order"] == order]
            table.append([
                tower, f"{here[0]['parameters']:,}", order, str(len(here)),
                _mean([run["losses"][-1] for run in here], "{:.3f}", 0.0),
                _mean([100 * run["accuracy"] for run in here], "{:.1f}", 0.0, 100.0), f"{here[0]['n']:,}",
            ])  # fmt: skip
        losses, accuracies = (
            [
                _of(own, "natural", s, key) - _of(own, "permuted", s, key)
                for s in sorted({r["seed"] for r in own})
            ]
            for key in ("loss", "accuracy")
        )
        difference = [tower, "", "natural - permuted", str(len(losses))]
        percent = [100 * value for value in accuracies]
        table.append([*difference, _mean(losses, "{:+.3f}"), _mean(percent, "{:+.1f}"), ""])
    return table


def write_bias(
    runs: Sequence[Run], facts: Mapping[str, Any], out: Path, *, small: bool = False
) -> list[Path]:
    """Write ``bias.md``, ``bias.json`` and ``bias.png`` to ``out`` and return their paths.

    Args:
        runs: all of them.
        facts: what the runs have in common, for the page.
        small: whether the data are the embedded drawings, which the page says.

    Raises:
        StoreError: a file cannot be written.
    """
    page, picture = out / "bias.md", out / "bias.png"
    lines = [f"| {' | '.join(row)} |" for row in [list(HEAD), ["---"] * len(HEAD), *rows(runs)]]
    settings = [f"- {key}: {value}" for key, value in facts.items()]
    said = [line for remark in (*[DRAWINGS] * small, NOTE) for line in (remark, "")]
    text = ["# Inductive bias", "", *lines, "", *said, f"![Loss by epoch]({picture.name})", "", *settings]
    write_text(page, "\n".join(text) + "\n", StoreError)
    numbers = write_numbers("bias", runs, facts, out, small=small, remarks=[NOTE])
    _plot(runs, picture)
    return [page, numbers, picture]


def _of(runs: Sequence[Run], order: str, seed: int, key: str) -> float:
    (run,) = [run for run in runs if run["order"] == order and run["seed"] == seed]
    return float(run["losses"][-1] if key == "loss" else run["accuracy"])


def _mean(values: Sequence[float], form: str, least: float = -inf, most: float = inf) -> str:
    """The mean with its interval, cut at what is possible."""
    interval = t_interval(values, least=least, most=most)
    mean = form.format(sum(values) / len(values))
    if interval is None:
        return mean
    return f"{mean} [{form.format(interval.low)}, {form.format(interval.high)}]"


def _plot(runs: Sequence[Run], path: Path) -> None:
    """One panel a tower, one line a seed; dashes for permuted images."""
    from matplotlib.figure import Figure

    towers = list(dict.fromkeys(run["tower"] for run in runs))
    figure = Figure(figsize=(4.4 * len(towers), 3.6), layout="constrained")
    panels = figure.subplots(1, len(towers), sharey=True, squeeze=False)[0]
    orders = list(dict.fromkeys(run["order"] for run in runs))
    for axes, tower in zip(panels, towers, strict=True):
        for run in (run for run in runs if run["tower"] == tower):
            k = orders.index(run["order"])
            axes.plot(
                range(1, len(run["losses"]) + 1), run["losses"], color=COLOURS[k], linestyle=("-", "--")[k],
                marker="os"[k], markersize=3, linewidth=1, label=run["order"] if run["seed"] == 0 else None,
            )  # fmt: skip
        axes.set_title(f"{tower}", fontsize=10)
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("training loss, nats")
    panels[-1].legend(frameon=False, fontsize=8)
    save(figure, path)
