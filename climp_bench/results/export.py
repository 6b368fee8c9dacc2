"""Records chosen by name, and written for other programs: CSV, JSON, Parquet, CLIP_benchmark's files."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from climp_bench.errors import StoreError
from climp_bench.files import write_atomic, write_text
from climp_bench.results import clip_benchmark
from climp_bench.results.bundle import write_bundle
from climp_bench.results.flatten import flatten
from climp_bench.results.schema import RunRecord, Scalar
from climp_bench.results.store import ResultStore


@dataclass(frozen=True)
class Filter:
    """Names with ``*`` and ``?``; a record must match one pattern of each attribute that has any."""

    models: tuple[str, ...] = ()
    suites: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    statuses: tuple[str, ...] = ()

    def choose(self, records: Iterable[RunRecord]) -> list[RunRecord]:
        """The records that match."""
        return [record for record in records if self._matches(record)]

    def _matches(self, record: RunRecord) -> bool:
        asked = (
            (self.models, record.model.name),
            (self.suites, record.suite),
            (self.tasks, record.task),
            (self.metrics, record.metric),
            (self.statuses, record.status),
        )
        return all(not globs or any(fnmatchcase(name, glob) for glob in globs) for globs, name in asked)


def to_csv(records: Sequence[RunRecord], store: ResultStore, path: Path) -> int:
    """One row a record, the columns of ``flatten``; returns the number of rows."""
    rows = flatten(records)
    _write_csv(list(rows[0]) if rows else ["model"], rows, path)
    return len(rows)


def to_json(records: Sequence[RunRecord], store: ResultStore, path: Path) -> int:
    """A list of whole records, provenance included; returns their number."""
    dumped = [record.model_dump(mode="json") | {"key": record.key} for record in records]
    write_text(path, json.dumps(dumped, indent=1, ensure_ascii=False, allow_nan=False) + "\n", StoreError)
    return len(dumped)


def to_parquet(records: Sequence[RunRecord], store: ResultStore, path: Path) -> int:
    """The rows of ``to_csv``, with a type for every column (``pandas.read_parquet`` reads it)."""
    import pandas as pd

    rows = flatten(records)
    frame = pd.DataFrame(rows)
    for name in frame.columns:
        if {type(value) for value in frame[name].dropna()} & {str}:
            frame[name] = (
                frame[name].map(lambda value: None if value is None else str(value)).astype("string")
            )
    content = frame.convert_dtypes().to_parquet(None, index=False)
    write_atomic(path, lambda handle: handle.write(content), StoreError)
    return len(rows)


def to_clip_benchmark(records: Sequence[RunRecord], store: ResultStore, path: Path) -> int:
    """A folder of one JSON a run, as ``clip_benchmark eval`` writes; returns the number of files."""
    runs = clip_benchmark.runs_of(records)
    for run in runs:
        text = json.dumps(run.as_dict(), allow_nan=False) + "\n"
        write_text(path / run.file_name, text, StoreError)
    return len(runs)


def to_clip_benchmark_csv(records: Sequence[RunRecord], store: ResultStore, path: Path) -> int:
    """The CSV that ``clip_benchmark build`` makes of those files; returns the number of rows."""
    columns, rows = clip_benchmark.build_rows(clip_benchmark.runs_of(records))
    _write_csv(columns, rows, path)
    return len(rows)


def to_bundle(records: Sequence[RunRecord], store: ResultStore, path: Path) -> int:
    """The zip of the records' files; returns the number of evaluations."""
    return write_bundle(store, records, path)


@dataclass(frozen=True)
class Format:
    """A way to export.

    Attributes:
        default: where it goes unless told.
        unit: what it counts.
        write: (records, store, path) -> how many.
    """

    default: str
    unit: str
    write: Callable[[Sequence[RunRecord], ResultStore, Path], int]


FORMATS: Mapping[str, Format] = {
    "csv": Format("results.csv", "rows", to_csv),
    "json": Format("results.json", "records", to_json),
    "parquet": Format("results.parquet", "rows", to_parquet),
    "clip_benchmark": Format("clip_benchmark", "files", to_clip_benchmark),
    "clip_benchmark-csv": Format("benchmark.csv", "rows", to_clip_benchmark_csv),
    "bundle": Format("results.zip", "evaluations", to_bundle),
}


def _write_csv(columns: Sequence[str], rows: Sequence[Mapping[str, Scalar]], path: Path) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue(), StoreError)
