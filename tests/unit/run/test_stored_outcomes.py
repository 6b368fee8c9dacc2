"""Every evaluation stores which samples were right, beside its records and bound to them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from climp_bench.results import ResultStore, RunRecord
from climp_bench.results.outcomes import read_outcomes
from climp_bench.results.store import has_outcomes
from climp_bench.run.execute import execute
from climp_bench.run.plan import Settings, make_plan
from climp_bench.suite.schema import Suite
from tests.fakes import ToyEncoder
from tests.unit.run.test_execute import Listener


def run(tmp_path: Path, dataset: str, **settings: object) -> list[RunRecord]:
    suite = Suite.model_validate({"schema": 1, "name": "mine", "task": [{"dataset": dataset, "n": 10}]})
    place = Settings(tmp_path / "out", tmp_path / "cache", (tmp_path / "data",), **settings)  # type: ignore[arg-type]
    outcome = execute(make_plan([ToyEncoder(size=(32, 32))], [suite]), place, Listener())
    assert not outcome.failed
    return outcome.records


@pytest.mark.parametrize("dataset", ["toy", "scenes-shape", "scenes-captions", "scenes-multilabel"])
def test_the_outcomes_are_those_of_the_scores(make_wds, tmp_path: Path, dataset: str) -> None:
    make_wds(classes=6)
    store = ResultStore(tmp_path / "out" / "records")
    for record in run(tmp_path, dataset):
        expected = record.value is not None and has_outcomes(record.metric)
        assert (record.outcomes_digest is not None) == expected
        path = store.outcomes_path(record)
        assert path.exists() == (dataset != "scenes-multilabel")
        if expected:
            outcomes = read_outcomes(path, record.outcomes_digest)
            right = outcomes.hits[record.metric].right
            assert right.mean() == record.value and len(right) == record.n_evaluated
            assert len(set(outcomes.ids)) == 10
            clusters = outcomes.clusters(record.metric)
            assert (clusters is not None) == record.metric.startswith("image_retrieval")
            if clusters is not None:
                assert list(clusters) == list(np.arange(10).repeat(5))


def test_names_of_samples_are_the_data_sets_own(make_wds, tmp_path: Path) -> None:
    make_wds()
    record = run(tmp_path, "toy")[0]
    path = ResultStore(tmp_path / "out" / "records").outcomes_path(record)
    assert read_outcomes(path, record.outcomes_digest).ids[6] == "1.tar:s0000006"


def test_the_same_evaluation_gives_the_same_bytes(make_wds, tmp_path: Path) -> None:
    make_wds()
    first = {r.metric: r.outcomes_digest for r in run(tmp_path, "toy")}
    assert first == {r.metric: r.outcomes_digest for r in run(tmp_path, "toy", fresh=True)}


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"old")])
def test_records_without_their_outcomes_are_not_taken_over(make_wds, tmp_path: Path, damage: object) -> None:
    """As after a kill between the two files."""
    make_wds()
    store = ResultStore(tmp_path / "out" / "records")
    record = run(tmp_path, "toy")[0]
    damage(store.outcomes_path(record))  # type: ignore[operator]
    assert not store.is_whole(record)
    assert store.is_whole(run(tmp_path, "toy")[0])
