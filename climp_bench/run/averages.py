"""The mean accuracy over the shifted sets of a suite: a record like any other, with an interval."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from climp_bench.eval.ood import ACCURACIES
from climp_bench.metrics.uncertainty import combine
from climp_bench.results import DatasetRef, Problem, RunRecord
from climp_bench.run.plan import Plan
from climp_bench.suite.schema import Suite, TaskDef

SHIFTED = "average"
WITH_OOD = "average with O"


def averages(plan: Plan, records: Sequence[RunRecord]) -> list[RunRecord]:
    """``mean_acc1`` and ``mean_acc5`` of every model over the sets that a suite calls shifted.

    The plain mean, every set with the same weight. Sets are independent samples, so the interval is made of
    theirs (MOVER). Where a suite has sets out of distribution, a second average counts them as well; a suite
    that names no references has one average, of all its tasks. A model that was not measured on a set has no
    average.
    """
    found: list[RunRecord] = []
    suites = {job.suite.name: job.suite for job in plan.jobs if job.measure == "ood"}
    for suite in suites.values():
        own = [record for record in records if record.suite == suite.name]
        for name, tasks in _groups(suite).items():
            for encoder in plan.encoders:
                mine = [record for record in own if record.model.name == encoder.name]
                found += [mean for m in ACCURACIES if (mean := _mean(mine, name, tasks, m)) is not None]
    return found


def _groups(suite: Suite) -> dict[str, list[TaskDef]]:
    shifted = [task for task in suite.tasks if task.shifted_from]
    both = [task for task in suite.tasks if task.shifted_from or task.ood_reference]
    if not both:
        return {SHIFTED: list(suite.tasks)}
    groups = {SHIFTED: shifted, WITH_OOD: both if len(both) > len(shifted) else []}
    return {name: tasks for name, tasks in groups.items() if tasks}


def _mean(records: Sequence[RunRecord], name: str, tasks: Sequence[TaskDef], metric: str) -> RunRecord | None:
    """The average of one model; None if it was measured on nothing at all."""
    by_task = {record.task: record for record in records if record.metric == metric}
    if not by_task:
        return None
    scored = [by_task.get(task.name) for task in tasks]
    present = [record for record in scored if record is not None and record.value is not None]
    missing = [t.name for t, r in zip(tasks, scored, strict=True) if r is None or r.value is None]
    first = next(iter(by_task.values()))
    prints = "|".join(str(record.dataset.fingerprint) for record in present)
    facts: dict[str, object] = {
        "task": name,
        "metric": f"mean_{metric}",
        "dataset": DatasetRef(
            name=name,
            split=first.dataset.split,
            fingerprint=hashlib.sha256(prints.encode()).hexdigest(),
        ),
        "outcomes_digest": None,
        "extra": {"sets": len(tasks), "tasks": ", ".join(task.name for task in tasks)},
        "n_failed": sum(record.n_failed for record in present),
        "no_interval_reason": None,
    }
    if missing:
        nothing = {"value": None, "interval": None, "n_expected": None, "n_evaluated": 0, "status": "skipped"}
        facts |= {**nothing, "error": Problem(what=f"not measured on {', '.join(missing)}")}
    else:
        values = [record.value for record in present if record.value is not None]
        intervals = [record.interval for record in present if record.interval is not None]
        n = sum(record.n_evaluated for record in present)
        lost = next((record.error for record in present if record.status == "partial"), None)
        facts |= {
            "value": sum(values) / len(values),
            "interval": combine([1 / len(values)] * len(values), values, intervals),
            "n_expected": None if lost else n,
            "n_evaluated": n,
            "status": "partial" if lost else "ok",
            "error": lost,
        }
    kept = {key: value for key, value in first.model_dump().items() if key not in facts}
    return RunRecord.model_validate({**kept, **facts})
