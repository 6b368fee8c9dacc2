"""The report of `climp-bench ood`: accuracy by set, what was lost, and how well the unknown is detected."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from climp_bench.errors import StoreError
from climp_bench.files import write_text
from climp_bench.report import reference
from climp_bench.report.page import problems, provenance
from climp_bench.report.plots import dot_plot
from climp_bench.report.tables import Cell, Line, ScoreTable, to_csv
from climp_bench.results import RunRecord

ACCURACY = {"acc1": "acc@1", "acc5": "acc@5", "mean_acc1": "acc@1", "mean_acc5": "acc@5"}
DROP = {"acc1_drop": "acc@1", "acc5_drop": "acc@5"}
_CONFIDENCE = {"msp": "softmax", "max_logit": "max logit"}
_MEASURE = {"auroc": "AUROC", "aupr_in": "AUPR, in", "aupr_out": "AUPR, out", "fpr95": "FPR95"}
DETECTION = {
    f"ood_{m}_{c}": f"{label}, {how}" for c, how in _CONFIDENCE.items() for m, label in _MEASURE.items()
}
SECTIONS = {
    "accuracy": ("percent of images", ACCURACY),
    "drop": ("points below the reference", DROP),
    "detection": ("percent", DETECTION),
}
"""Title of each table: its unit, and its metrics with what they are called."""


def rows(records: Sequence[RunRecord], section: str) -> list[list[str]]:
    """A table of ``SECTIONS`` as text: set, metric, n, then a cell a model; the head alone if it is empty."""
    models = list(dict.fromkeys(record.model.name for record in records))
    table = [["set", "metric", "n", *models]]
    for line, label in _lines(records, section):
        cells = [f"{cell.percent} {cell.bounds}".strip() for cell in line.cells]
        table.append([line.task, label, line.n, *cells])
    return table


def write_ood(records: Sequence[RunRecord], suite: str, out: Path) -> list[Path]:
    """Write ``ood-{suite}.md``, ``.csv`` and ``.png`` to ``out`` and return their paths.

    Raises:
        StoreError: a file cannot be written.
    """
    own = [record for record in records if record.suite == suite]
    page, table, picture = (out / f"ood-{suite}{suffix}" for suffix in (".md", ".csv", ".png"))
    shown = [
        Line(line.task, label, None, line.cells)
        for section in ("accuracy", "detection")
        for line, label in _lines(own, section)
        if label.startswith(("acc@1", "AUROC")) and any(cell.ok for cell in line.cells)
    ]
    write_text(page, _page(own, suite, picture.name if shown else ""), StoreError)
    write_text(table, to_csv(own), StoreError)
    if not shown:
        return [page, table]
    models = tuple(dict.fromkeys(record.model.name for record in own))
    dot_plot(ScoreTable(suite, own[0].protocol, models, tuple(shown)), picture)
    return [page, table, picture]


def _lines(records: Sequence[RunRecord], section: str) -> list[tuple[Line, str]]:
    models = list(dict.fromkeys(record.model.name for record in records))
    found = []
    for task in dict.fromkeys(record.task for record in records):
        own = [record for record in records if record.task == task]
        metrics = [m for m in SECTIONS[section][1] if any(r.metric == m for r in own)]
        if not metrics and section == "accuracy":
            metrics = ["any"]
        for metric in metrics:
            cells = tuple(Cell(_one(own, model, metric)) for model in models)
            label = SECTIONS[section][1].get(metric, metric)
            found.append((Line(task, metric, None, cells), label))
    return found


def _one(records: Sequence[RunRecord], model: str, metric: str) -> RunRecord | None:
    mine = [record for record in records if record.model.name == model]
    exact = next((record for record in mine if record.metric == metric), None)
    return exact or next((record for record in mine if record.status == "failed"), None)


def _page(records: Sequence[RunRecord], suite: str, picture: str) -> str:
    protocol = records[0].protocol if records else ""
    parts = [
        f"# ood: {suite}\n",
        f"Protocol `{protocol}`. In brackets 95% intervals; n is the number of images.\n",
    ]
    if picture:
        parts.append(f"![Accuracy of each set, and AUROC of detection, with 95% intervals]({picture})\n")
    parts += ["## Accuracy\n", _markdown(rows(records, "accuracy")), _averaged(records)]
    if len(drop := rows(records, "drop")) > 1:
        parts += ["## Lost to the shift\n", _markdown(drop), _pairs(records, "acc1_drop", _DROP_TEXT)]
    if len(detection := rows(records, "detection")) > 1:
        parts += ["## Out-of-distribution detection\n", _markdown(detection)]
        parts.append(_pairs(records, "ood_auroc_max_logit", _DETECTION_TEXT))
        parts.append(_MEANING)
    parts += [
        reference.section(records),
        problems(records),
        "## How these numbers were made\n",
        provenance(records),
    ]
    return "\n".join(part for part in parts if part)


_DROP_TEXT = "{task}: points below {reference} (n = {reference_n:,}) on its {classes} classes."
_DETECTION_TEXT = (
    "{task}: {in:,} images of {reference} (in) against its own {out:,} (out); {classes} classes."
)
_MEANING = """\
The classifier is the one of the reference's classes. Confidence is the maximum softmax probability at the
model's logit scale (Hendrycks and Gimpel 2017; zero-shot: Ming et al. 2022) or the maximum logit (Hendrycks
et al. 2022), as for ImageNet-O (Hendrycks et al. 2021). AUROC: chance that an image of a known class is the
more confident one, ties half. AUPR: average precision with "in" or "out" as the positive class; a useless
confidence gives that class's share of the images. FPR95: share of "out" accepted where 95% of "in" are; lower
is better. Intervals: a bootstrap that resamples both sets, each by itself.
"""


def _averaged(records: Sequence[RunRecord]) -> str:
    lines = {
        "- {task}: the plain mean over {sets} independent sets ({tasks}).".format(
            **{"task": record.task, "sets": record.extra["sets"], "tasks": record.extra["tasks"]}
        )
        for record in records
        if record.metric == "mean_acc1"
    }
    return "\n".join(sorted(lines)) + "\n" if lines else ""


def _pairs(records: Sequence[RunRecord], metric: str, text: str) -> str:
    lines = [
        "- " + text.format(**{"task": record.task, **record.extra})
        for record in records
        if record.metric == metric and record.value is not None
    ]
    return "\n".join(dict.fromkeys(lines)) + "\n" if lines else ""


def _markdown(table: Sequence[Sequence[str]]) -> str:
    head, *lines = table
    marks = ["---", "---", *["--:"] * (len(head) - 2)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, marks, *lines)) + "\n"
