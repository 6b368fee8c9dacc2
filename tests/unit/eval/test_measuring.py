"""What a cell's process does: budgets, memory, and how it ends."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone

import numpy as np
import pytest
import torch

from climp_bench.errors import UsageError
from climp_bench.eval import measuring, memory, nvml
from climp_bench.eval.efficiency import Cell, Conditions
from climp_bench.eval.efficiency_records import CellRecords
from climp_bench.eval.measuring import FEWEST, Job, Measurement, measure, out_of_memory, problem_of, repeat
from climp_bench.models.catalogue import MODELS

MIB = 2**20


def clock(seconds: float) -> tuple[list[float], Iterator[float]]:
    made: list[float] = []

    def passes() -> Iterator[float]:
        while True:
            made.append(seconds)
            yield seconds

    return made, passes()


@pytest.mark.parametrize(
    ("seconds", "budget", "n"),
    [
        (0.001, 30, 20),  # as many as are wanted
        (7.0, 30, 3),  # the fewest, and no more: a warm-up and three fill 28 seconds
        (9.0, 30, 2),  # fewer: a third would end at 36
        (14.0, 30, 1),
        (20.0, 30, 1),  # one in any case
        (1.0, 28, 3),  # a share of the budget, 4 seconds, is used up by the warm-up and three
        (0.5, 28, 7),
    ],
)
def test_repetitions_fit_the_budget(seconds: float, budget: float, n: int) -> None:
    made, passes = clock(seconds)
    times = repeat(lambda: next(passes), seconds, budget, 20)
    assert len(times) == len(made) == n


def test_a_pass_that_grows_slow_ends_the_repetitions() -> None:
    times = repeat(iter([1.0, 25.0, 1.0]).__next__, 1.0, 20, 20)
    assert times == [1.0, 25.0] and len(times) < FEWEST


def touch(mib: int) -> np.ndarray:
    return np.ones(mib * MIB, dtype=np.uint8)


@pytest.mark.parametrize("find", [lambda call: memory.peak_rss(call)[0], memory._sampled])
def test_the_peak_is_found_though_it_is_gone_in_the_end(find: object) -> None:
    def call() -> None:
        for _ in range(20):
            touch(96)

    assert callable(find)
    assert 90 * MIB < find(call) < 130 * MIB


def test_a_cell_of_a_scan_says_which_backend_ran_and_that_it_was_right() -> None:
    result = measure(Job("climp-m1@micro", "image", 64, "cpu", batches=(1, 2), budget_s=20))
    assert result.problem is None and result.missing == {}
    assert set(result.backends) == {"ss2d"} and float(result.facts["error_against_reference"] or 1) < 1e-5
    assert "peak_memory_bytes" in result.values  # 0 where the heap of this process had room left
    assert len(result.latencies_ms) >= 1 and min(result.latencies_ms) > 0
    assert set(result.rates) == {1, 2} and result.passes[1] == len(result.latencies_ms)
    assert result.rates[1] == pytest.approx(1000 / np.mean(result.latencies_ms))


def test_a_text_tower_in_a_lower_precision() -> None:
    result = measure(Job("rope-vit@micro", "text", 20, "cpu", dtype="bfloat16", budget_s=5, part="times"))
    assert result.latencies_ms and result.values == {} and result.backends == {}


def test_a_budget_that_the_first_pass_exceeds_leaves_reasons() -> None:
    result = measure(Job("rope-vit@micro", "image", 64, "cpu", budget_s=1e-6))
    assert set(result.missing) == {"latency_ms", "throughput"} and not result.latencies_ms
    assert "the budget is 1e-06 s" in result.missing["latency_ms"]
    assert result.values["peak_memory_bytes"] >= 0


def test_a_batch_that_would_exceed_the_budget_is_not_begun() -> None:
    result = measure(
        Job("rope-vit@micro", "image", 64, "cpu", batches=(1, 100_000), budget_s=5, part="times")
    )
    assert set(result.rates) == {1} and result.facts["batches_end"] == "100000 would exceed the budget"


def test_a_size_that_the_tower_cannot_take() -> None:
    with pytest.raises(UsageError, match="does not divide"):
        measure(Job("rope-vit@micro", "image", 65, "cpu"))


def test_memory_that_is_out_is_told_from_other_faults() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert out_of_memory(caught.value) and problem_of(caught.value)["what"].startswith("out of memory")
    assert out_of_memory(MemoryError()) and not out_of_memory(RuntimeError("shapes differ"))
    assert problem_of(RuntimeError("shapes differ\nhere"))["what"] == "RuntimeError: shapes differ"


def test_without_a_gpu_energy_has_a_reason_and_the_call_was_made() -> None:
    calls: list[int] = []
    if torch.cuda.is_available():
        return
    readings = nvml.watch(lambda: calls.append(1))
    assert calls == [1] and readings.joules is None and "NVML" in readings.reason


class Scripted:
    """A subject on a GPU whose first pass of each batch compiles for a minute; an image takes 1 ms."""

    def __init__(self, job: Job) -> None:
        self.job, self.now, self.seen = job, 0.0, set()

    def inputs(self, batch: int, size: int) -> tuple[torch.Tensor, ...]:
        return (torch.empty(batch, 0),)

    def seconds(self, inputs: tuple[torch.Tensor, ...], passes: int = 1) -> float:
        batch = len(inputs[0])
        took = passes * batch / 1000 + (60.0 if batch not in self.seen else 0.0)
        self.seen.add(batch)
        self.now += took
        return took


@pytest.mark.parametrize("batches", [None, (2, 4)])
def test_compiling_counts_against_no_budget(
    batches: tuple[int, ...] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = Scripted(Job("climp-m1@micro", "image", 64, "cuda", batches=batches, budget_s=10.0))
    monkeypatch.setattr(measuring.time, "monotonic", lambda: subject.now)
    result = Measurement(latencies_ms=[50.0])  # most of it launches: 20 a second, later batches 1,000
    measuring._throughput(subject, result, 10.0)
    searched = {1: 20.0, 8: 1000.0}
    assert result.rates == pytest.approx({2: 1000.0, 4: 1000.0} | ({} if batches else searched))
    assert subject.now > 2 * 60 and ("batches_end" in result.facts) == (batches is None)


class Disturbed(Scripted):
    """Its passes of two inputs take as long as one of eight: the host was busy. From 16 on nothing gains."""

    def seconds(self, inputs: tuple[torch.Tensor, ...], passes: int = 1) -> float:
        batch = len(inputs[0])
        took = passes * (0.008 if batch == 2 else 0.001 if batch <= 16 else 0.001 * batch / 16)
        self.now += took
        return took


@pytest.mark.parametrize(
    ("budget_s", "largest", "why"),
    [
        (60.0, 64, "32 and 64 gain less than 2%"),
        (2.3, 32, "32 gains less than 2%, the budget ends before 64"),
        (1.8, 16, "32 would exceed the budget"),
    ],
)
def test_the_search_ends_after_two_batches_without_gain_or_with_the_budget(
    budget_s: float, largest: int, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = Disturbed(Job("climp-m1@micro", "image", 64, "cuda", budget_s=budget_s))
    monkeypatch.setattr(measuring.time, "monotonic", lambda: subject.now)
    result = Measurement(latencies_ms=[1.0])
    measuring._throughput(subject, result, budget_s)
    assert result.rates[2] < result.rates[1]
    assert max(result.rates, key=lambda batch: result.rates[batch]) == 16
    assert (max(result.rates), result.facts["batches_end"]) == (largest, why)


def test_what_graphs_gave_is_a_metric_and_what_they_did_not_a_reason() -> None:
    cell, on = Cell(MODELS.get("climp-m1@micro"), "image", 64), Conditions("cuda", gpu="Some GPU")
    make = CellRecords(cell, on, datetime.now(timezone.utc), {})
    rounds = [
        Measurement(latencies_ms=[9.0] * 6, graphed_ms=[at] * 6, rates={1: 100.0}, passes={1: 6})
        for at in (2.0, 3.0)
    ]
    (graphed,) = (r for r in make.measured(rounds) if r.metric == "latency_graphed_ms")
    assert (graphed.value, graphed.n_evaluated, graphed.extra["round_medians_ms"]) == (2.5, 12, "2, 3")
    assert graphed.interval is not None and (graphed.interval.low, graphed.interval.high) == (2.0, 3.0)
    rounds[1].missing["latency_graphed_ms"] = "it waits for the device"
    (skipped,) = (r for r in make.measured(rounds) if r.metric == "latency_graphed_ms")
    assert (skipped.status, skipped.value) == ("skipped", None) and "waits" in skipped.error.what
    without = make.measured([Measurement(latencies_ms=[1.0], rates={1: 1.0}, passes={1: 1})])
    assert not any(r.metric == "latency_graphed_ms" for r in without)
