"""Cells in turn: what breaks is a cell, what is done is kept, what would take too long is skipped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from climp_bench.eval.efficiency import Cell, CellMeter
from climp_bench.models.catalogue import MODELS
from climp_bench.models.counting import count_image
from climp_bench.results import Problem, ResultStore, RunRecord
from climp_bench.run.efficiency_plan import CellOutcome, make_cells, run_cells
from tests.cells import CONDITIONS, FakeCells

SPECS = [MODELS.get(f"{family}@micro") for family in ("climp-m1", "rope-vit", "flexivit")]


class Seen:
    """Notes what a watcher is told."""

    def __init__(self) -> None:
        self.cells: list[str] = []
        self.problems: list[Problem] = []

    def cell(self, label: str) -> None:
        self.cells.append(label)

    def failed(self, problem: Problem) -> None:
        self.problems.append(problem)


def run(folder: Path, fake: FakeCells, sizes: tuple[int, ...] = (64, 96), **changes: Any) -> CellOutcome:
    cells = make_cells(SPECS, sizes, (), compiled=False)
    fresh = changes.pop("fresh", False)
    conditions = replace(CONDITIONS, **changes)
    return run_cells(cells, conditions, ResultStore(folder), Seen(), fresh=fresh, command=fake.command)


def value(records: list[RunRecord], family: str, size: int, metric: str) -> float | None:
    (found,) = (r for r in records if (r.model.family, r.task, r.metric) == (family, f"image-{size}", metric))
    return found.value


def test_models_of_one_size_stand_together() -> None:
    cells = make_cells(SPECS[:2], (64, 96), (20,), compiled=True)
    assert [cell.label for cell in cells[:5]] == [
        "climp-m1@micro 64 px",
        "rope-vit@micro 64 px",
        "climp-m1@micro 64 px (compiled)",
        "rope-vit@micro 64 px (compiled)",
        "climp-m1@micro 96 px",
    ]
    assert cells[-1].label == "rope-vit@micro 20 tokens (compiled)" and len(cells) == 12


def test_records_hold_counts_and_measurements(tmp_path: Path) -> None:
    outcome = run(tmp_path, FakeCells(tmp_path))
    assert (outcome.done, outcome.failed, outcome.reused) == (6, 0, 0)
    for spec in SPECS:
        cost = count_image(spec.image, (96, 96))
        for metric, expected in (("macs", cost.macs), ("flops", cost.flops), ("parameters", cost.params)):
            assert value(outcome.records, spec.family, 96, metric) == expected
    latency = next(r for r in outcome.records if r.metric == "latency_ms")
    assert (latency.value, latency.n_evaluated) == (1009.5, 20)
    assert latency.interval is not None and latency.interval.low == 1005
    assert (latency.extra["fastest_ms"], latency.extra["slowest_ms"]) == (1000, 1019)
    assert value(outcome.records, "rope-vit", 64, "latency_p95_ms") == 1018
    throughput = next(r for r in outcome.records if r.metric == "throughput_images_per_s")
    assert (throughput.value, throughput.extra["batch"], throughput.n_evaluated) == (2.5, 4, 3)
    unsupported = {r.model.family: r.extra.get("unsupported") for r in outcome.records if r.metric == "macs"}
    assert unsupported["flexivit"] == "aten._upsample_bicubic2d_aa" and not unsupported["rope-vit"]
    assert {r.weights_digest for r in (record.model for record in outcome.records)} == {None}


def test_few_repetitions_say_so(tmp_path: Path) -> None:
    records = run(tmp_path, FakeCells(tmp_path, rope_vit="3"), (64,)).records
    own = {r.metric: r for r in records if r.model.family == "rope-vit"}
    assert own["latency_ms"].n_evaluated == 3 and "3 repetitions" in str(own["latency_ms"].no_interval_reason)
    assert own["latency_p95_ms"].status == "skipped" and own["latency_p95_ms"].error is not None


@pytest.mark.parametrize(("ends", "says"), [("MemoryError", "MemoryError: planted"), ("killed", "signal 9")])
def test_a_process_that_dies_is_a_cell(tmp_path: Path, ends: str, says: str) -> None:
    outcome = run(tmp_path, FakeCells(tmp_path, rope_vit=ends))
    assert (outcome.done, outcome.failed) == (4, 2)
    failed = [r for r in outcome.records if r.status == "failed"]
    assert {(r.model.family, r.task) for r in failed} == {("rope-vit", "image-64"), ("rope-vit", "image-96")}
    assert all(r.error is not None and says in r.error.what for r in failed)
    assert value(outcome.records, "rope-vit", 96, "macs") is not None
    assert value(outcome.records, "flexivit", 96, "latency_ms") is not None


def test_a_process_that_hangs_is_stopped(tmp_path: Path) -> None:
    fake = FakeCells(tmp_path, rope_vit="hangs")
    meter = CellMeter(Cell(SPECS[1], "image", 64), CONDITIONS, fake.command, limit_s=0.5)
    result = meter.measure()
    meter.close()
    assert result.problem is not None and "was stopped" in result.problem["what"]


def test_a_process_that_died_says_so_as_often_as_it_is_asked(tmp_path: Path) -> None:
    fake = FakeCells(tmp_path, rope_vit="killed")
    meter = CellMeter(Cell(SPECS[1], "image", 64), CONDITIONS, fake.command, limit_s=60)
    said = [result.problem["what"] for result in (meter.measure(), meter.measure()) if result.problem]
    meter.close()
    assert len(said) == 2 and all("signal 9" in what for what in said)


def test_a_second_run_measures_only_what_failed(tmp_path: Path) -> None:
    run(tmp_path, FakeCells(tmp_path / "..", rope_vit="MemoryError"))
    fake = FakeCells(tmp_path)
    outcome = run(tmp_path, fake)
    assert fake.jobs == [("rope-vit", 64), ("rope-vit", 96)]
    assert (outcome.done, outcome.failed, outcome.reused) == (6, 0, 4)
    assert value(outcome.records, "rope-vit", 96, "latency_ms") == 1009.5
    again = run(tmp_path, fake)
    assert len(fake.jobs) == 2 and again.reused == 6 and again.records == outcome.records
    run(tmp_path, fake, fresh=True)
    assert len(fake.jobs) == 8


@pytest.mark.parametrize("changes", [{"batches": (1, 2)}, {"threads": 7}, {"rounds": 2}, {"seed": 1}])
def test_other_conditions_are_measured_anew(tmp_path: Path, changes: dict[str, Any]) -> None:
    fake = FakeCells(tmp_path)
    run(tmp_path, fake, (64,))
    run(tmp_path, fake, (64,), **changes)
    assert len(fake.jobs) == 3 + 3 * changes.get("rounds", 1)


def test_what_would_take_too_long_is_skipped_and_a_larger_budget_measures_it(tmp_path: Path) -> None:
    fake = FakeCells(tmp_path)
    outcome = run(
        tmp_path, fake, (64, 128), budget_s=6.0
    )  # a second at 64 pixels, four times the work at 128
    assert {size for _, size in fake.jobs} == {64}
    skipped = [r for r in outcome.records if r.metric == "any"]
    assert {r.model.family for r in skipped} == {"climp-m1", "rope-vit", "flexivit"}
    assert all(r.status == "skipped" and r.error is not None for r in skipped)
    errors = {r.model.family: r.error for r in skipped}
    assert errors["climp-m1"] is not None and "about 4 s a pass" in errors["climp-m1"].what
    assert (
        "over the budget of 6 s" in errors["climp-m1"].what
        and errors["climp-m1"].remedy == "Try --budget 20."
    )
    assert value(outcome.records, "climp-m1", 128, "macs") is not None and outcome.failed == 0
    run(tmp_path, fake, (64, 128), budget_s=6.0)
    assert len(fake.jobs) == 3
    run(tmp_path, fake, (64, 128), budget_s=60.0)
    assert fake.jobs[3:] == [("climp-m1", 128), ("rope-vit", 128), ("flexivit", 128)]


def test_rounds_take_turns_and_are_pooled(tmp_path: Path) -> None:
    fake = FakeCells(tmp_path)
    outcome = run(tmp_path, fake, (64,), rounds=2)
    assert [family for family, _ in fake.jobs] == ["climp-m1", "rope-vit", "flexivit"] * 2
    latency = next(r for r in outcome.records if r.metric == "latency_ms")
    assert (latency.n_evaluated, latency.extra["rounds"], latency.extra["round_spread"]) == (40, 2, 0)
    assert sum(r.metric == "peak_memory_bytes" for r in outcome.records) == 3


def test_a_size_that_a_tower_cannot_take_is_skipped_there_alone(tmp_path: Path) -> None:
    fake = FakeCells(tmp_path)
    outcome = run(tmp_path, fake, (65,))
    assert fake.jobs == [("climp-m1", 65)]
    reasons = {r.model.family: r.error.what for r in outcome.records if r.error is not None}
    assert "does not divide" in reasons["rope-vit"] and "climp-m1" not in reasons


def test_on_the_meta_device_no_process_starts(tmp_path: Path) -> None:
    fake = FakeCells(tmp_path)
    outcome = run(tmp_path, fake, device="meta")
    assert not fake.jobs and outcome.done == 6
    assert {r.metric for r in outcome.records} == {"parameters", "macs", "flops", "positional_state_bytes"}


def test_interrupted_the_finished_cells_are_there(tmp_path: Path) -> None:
    class Impatient(Seen):
        def cell(self, label: str) -> None:
            super().cell(label)
            if label.startswith("rope-vit@micro 96"):
                raise KeyboardInterrupt

    fake = FakeCells(tmp_path)
    cells = make_cells(SPECS, (64, 96), (), compiled=False)
    with pytest.raises(KeyboardInterrupt):
        run_cells(cells, CONDITIONS, ResultStore(tmp_path), Impatient(), command=fake.command)
    done = list(fake.jobs)
    outcome = run(tmp_path, fake)
    assert outcome.reused == len(done) == 3 and len(fake.jobs) == 6


def on_a_gpu(folder: Path, fake: FakeCells, room: bool, monkeypatch: pytest.MonkeyPatch) -> CellOutcome:
    monkeypatch.setattr("climp_bench.run.efficiency_plan._room_for", lambda cells: room)
    cells = make_cells(SPECS[1:], (64,), (), compiled=True)
    conditions = replace(CONDITIONS, device="cuda", gpu="Some GPU", rounds=2)
    return run_cells(cells, conditions, ResultStore(folder), Seen(), command=fake.command)


def told(fake: FakeCells) -> list[tuple[str, bool, str, bool, list[int] | None]]:
    return [
        (job["model"].partition("@")[0], job["compiled"], job["part"], job["bare"], job["batches"])
        for job in fake.asked
    ]


def test_on_a_gpu_processes_live_on_and_a_compiled_tower_takes_over_the_best_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeCells(tmp_path)
    outcome = on_a_gpu(tmp_path, fake, True, monkeypatch)
    assert (outcome.done, outcome.failed) == (4, 0)
    asked = told(fake)
    ready, measured = ([job for job in asked if (job[2] == "ready") == way] for way in (True, False))
    assert {job[:2]: job[4] for job in ready} == {
        ("rope-vit", False): None, ("flexivit", False): None,
        ("rope-vit", True): [4], ("flexivit", True): [4],
    }  # fmt: skip
    assert measured == [
        *((name, False, part, part == "memory", None) for name in ("rope-vit", "flexivit")
          for part in ("all", "memory")),
        *((name, True, "all", False, [4]) for name in ("rope-vit", "flexivit")),
        *((name, False, "times", False, [2, 4, 8]) for name in ("rope-vit", "flexivit")),
        *((name, True, "times", False, [4]) for name in ("rope-vit", "flexivit")),
    ]  # fmt: skip
    assert len({job["pid"] for job in fake.asked}) == 6  # four cells, and two without a workspace
    bare = {r.metric for r in outcome.records if "without_workspace" in r.metric}
    assert bare == {"peak_memory_without_workspace_bytes"}


def test_on_a_small_gpu_every_measurement_has_a_process_to_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together, alone = FakeCells(tmp_path / "a"), FakeCells(tmp_path / "b")
    for fake, room in ((together, True), (alone, False)):
        folder = tmp_path / str(room)
        folder.mkdir()
        (tmp_path / ("a" if room else "b")).mkdir()
        on_a_gpu(folder, fake, room, monkeypatch)
    assert told(alone) == [job for job in told(together) if job[2] != "ready"]
    assert len({job["pid"] for job in alone.asked}) == 10


def test_a_tower_that_does_not_compile_is_a_cell_and_is_asked_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeCells(tmp_path, rope_vit="MemoryError")
    outcome = on_a_gpu(tmp_path, fake, True, monkeypatch)
    assert (outcome.done, outcome.failed) == (2, 2)
    assert {job[2] for job in told(fake) if job[0] == "rope-vit"} == {"ready"}
    assert value([r for r in outcome.records if "eager" in r.protocol], "flexivit", 64, "latency_ms")
