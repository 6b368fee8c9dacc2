"""What was not measured, and why."""

from __future__ import annotations

from collections.abc import Sequence

from climp_bench.report.score_tables import label
from climp_bench.results import RunRecord


def missing(records: Sequence[RunRecord]) -> list[tuple[str, ...]]:
    """What has no score, or one on fewer samples, and why: a row a task and reason, the head first.

    Without the strata of captions that are empty: the table of lengths says so.
    """
    faults: dict[tuple[str, str, str], tuple[dict[str, None], dict[str, None]]] = {}
    for r in records:
        empty = r.kind == "dense" and r.status == "skipped" and not r.n_evaluated
        if r.error is not None and not empty:
            place = f" ({r.error.where})" if r.error.where else ""
            why = f"{r.error.what.rstrip('.')}{place}. {r.error.remedy}"
            metrics, models = faults.setdefault((f"{r.suite}/{r.task}", r.status, why.strip()), ({}, {}))
            metrics["all" if r.metric == "any" else label(r.metric)] = None
            models[r.model.name] = None
    rows = [
        (task, ", ".join(metrics), status, why, ", ".join(models))
        for (task, status, why), (metrics, models) in faults.items()
    ]
    return [("task", "metric", "status", "why", "models"), *rows] if rows else []
