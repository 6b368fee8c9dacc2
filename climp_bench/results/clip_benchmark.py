"""CLIP_benchmark's result files: one JSON a run, and the CSV that its ``build`` makes of them.

Format: CLIP_benchmark ``cli.py`` (``run`` writes ``dataset, model, pretrained, task, metrics, language``;
``main_build`` flattens ``metrics`` and adds ``model_fullname``), commit 48de38c.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from climp_bench.errors import StoreError
from climp_bench.results.provenance import collect
from climp_bench.results.schema import (
    DatasetRef,
    ModelRef,
    Problem,
    RunRecord,
    Scalar,
    slot_key,
)

KEYS = ("dataset", "model", "pretrained", "task", "metrics", "language")
PROTOCOL = "clip_benchmark"
SUITE = "imported"
_TASKS = {
    "classification": "zeroshot_classification",
    "multilabel": "zeroshot_classification",
    "retrieval": "zeroshot_retrieval",
}
_METRIC = re.compile(
    r"acc[15]|mean_per_class_recall|mean_average_precision|(image|text)_retrieval_recall@[0-9]+"
)


@dataclass(frozen=True)
class Run:
    """One evaluation as CLIP_benchmark would have written it; the fields are its keys, ``KEYS``."""

    dataset: str
    model: str
    pretrained: str
    task: str
    metrics: Mapping[str, float]
    language: str

    def as_dict(self) -> dict[str, Any]:
        """The content of its JSON file, keys in CLIP_benchmark's order."""
        return {key: getattr(self, key) for key in KEYS} | {"metrics": dict(self.metrics)}

    def as_row(self) -> dict[str, Scalar]:
        """Its line of the CSV that ``clip_benchmark build`` makes."""
        facts: dict[str, Scalar] = {key: getattr(self, key) for key in KEYS if key != "metrics"}
        return {**self.metrics, **facts, "model_fullname": f"{self.model} {self.pretrained}"}

    @property
    def file_name(self) -> str:
        """CLIP_benchmark's default, ``{dataset}_{pretrained}_{model}_{language}_{task}.json``."""
        words = (self.dataset, self.pretrained, self.model, self.language, self.task)
        return re.sub(r"[^A-Za-z0-9._@+-]", "_", "_".join(words)) + ".json"


def runs_of(records: Iterable[RunRecord]) -> list[Run]:
    """The evaluations among ``records`` that CLIP_benchmark knows: zero-shot classification and retrieval.

    What failed and what it has no name for is left out; so are scores that are undefined. ``model`` and
    ``pretrained`` are ours split in two: ``climp-m1`` and ``micro``, or an OpenCLIP model's own. Where two
    runs would be one (several sizes, say), what tells them apart is added to ``pretrained``.
    """
    groups: dict[str, list[RunRecord]] = {}
    for record in records:
        if record.kind in _TASKS and record.value is not None and _METRIC.fullmatch(record.metric):
            groups.setdefault(slot_key(record), []).append(record)
    same: dict[tuple[str, ...], list[RunRecord]] = {}
    for group in groups.values():
        same.setdefault(_identity(group[0]), []).append(group[0])
    runs = []
    for group in groups.values():
        first = group[0]
        dataset, model, pretrained, task, language = _identity(first)
        apart = _differences(first, same[_identity(first)])
        metrics = {r.metric: r.value for r in group if r.value is not None}
        runs.append(Run(dataset, model, "_".join([pretrained, *apart]), task, metrics, language))
    return runs


def _identity(record: RunRecord) -> tuple[str, str, str, str, str]:
    name = record.model.name
    if name.startswith("open_clip:") and "/" in name:
        model, pretrained = name.removeprefix("open_clip:").split("/", 1)
    elif record.model.scale:
        model, pretrained = record.model.family, record.model.scale
    else:
        model, pretrained = name, record.model.weights_source or "unknown"
    language = str(record.extra.get("language", "en"))
    return record.dataset.name, model, pretrained, _TASKS[record.kind], language


