"""The schema refuses every record that would lie, and identity keys change with what they name."""

from __future__ import annotations

import json
import math
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from climp_bench.errors import DataError
from climp_bench.results import Problem, RunRecord, record_key, slot_key
from climp_bench.specs import Interval
from tests.unit.results.records import FAILED, OK, changed, record


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"interval": None, "no_interval_reason": "a count has no sampling error"},
        {"n_expected": None},
        {"status": "partial", "n_evaluated": 90, "n_failed": 10, "error": {"what": "10 broken images"}},
        FAILED,
        FAILED | {"status": "skipped"},
        changed("provenance", device="cuda:0", gpu="an accelerator"),
    ],
)
def test_honest_records_survive_json(changes: dict[str, Any]) -> None:
    original = record(**changes)
    text = json.dumps(original.model_dump(mode="json"), allow_nan=False)
    assert RunRecord.model_validate(json.loads(text)) == original


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"value": None}, "needs a value"),
        ({"value": math.nan}, "finite"),
        ({"value": math.inf}, "finite"),
        ({"extra": {"x": math.nan}}, "finite"),
        ({"interval": None}, "no_interval_reason"),
        ({"no_interval_reason": "but there is one"}, "not both"),
        ({"interval": Interval(math.nan, 1.0, 0.95, "wilson")}, "not a confidence interval"),
        ({"interval": Interval(0.9, 0.1, 0.95, "wilson")}, "not a confidence interval"),
        ({"interval": Interval(0.1, 0.9, 95, "wilson")}, "not a confidence interval"),
        ({"n_evaluated": 99}, "99 of 100 samples evaluated"),
        ({"n_failed": 1}, "no failed sample"),
        ({"error": {"what": "something"}}, "has no error"),
        ({"n_evaluated": 0, "status": "partial"}, "not a score"),
        ({"n_evaluated": -1}, "greater than or equal to 0"),
        (FAILED | {"value": 0.0}, "failed record cannot have a value"),
        (FAILED | {"interval": OK["interval"]}, "failed record cannot have a value or an interval"),
        (FAILED | {"error": None}, "needs 'error'"),
        (FAILED | {"outcomes_digest": "ab"}, "failed record cannot have outcomes"),
        (FAILED | {"status": "skipped", "error": None}, "needs 'error'"),
        ({"status": "fine"}, "'ok', 'failed', 'partial' or 'skipped'"),
        ({"resolution": (0, 64)}, "greater than 0"),
        ({"acc": 1.0}, "Extra inputs"),
        ({"task": ""}, "at least 1 character"),
        (changed("provenance", device="cuda:0"), "accelerator's name"),
        (changed("provenance", started_at=datetime(2026, 1, 1)), "timezone"),
    ],
)
def test_records_that_would_lie_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        record(**changes)


def test_start_is_told_in_utc() -> None:
    zone = timezone(timedelta(hours=2))
    moment = record(**changed("provenance", started_at=datetime(2026, 5, 1, 1, tzinfo=zone)))
    assert moment.provenance.started_at.isoformat() == "2026-04-30T23:00:00+00:00"


def test_problems_keep_the_three_parts_of_our_errors() -> None:
    ours = Problem.of(DataError("is truncated", where="3.tar", remedy="Fetch it again."))
    assert (ours.what, ours.where, ours.remedy) == ("is truncated", "3.tar", "Fetch it again.")
    assert Problem.of(KeyError("x")).what == "KeyError: 'x'"


IDENTITY = [
    changed("model", name="climp-m1@base"),
    {"suite": "other"},
    {"task": "scenes-colour"},
    changed("dataset", name="scenes-r"),
    {"protocol": "corrected"},
    {"resolution": (96, 96)},
    {"resolution": None},
    changed("provenance", dtype="bfloat16"),
    {"kind": "efficiency"},
]
SCORE_ONLY = [
    changed("dataset", split="train"),
    {"kind": "retrieval"},
    changed("model", weights_digest="cd34"),
    changed("dataset", fingerprint="beef"),
    changed("dataset", revision="98e9ba6"),
    {"metric": "acc5"},
]


@pytest.mark.parametrize("changes", IDENTITY + SCORE_ONLY)
def test_the_record_key_changes_with_every_part_of_the_identity(changes: dict[str, Any]) -> None:
    assert record(**changes).key != record().key
    assert (slot_key(record(**changes)) != slot_key(record())) == (changes in IDENTITY)


@given(st.floats(0.7, 0.8), st.integers(0, 9))
def test_the_record_key_ignores_value_host_and_time(value: float, seed: int) -> None:
    other = changed("provenance", seed=seed, cpu="another", started_at=datetime.now(timezone.utc))
    assert record_key(record(value=value, **other)) == record().key


def test_the_record_key_is_stable() -> None:
    """Keys live in stored results: changing how they are made orphans them."""
    assert record().key == "1bf56a86f9cfa9445f59270d63ced36e"
