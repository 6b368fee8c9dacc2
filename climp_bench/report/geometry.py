"""The report of `climp-bench geometry`: a table a data set, and a plot of where the models lie."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from climp_bench.errors import StoreError
from climp_bench.files import write_text
from climp_bench.report.page import problems, provenance
from climp_bench.report.plots import COLOURS, MARKERS, save
from climp_bench.report.tables import to_csv
from climp_bench.results import RunRecord

MEANING = {
    "alignment": ("alignment", "mean squared distance of matching pairs; lower is closer"),
    "uniformity_image": ("uniformity, images", "log mean Gaussian potential; lower is more even"),
    "uniformity_text": ("uniformity, texts", "the same among texts"),
    "uniformity_joint": ("uniformity, both", "the same among images and texts together"),
    "modality_gap": ("modality gap", "distance of the mean image from the mean text; 0 to 2"),
    "effective_rank_image": ("effective rank, images", "dimensions in use"),
    "effective_rank_text": ("effective rank, texts", "dimensions in use"),
    "image_hub_skewness@10": (
        "hubs among images, skewness",
        "of their 10-occurrence; 0 is even",
    ),
    "image_hub_robin_hood@10": ("hubs among images, Robin Hood", "share of occurrences to move; 0 is even"),
    "image_hub_anti_hubs@10": ("images never found", "share that is among the 10 nearest of no text"),
    "text_hub_skewness@10": (
        "hubs among texts, skewness",
        "of their 10-occurrence; 0 is even",
    ),
    "text_hub_robin_hood@10": ("hubs among texts, Robin Hood", "share of occurrences to move; 0 is even"),
    "text_hub_anti_hubs@10": ("texts never found", "share that is among the 10 nearest of no image"),
}
"""What each metric is called in tables, and what its value means."""


def rows(records: Sequence[RunRecord], task: str) -> list[list[str]]:
    """The table of one task as text: what is measured, then a cell per model, in order of the records."""
    own = [record for record in records if record.task == task]
    names = list(dict.fromkeys(record.model.name for record in own))
    table = [["", *names]]
    for metric, (label, _) in MEANING.items():
        of_model = {record.model.name: record for record in own if record.metric in (metric, "any")}
        if of_model:
            table.append([label, *(_cell(of_model.get(name)) for name in names)])
    return table


def write_geometry(records: Sequence[RunRecord], suite: str, out: Path) -> list[Path]:
    """Write ``geometry-{suite}.md``, ``.csv`` and ``.png`` to ``out`` and return their paths.

    Raises:
        StoreError: a file cannot be written.
    """
    own = [record for record in records if record.suite == suite and record.kind == "geometry"]
    page, table, picture = (out / f"geometry-{suite}{suffix}" for suffix in (".md", ".csv", ".png"))
    drawn = any(record.value is not None for record in own)
    write_text(page, _page(own, suite, picture.name if drawn else ""), StoreError)
    write_text(table, to_csv(own), StoreError)
    if not drawn:
        return [page, table]
    _plot(own, picture)
    return [page, table, picture]


def _cell(record: RunRecord | None) -> str:
    if record is None:
        return "-"
    if record.value is None:
        return record.status
    value = f"{record.value:.3f}"
    if record.interval is None:
        return value
    return f"{value} [{record.interval.low:.3f}, {record.interval.high:.3f}]"


def _page(records: Sequence[RunRecord], suite: str, picture: str) -> str:
    parts = [f"# geometry: {suite}\n"]
    if picture:
        parts.append(f"![Alignment and uniformity, and hubs, of each model]({picture})\n")
    for task in dict.fromkeys(record.task for record in records):
        counts = sorted({r.n_evaluated for r in records if r.task == task and r.value is not None})
        sampled = {r.extra.get("sampled_images") for r in records if r.task == task} - {None}
        how = "subsets of" if sampled else "all"
        parts.append(f"## {task} ({how} {', '.join(f'{n:,}' for n in counts)} images)\n")
        head, *lines = rows(records, task)
        marks = ["---", *["--:"] * (len(head) - 1)]
        parts.append("\n".join("| " + " | ".join(line) + " |" for line in (head, marks, *lines)) + "\n")
    parts.append("## What the numbers mean\n")
    parts += [f"- **{label}**: {meaning}." for label, meaning in MEANING.values()]
    parts.append(
        "\nAn interval in brackets is 95%: of alignment a bootstrap over images, of a sampled run the spread "
        "of its subsets. Values without one are exact on the set.\n"
    )
    parts += [problems(records), "## How these numbers were made\n", provenance(records)]
    return "\n".join(part for part in parts if part)


def _plot(records: Sequence[RunRecord], path: Path) -> None:
    """Left: alignment against uniformity, both better towards the lower left. Right: hubs among images."""
    from matplotlib.figure import Figure

    tasks = list(dict.fromkeys(r.task for r in records if r.value is not None))
    models = list(dict.fromkeys(r.model.name for r in records))
    value = {(r.task, r.model.name, r.metric): r.value for r in records}
    figure = Figure(figsize=(9, 0.6 + 3.2 * len(tasks)), layout="constrained")
    panels = figure.subplots(len(tasks), 2, squeeze=False)
    for (place, bars), task in zip(panels, tasks, strict=True):
        for m, model in enumerate(models):
            x, y = (value.get((task, model, name)) for name in ("alignment", "uniformity_joint"))
            colour = COLOURS[m % len(COLOURS)]
            if x is not None and y is not None:
                label = model if task == tasks[0] else None
                place.plot(x, y, MARKERS[m % len(MARKERS)], color=colour, label=label)
            hubs = value.get((task, model, "image_hub_skewness@10"))
            if hubs is not None:
                bars.barh(m, hubs, color=colour)
                bars.annotate(
                    f"{hubs:.2f}", (hubs, m), xytext=(3, 0), textcoords="offset points", va="center"
                )
        place.set(
            title=task, xlabel="alignment (lower: pairs are closer)", ylabel="uniformity, both (lower: even)"
        )
        bars.set_yticks(range(len(models)), models)
        bars.invert_yaxis()
        bars.margins(x=0.15)
        bars.set(title=task, xlabel="10-occurrence skewness, images (0: no hubs)")
        for axes in (place, bars):
            axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=min(5, len(models)), fontsize=8, frameon=False)
    save(figure, path)
