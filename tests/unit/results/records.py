"""A good record and ways to change it, for the tests of results."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from climp_bench.results import RunRecord
from climp_bench.specs import Interval

PROVENANCE: dict[str, Any] = {
    "climp_bench": "0.1.0",
    "python": "3.11.4",
    "packages": {"numpy": "2.0.0"},
    "platform": "Linux",
    "cpu": "a processor",
    "device": "cpu",
    "dtype": "float32",
    "seed": 0,
    "started_at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc),
}
OK: dict[str, Any] = {
    "model": {"family": "climp-m1", "scale": "micro", "name": "climp-m1@micro", "weights_digest": "ab12"},
    "suite": "scenes",
    "task": "scenes-shape",
    "dataset": {"name": "scenes-shape", "split": "test", "fingerprint": "f00d"},
    "protocol": "clip_benchmark@48de38c",
    "kind": "classification",
    "metric": "acc1",
    "value": 0.75,
    "interval": Interval(0.7, 0.8, 0.95, "wilson"),
    "n_expected": 100,
    "n_evaluated": 100,
    "status": "ok",
    "resolution": (64, 64),
    "extra": {"ties": 2, "worst_group": "red on blue", "worst_group_accuracy": 0.5},
    "provenance": PROVENANCE,
}
FAILED: dict[str, Any] = {
    "value": None,
    "interval": None,
    "n_evaluated": 0,
    "status": "failed",
    "error": {"what": "out of memory", "where": "cuda:0", "remedy": "Lower --batch-size."},
}


def record(**changes: Any) -> RunRecord:
    return RunRecord.model_validate(OK | changes)


def changed(part: str, **changes: Any) -> dict[str, Any]:
    return {part: OK[part] | changes}