def _differences(record: RunRecord, alike: Sequence[RunRecord]) -> list[str]:
    """What tells ``record`` from others of the same identity, as words."""

    def traits(one: RunRecord) -> dict[str, str]:
        side = f"{one.resolution[0]}x{one.resolution[1]}px" if one.resolution else "native"
        return {
            "size": side,
            "dtype": one.provenance.dtype,
            "protocol": one.protocol,
            "suite": one.suite,
            "task": one.task,
        }

    own = traits(record)
    return [own[name] for name in own if len({traits(one)[name] for one in alike}) > 1]


def build_rows(runs: Sequence[Run]) -> tuple[list[str], list[dict[str, Scalar]]]:
    """Columns and rows of ``clip_benchmark build``. It writes columns in no order; here they have one."""
    metrics = sorted({metric for run in runs for metric in run.metrics})
    facts = [key for key in KEYS if key != "metrics"]
    return [*facts, "model_fullname", *metrics], [run.as_row() for run in runs]


def read_run(path: Path) -> Run:
    """A JSON file that CLIP_benchmark wrote. ``NaN``, which it writes for undefined scores, is left out.

    Raises:
        StoreError: it cannot be read, or is not such a file (more keys than ``KEYS`` are allowed).
    """
    remedy = f"CLIP_benchmark writes one object with the keys {', '.join(KEYS)}."
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        missing = [key for key in KEYS if key not in content]
        if missing:
            raise ValueError(f"no {missing[0]!r}")
        names = {key: content[key] for key in KEYS if key != "metrics"}
        wrong = [key for key, value in names.items() if not isinstance(value, str) or not value]
        if wrong:
            raise ValueError(f"{wrong[0]!r} is no text")
        numbers = {str(name): float(value) for name, value in content["metrics"].items()}
    except OSError as error:
        raise StoreError(f"cannot be read ({error.strerror})", where=str(path)) from error
    except (ValueError, TypeError, AttributeError) as error:
        reason = f"is not a result of CLIP_benchmark ({error})"
        raise StoreError(reason, where=str(path), remedy=remedy) from error
    metrics = {name: value for name, value in numbers.items() if math.isfinite(value)}
    return Run(**names, metrics=metrics)


def import_run(run: Run, n: int, path: Path, suite: str = SUITE) -> list[RunRecord]:
    """A run of CLIP_benchmark as records. No interval: the file keeps neither outcomes nor a sample count.

    Args:
        run: from ``read_run``.
        n: images of the data set, from elsewhere: the file does not say.
        path: the file, whose name and time the records keep.
        suite: what the records are listed under.

    Raises:
        StoreError: the task is none of ours, or a score lies outside [0, 1].
    """
    kinds = {"zeroshot_retrieval": "retrieval", "zeroshot_classification": "classification"}
    if run.task not in kinds:
        remedy = f"What can be imported: {', '.join(kinds)}."
        raise StoreError(f"task {run.task!r} cannot be imported", where=str(path), remedy=remedy)
    if not run.metrics:
        raise StoreError("has no score", where=str(path))
    kind = "multilabel" if "mean_average_precision" in run.metrics else kinds[run.task]
    name, dataset = f"open_clip:{run.model}/{run.pretrained}", run.dataset.removeprefix("wds/")
    provenance = collect(device="cpu", dtype="unknown", seed=0, argv=(), started_at=_time(path)).model_copy(
        update={
            "device": "unknown",
            "gpu": "unknown",
            "cpu": "unknown",
            "packages": {},
            "platform": "unknown",
        }
    )
    records = []
    for metric, value in run.metrics.items():
        if not 0 <= value <= 1:
            raise StoreError(f"{metric} is {value}, outside [0, 1]", where=str(path))
        records.append(
            RunRecord(
                model=ModelRef(name=name, family=name, weights_source="CLIP_benchmark"),
                suite=suite,
                task=dataset if run.language == "en" else f"{dataset}-{run.language}",
                dataset=DatasetRef(name=dataset, split="test"),
                protocol=PROTOCOL,
                kind=kind,
                metric=metric,
                value=value,
                no_interval_reason="imported: CLIP_benchmark keeps no outcomes and no sample count",
                n_expected=n,
                n_evaluated=n,
                status="partial",
                error=Problem(what="imported: n is how many images the data set has; nobody counted them"),
                extra={"language": run.language, "imported_from": path.name},
                provenance=provenance,
            )
        )
    return records


def _time(path: Path) -> datetime:
    return datetime.fromtimestamp(path.stat().st_mtime, timezone.utc)
