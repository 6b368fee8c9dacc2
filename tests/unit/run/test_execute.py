"""Runs: every evaluation recorded, failures kept to their place, equal runs reused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from climp_bench.embed import batches
from climp_bench.errors import StoreError
from climp_bench.results import ResultStore
from climp_bench.run.execute import execute
from climp_bench.run.plan import Settings, make_plan
from climp_bench.suite.schema import Suite
from tests.fakes import ToyEncoder


class Listener:
    """Keeps what a run tells."""

    def __init__(self) -> None:
        self.jobs: list[str] = []
        self.images = 0
        self.failures: list[tuple[str, str, str]] = []

    def job(self, label: str, images: int) -> None:
        self.jobs.append(label)

    def advance(self, images: int) -> None:
        self.images += images

    def failed(self, label: str, model: str, problem: object) -> None:
        self.failures.append((label, model, problem.what))  # type: ignore[attr-defined]


def _suite(*tasks: dict, **facts: object) -> Suite:
    return Suite.model_validate({"schema": 1, "name": "mine", "task": list(tasks), **facts})


def _settings(tmp_path: Path, **facts: object) -> Settings:
    return Settings(out=tmp_path / "out", cache=tmp_path / "cache", data_roots=(tmp_path / "data",), **facts)


def test_records_are_complete_and_stored(make_wds, tmp_path: Path) -> None:
    make_wds()
    listener = Listener()
    plan = make_plan([ToyEncoder("a"), ToyEncoder("b")], [_suite({"dataset": "toy", "n": 10})])
    outcome = execute(plan, _settings(tmp_path), listener)
    assert (outcome.done, outcome.failed, listener.images) == (2, 0, 20)
    stored = ResultStore(tmp_path / "out/records").read()
    assert {r.key for r in stored} == {r.key for r in outcome.records}
    accuracy = next(r for r in stored if r.metric == "acc1" and r.model.family == "a")
    assert accuracy.n_evaluated == 10 and accuracy.interval is not None
    assert accuracy.extra["chance"] == pytest.approx(1 / 3)
    assert accuracy.provenance.backends == {"toy": "numpy"}
    undefined = next(r for r in stored if r.metric == "acc5")
    assert undefined.status == "skipped" and undefined.value is None


def test_an_equal_run_is_reused_and_fresh_measures_again(make_wds, tmp_path: Path) -> None:
    make_wds()
    suites = [_suite({"dataset": "toy"})]
    first = execute(make_plan([ToyEncoder()], suites), _settings(tmp_path), Listener())
    again = execute(make_plan([ToyEncoder()], suites), _settings(tmp_path), Listener())
    assert again.reused == 1 and again.records == first.records
    fresh = execute(make_plan([ToyEncoder()], suites), _settings(tmp_path, fresh=True), Listener())
    assert fresh.reused == 0
    assert [r.value for r in fresh.records] == [r.value for r in first.records]
    assert all(r.provenance.cache_hit for r in fresh.records)


def test_columns_keep_the_order_asked_for_when_some_are_reused(make_wds, tmp_path: Path) -> None:
    make_wds()
    suites = [_suite({"dataset": "toy"})]
    execute(make_plan([ToyEncoder("b")], suites), _settings(tmp_path), Listener())
    both = execute(make_plan([ToyEncoder("a"), ToyEncoder("b")], suites), _settings(tmp_path), Listener())
    assert both.reused == 1
    assert list(dict.fromkeys(r.model.family for r in both.records)) == ["a", "b"]
    other_seed = _settings(tmp_path, seed=1)
    assert execute(make_plan([ToyEncoder("b")], suites), other_seed, Listener()).reused == 0


def test_other_prompts_or_other_weights_are_not_reused(make_wds, tmp_path: Path) -> None:
    make_wds()
    settings = _settings(tmp_path)
    execute(make_plan([ToyEncoder()], [_suite({"dataset": "toy"})]), settings, Listener())
    other = _suite({"dataset": "toy", "templates": ["{c}!"]})
    assert execute(make_plan([ToyEncoder()], [other]), settings, Listener()).reused == 0
    retrained = ToyEncoder()
    retrained.weights_digest = "another"
    assert execute(make_plan([retrained], [other]), settings, Listener()).reused == 0


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_broken_task_or_model_fails_alone(
    device: str, make_wds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "_share_of_memory", lambda: 1.0)
    make_wds()
    bad = make_wds("bad")
    (bad / "test/1.tar").write_bytes((bad / "test/1.tar").read_bytes().replace(b"IHDR", b"JUNK"))
    suite = _suite(
        {"dataset": "bad"}, {"dataset": "toy"}, {"dataset": "toi"}, {"dataset": "toy", "n": 11, "id": "count"}
    )
    names = {"good": "", "nan": "images", "mute": "texts"}
    encoders = [ToyEncoder(name, poison=poison) for name, poison in names.items()]
    for encoder in encoders:
        encoder.device, encoder.gpu = device, None if device == "cpu" else "Some GPU"
    listener = Listener()
    outcome = execute(make_plan(encoders, [suite]), _settings(tmp_path), listener)
    assert outcome.done == 1 and outcome.failed == 11
    ok = {(r.task, r.model.family) for r in outcome.records if r.status == "ok"}
    assert ok == {("toy", "good")}
    reasons = {
        r.task: r.error.what + r.error.where for r in outcome.records if r.model.family == "good" and r.error
    }
    assert "1.tar:s0000005" in reasons["bad"]
    assert "unknown dataset 'toi'" in reasons["toi"]
    assert "the suite says 11" in reasons["count"]
    assert len(listener.failures) == 11


def test_a_failure_is_replaced_by_a_later_success(make_wds, tmp_path: Path) -> None:
    make_wds()
    suites = [_suite({"dataset": "toy"})]
    execute(make_plan([ToyEncoder(poison="texts")], suites), _settings(tmp_path), Listener())
    assert [r.status for r in ResultStore(tmp_path / "out/records").read()] == ["failed"]
    execute(make_plan([ToyEncoder()], suites), _settings(tmp_path), Listener())
    assert {r.status for r in ResultStore(tmp_path / "out/records").read()} == {"ok", "skipped"}


def test_unexpected_errors_are_recorded_unless_debugging(make_wds, tmp_path: Path) -> None:
    make_wds()

    class Broken(ToyEncoder):
        def tokenize(self, texts):
            raise RuntimeError("boom")

    plan = make_plan([Broken()], [_suite({"dataset": "toy"})])
    outcome = execute(plan, _settings(tmp_path), Listener())
    assert outcome.records[0].error.what == "RuntimeError: boom"
    with pytest.raises(RuntimeError, match="boom"):
        execute(plan, _settings(tmp_path, fresh=True, debug=True), Listener())


def test_a_corrupt_record_is_named_not_overwritten(make_wds, tmp_path: Path) -> None:
    make_wds()
    plan = make_plan([ToyEncoder()], [_suite({"dataset": "toy"})])
    execute(plan, _settings(tmp_path), Listener())
    path = next((tmp_path / "out/records").rglob("*.results.json"))
    path.write_text("{")
    with pytest.raises(StoreError, match=path.name):
        execute(plan, _settings(tmp_path), Listener())


def test_tables_show_what_was_measured_and_what_was_not(make_wds, tmp_path: Path) -> None:
    from climp_bench.report.page import write_report

    make_wds()
    suite = _suite({"dataset": "toy"}, {"dataset": "nowhere"})
    outcome = execute(make_plan([ToyEncoder()], [suite]), _settings(tmp_path), Listener())
    page, table, picture = write_report(outcome.records, "mine", tmp_path / "out", command="zeroshot")
    text = page.read_text()
    accuracy = next(r for r in outcome.records if r.metric == "acc1")
    assert (
        f"{100 * accuracy.value:.1f} [" in text and "failed" in text and "unknown dataset 'nowhere'" in text
    )
    rows = table.read_text().splitlines()
    assert len(rows) == 1 + len(outcome.records)
    assert picture.read_bytes().startswith(b"\x89PNG")
    json.dumps([r.model_dump(mode="json") for r in outcome.records], allow_nan=False)
    moved = [r.model_copy(update={"suite": "mine-0.1"}) for r in outcome.records]
    assert write_report(moved, "mine-0.1", tmp_path, command="zeroshot")[0].name == "zeroshot-mine-0.1.md"


def test_a_task_without_its_main_metric_shows_what_it_has(make_wds, tmp_path: Path) -> None:
    from climp_bench.report.tables import score_table

    make_wds()
    outcome = execute(
        make_plan([ToyEncoder()], [_suite({"dataset": "toy"})]), _settings(tmp_path), Listener()
    )
    rest = [r for r in outcome.records if r.metric == "acc5"]
    assert [line.metric for line in score_table(rest, "mine").lines] == ["acc5"]
