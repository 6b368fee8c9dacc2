"""Records as flat rows for tables and CSV: plain dictionaries, the same columns in every row."""

from __future__ import annotations

from collections.abc import Iterable

from climp_bench.results.schema import RunRecord, Scalar

Row = dict[str, Scalar]


def flatten(records: Iterable[RunRecord]) -> list[Row]:
    """One row per record. ``None`` means "does not apply"; extra facts become ``extra.NAME`` columns."""
    listed = list(records)
    extras = sorted({name for record in listed for name in record.extra})
    return [_row(r) | {f"extra.{name}": r.extra.get(name) for name in extras} for r in listed]


def _row(record: RunRecord) -> Row:
    model, data, run = record.model, record.dataset, record.provenance
    height, width = record.resolution or (None, None)
    interval, error = record.interval, record.error
    return {
        "model": model.name,
        "family": model.family,
        "scale": model.scale,
        "suite": record.suite,
        "task": record.task,
        "kind": record.kind,
        "dataset": data.name,
        "split": data.split,
        "protocol": record.protocol,
        "metric": record.metric,
        "value": record.value,
        "low": interval.low if interval else None,
        "high": interval.high if interval else None,
        "level": interval.level if interval else None,
        "interval_method": interval.method if interval else None,
        "no_interval_reason": record.no_interval_reason,
        "n_expected": record.n_expected,
        "n_evaluated": record.n_evaluated,
        "n_failed": record.n_failed,
        "status": record.status,
        "error_what": error.what if error else None,
        "error_where": error.where if error else None,
        "error_remedy": error.remedy if error else None,
        "height_px": height,
        "width_px": width,
        "weights_digest": model.weights_digest,
        "weights_source": model.weights_source,
        "data_revision": data.revision,
        "data_fingerprint": data.fingerprint,
        "device": run.device,
        "gpu": run.gpu,
        "dtype": run.dtype,
        "climp_bench": run.climp_bench,
        "git_commit": run.git_commit,
        "started_at": run.started_at.isoformat(),
        "key": record.key,
    }
