"""Tables of zero-shot scores, shifts and sizes of the input, from records alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import get_args

from climp_bench.metrics.uncertainty import combine
from climp_bench.report.document import NOT_TESTED, Row, Shown, Table
from climp_bench.report.ood import DETECTION, DROP, SECTIONS
from climp_bench.report.pool import PERCENT, POINTS, Pool, Unit, by_suite
from climp_bench.report.reference import Figure, figures_of_mean
from climp_bench.report.tables import Line, headline_metrics
from climp_bench.results import UNKNOWN_KIND, RunRecord
from climp_bench.specs import TaskKind

AVERAGED = ("acc1", "acc5", "mean_average_precision", "image_retrieval_recall@5", "text_retrieval_recall@5")
_AVERAGE = (
    "Averages count every task once; they take only models that were measured on all of the tasks. Their "
    "intervals treat tasks as independent samples (MOVER)."
)
Figures = Sequence[Figure] | None


def scored(records: Sequence[RunRecord]) -> list[RunRecord]:
    """The records of tasks themselves."""
    return [r for r in records if r.kind in (*get_args(TaskKind), UNKNOWN_KIND)]


def swept(records: Sequence[RunRecord]) -> bool:
    """Whether some model was scored on some task at several sizes."""
    sizes: dict[tuple[str, str, str], set[tuple[int, int] | None]] = {}
    for r in records:
        sizes.setdefault((r.task, r.model.name, r.provenance.dtype), set()).add(r.resolution)
    return any(len(found) > 1 for found in sizes.values())


def zeroshot_tables(records: Sequence[RunRecord], figures: Figures = None) -> Iterator[Table]:
    """Two tables a suite: the main scores with their averages, and every metric.

    Of a suite that was swept over sizes, those that another command than ``resolution`` measured; which size
    of a sweep is a model's own the store does not say.
    """
    for suite, protocol, group in by_suite(scored(records)):
        if swept(group):
            group = [r for r in group if "resolution" not in r.provenance.argv]
            if not group or swept(group):
                continue
        pool = Pool(group, figures=figures)
        several = len({p for s, p, _ in by_suite(scored(records)) if s == suite}) > 1
        key = f"zeroshot-{suite}" + (f"-{protocol}" if several else "")
        notes = (f"Protocol {protocol}; n: samples behind a score.",)
        main = [row for task in pool.tasks for row in _rows(pool, task, headline_metrics(pool.of_task(task)))]
        averages = list(_averages(pool, suite))
        yield Table(
            key, f"Zero-shot: {suite}", ("task", "metric"), pool.columns, (*main, *averages), "percent",
            notes + ((_AVERAGE,) if averages else ()),
        )  # fmt: skip
        full = tuple(row for task in pool.tasks for row in _rows(pool, task, pool.metrics(task)))
        if len(full) > len(main):
            title = f"Zero-shot: {suite}, every metric"
            yield Table(
                f"{key}-all", title, ("task", "metric"), pool.columns, full, "percent", notes, main=False
            )


def label(metric: str) -> str:
    """A metric in the words of the field."""
    return Line("", metric, None, ()).label


def _rows(pool: Pool, task: str, metrics: Sequence[str]) -> Iterator[Row]:
    for metric in metrics:
        yield pool.row((task, label(metric)), task, metric)


def _averages(pool: Pool, suite: str) -> Iterator[Row]:
    for metric in AVERAGED:
        tasks = [
            t for t in pool.tasks if any(r.metric == metric and r.value is not None for r in pool.of_task(t))
        ]
        if len(tasks) > 1:
            cells = tuple(_mean(pool, suite, metric, tasks, column) for column in pool.columns)
            yield Row((f"average of {len(tasks)} tasks", label(metric)), cells)


def _mean(pool: Pool, suite: str, metric: str, tasks: Sequence[str], column: str) -> Shown:
    found = [pool.at(task, metric, column) for task in tasks]
    whole = [r for r in found if r is not None and r.value is not None and r.interval is not None]
    if len(whole) < len(tasks):
        return Shown()
    values = [r.value for r in whole if r.value is not None]
    share = 1 / len(whole)
    intervals = [r.interval for r in whole if r.interval is not None]
    around = combine([share] * len(whole), values, intervals)
    low, high, value = (PERCENT.scale * x for x in (around.low, around.high, share * sum(values)))
    bounds = f"[{PERCENT.text(low)}, {PERCENT.text(high)}]"
    published = figures_of_mean(suite, whole[0], metric, pool.tasks, pool.figures)
    return Shown(PERCENT.text(value), value, low, high, bounds, "", tuple(whole), published)


def resolution_tables(records: Sequence[RunRecord], figures: Figures = None) -> Iterator[Table]:
    """A table for every suite that was scored at several sizes of the input: task, metric, size."""
    for suite, protocol, group in by_suite(scored(records)):
        if not swept(group):
            continue
        pool = Pool(group, by_size=True, figures=figures)
        rows = tuple(
            pool.row((task, label(metric), f"{size} px"), task, metric, size=size)
            for task in pool.tasks
            for metric in headline_metrics(pool.of_task(task))
            for size in pool.sizes
        )
        notes = (
            f"Protocol {protocol}; size: longer side of the input in pixels. Models were not retrained.",
        )
        heads = ("task", "metric", "size")
        yield Table(
            f"resolution-{suite}", f"Size of the input: {suite}", heads, pool.columns, rows, "percent", notes
        )


def ood_tables(records: Sequence[RunRecord], figures: Figures = None) -> Iterator[Table]:
    """Accuracy under a shift, what was lost to it, and detection of the unknown; a table of each a suite."""
    notes = {
        "accuracy": "Average: the plain mean over shifted sets, which are independent samples.",
        "drop": "Points below the reference on the classes that both have; below zero is a gain.",
        "detection": f"In FPR95 less is better. {NOT_TESTED}",
    }
    for suite, protocol, group in by_suite([r for r in records if r.kind == "ood"]):
        pool = Pool(group, figures=figures)
        for section, (_, metrics) in SECTIONS.items():
            rows = tuple(_shifts(pool, suite, metrics, section))
            if rows:
                title = f"Shifts: {suite}, {section}"
                unit = POINTS.name if metrics is DROP else "percent"
                told = (notes[section], f"Protocol {protocol}.")
                yield Table(
                    f"ood-{suite}-{section}", title, ("set", "metric"), pool.columns, rows, unit, told,
                    ranked=metrics is not DETECTION,
                )  # fmt: skip


def _shifts(pool: Pool, suite: str, metrics: dict[str, str], section: str) -> Iterator[Row]:
    unit: Unit = POINTS if section == "drop" else PERCENT
    for task in pool.tasks:
        measured = {r.metric for r in pool.of_task(task)}
        if section == "accuracy" and measured == {"any"}:
            yield pool.row((task, "any"), task, "any", unit)
        for metric, words in metrics.items():
            if metric in measured:
                row = pool.row((task, words), task, metric, unit)
                yield _with_means(row, suite, metric) if metric.startswith("mean_") else row


def _with_means(row: Row, suite: str, metric: str) -> Row:
    """The row of an average with the published averages of its suite."""
    cells = []
    for cell in row.cells:
        record = cell.records[0] if cell.records else None
        tasks = str(record.extra.get("tasks", "")).split(", ") if record else []
        wanted = metric.removeprefix("mean_")
        found = figures_of_mean(suite, record, wanted, tasks) if record and cell.value is not None else ()
        cells.append(Shown(**{**vars(cell), "published": found}))
    return Row(row.labels, tuple(cells), row.n, row.chance)
