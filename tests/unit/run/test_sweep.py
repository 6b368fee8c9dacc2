"""Sweeps over input sizes: one model in memory, every size recorded, what cannot run is a failed cell."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from climp_bench.errors import UsageError
from climp_bench.models.adapters import CatalogueEncoder
from climp_bench.models.weights import resolve
from climp_bench.report.resolution import rows, sizes, write_resolution
from climp_bench.run.execute import execute
from climp_bench.run.plan import Settings, make_plan
from climp_bench.run.sweep import sweep
from climp_bench.suite.schema import Suite
from tests.fakes import ToyEncoder
from tests.unit.run.test_execute import Listener

SUITE = Suite.model_validate(
    {
        "schema": 1,
        "name": "sizes",
        "task": [{"dataset": "scenes-colour", "n": 12}, {"dataset": "scenes-captions", "n": 6}],
    }
)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(out=tmp_path / "out", cache=tmp_path / "cache")


def test_every_size_is_measured_and_the_own_size_as_ever(settings: Settings, tmp_path: Path) -> None:
    encoders = [CatalogueEncoder(resolve(family)) for family in ("climp-m1", "naflexvit")]
    outcome = sweep(encoders, [SUITE], [64, 96], settings, Listener())
    assert (outcome.done, outcome.failed) == (8, 0)
    assert sizes(outcome.records) == [64, 96]
    plain = Settings(out=tmp_path / "plain", cache=settings.cache)
    alone = execute(make_plan(encoders, [SUITE]), plain, Listener())
    at_64 = {(r.model.name, r.task, r.metric): r.value for r in outcome.records if r.resolution == (64, 64)}
    assert at_64 == {(r.model.name, r.task, r.metric): r.value for r in alone.records}
    again = sweep(encoders, [SUITE], [64, 96], settings, Listener())
    assert again.reused == 8


def test_copies_share_the_weights_and_differ_in_their_pixels() -> None:
    encoder = CatalogueEncoder(resolve("rope-vit"))
    larger = encoder.at((96, 80))
    assert larger.preprocess.size == (96, 80) and encoder.preprocess.size == (64, 64)
    assert larger.model is encoder.model and larger.name == encoder.name


def test_a_size_that_a_model_cannot_take_fails_alone(settings: Settings, tmp_path: Path) -> None:
    encoders = [CatalogueEncoder(resolve(family)) for family in ("climp-m1", "rope-vit")]
    outcome = sweep(encoders, [SUITE], [64, 100], settings, Listener())
    assert (outcome.done, outcome.failed) == (6, 2)
    failed = [record for record in outcome.records if record.status == "failed"]
    assert {(r.model.family, r.resolution) for r in failed} == {("rope-vit", (100, 100))}
    assert "does not divide" in failed[0].error.what
    table = rows(outcome.records)
    assert table[0] == ["task", "metric", "size", "n", "climp-m1@micro", "rope-vit@micro"]
    (broken,) = [line for line in table if line[0] == "scenes-colour" and line[2] == "100"]
    assert broken[-1] == "failed" and broken[-2].endswith("]")

    page, numbers, picture = write_resolution(outcome.records, "sizes", tmp_path)
    assert picture.read_bytes().startswith(b"\x89PNG")
    text = page.read_text()
    assert "Not measured" in text and "| scenes-colour | acc@1 | 100 |" in text
    written = list(csv.DictReader(numbers.open()))
    assert len(written) == len(outcome.records)


def test_a_model_of_one_size_says_so() -> None:
    with pytest.raises(UsageError, match="its input has one size"):
        ToyEncoder().at((64, 64))
