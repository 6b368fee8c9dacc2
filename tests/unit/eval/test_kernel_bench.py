"""Backends that are wrong in one way each are caught, are not timed, and hold nobody else up."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import get_context
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from climp_bench.errors import BackendError, UsageError
from climp_bench.eval import kernel_bench, kernel_timing
from climp_bench.eval.kernel_bench import Bench
from climp_bench.eval.kernel_cases import SIZES, beyond_int32, check_cases, timed_cases
from climp_bench.eval.kernel_checks import (
    ENDS_ORACLE,
    check_case,
    check_ends,
    first_failures,
    poisoned_memory,
)
from climp_bench.eval.kernel_inputs import ACTIVATIONS, OPS, make_inputs
from climp_bench.eval.kernel_timing import time_case
from climp_bench.ops import dispatch, torch_backend, torch_backend_ssd
from climp_bench.ops.tolerances import TOLERANCES, relative_error
from climp_bench.results.kernels import KernelCheck

Op = Callable[..., Tensor]
Plant = Callable[[str, Op], None]
F32 = torch.float32


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Plant:
    """Adds a backend called ``planted`` to an op."""

    def add(op: str, function: Op) -> None:
        module = ModuleType("planted_backend")
        setattr(module, op, function)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setattr(dispatch, "_loaded", {})
        entry = dispatch._Backend("planted", module.__name__, lambda device: (True, "planted"))
        monkeypatch.setitem(dispatch._BACKENDS, op, (entry, *dispatch._BACKENDS[op]))

    return add


class _ScaledGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, t: Tensor) -> Tensor:
        return t.view_as(t)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * 1.001


def wrong_values(*inputs: Tensor, **options: Any) -> Tensor:
    y = torch_backend_ssd.ssd(*inputs, **options)
    return y + 0.001 * y.detach()


def wrong_gradient_of_B(*inputs: Tensor, **options: Any) -> Tensor:
    x, dt, A, B, C, D = inputs
    return torch_backend_ssd.ssd(x, dt, A, _ScaledGradient.apply(B), C, D, **options)


def forgets_the_gradient_of_A(*inputs: Tensor, **options: Any) -> Tensor:
    x, dt, A, B, C, D = inputs
    return torch_backend_ssd.ssd(x, dt, A.detach(), B, C, D, **options)


def wrong_without_autograd(*inputs: Tensor, **options: Any) -> Tensor:
    y = torch_backend_ssd.ssd(*inputs, **options)
    return y if torch.is_grad_enabled() else y + 1


def leaves_the_last_position_of_odd_lengths(*inputs: Tensor, **options: Any) -> Tensor:
    """Its memory happens to hold the right values already, unless it is poisoned."""
    y = torch_backend_ssd.ssd(*inputs, **options)
    even = y.shape[1] // 2 * 2
    unwritten = torch.empty_like(y[:, even:])
    return torch.cat([y[:, :even], unwritten if unwritten.isnan().all() else y[:, even:]], 1)


def returns_float64(*inputs: Tensor, **options: Any) -> Tensor:
    return torch_backend_ssd.ssd(*inputs, **options).double()


def raises(*inputs: Tensor, **options: Any) -> Tensor:
    raise RuntimeError("no kernel image")


def case_of(op: str, name: str) -> Any:
    return next(case for case in check_cases(op) if case.name == name)


def check(op: str, name: str, backend: str = "planted", dtype: torch.dtype = F32) -> KernelCheck:
    (row,) = check_case(case_of(op, name), [backend], "cpu", dtype, 0)
    return row


@pytest.mark.parametrize(
    ("function", "wrong"),
    [
        (wrong_values, {"values"}),
        (wrong_gradient_of_B, {"B_BLGN"}),
        (forgets_the_gradient_of_A, {"A_H"}),
        (wrong_without_autograd, {"values"}),
        (leaves_the_last_position_of_odd_lengths, {"values"}),
        (returns_float64, set()),
        (raises, None),
    ],
)
def test_a_wrong_backend_fails_where_it_is_wrong(plant: Plant, function: Op, wrong: set[str] | None) -> None:
    plant("ssd", function)
    row = check("ssd", "groups")
    assert row.status == "failed" and row.oracle == "reference"
    if wrong is None:
        assert row.reason == "raised RuntimeError: no kernel image" and row.values is None
        return
    errors = {"values": row.values, **row.gradients}
    limits = {name: row.tolerance if name == "values" else row.gradient_tolerance for name in errors}
    off = {name for name, error in errors.items() if error is None or error >= limits[name]}
    assert wrong <= off and (off == wrong or function is leaves_the_last_position_of_odd_lengths)
    assert ("float64" in row.reason) == (function is returns_float64)


def test_a_backend_that_rounds_twice_in_half_precision_fails_there_alone(plant: Plant) -> None:
    def rounds(*inputs: Tensor, **options: Any) -> Tensor:
        y = torch_backend_ssd.ssd(*inputs, **options)
        return y if y.dtype == F32 else (y.float() * 1.01).to(y.dtype)

    plant("ssd", rounds)
    assert check("ssd", "odd length").status == "passed"
    assert check("ssd", "odd length", dtype=torch.bfloat16).status == "failed"
    assert check("ssd", "odd length", "torch", torch.bfloat16).status == "passed"


def test_a_backend_that_reads_beyond_a_view_fails(plant: Plant) -> None:
    def flat(x: Tensor, x_dbl: Tensor, *others: Tensor) -> Tensor:
        return torch_backend.ss2d(x.as_strided(x.shape, x.contiguous().stride()), x_dbl, *others)

    plant("ss2d", flat)
    assert check("ss2d", "odd HxW").status == "passed"
    assert check("ss2d", "views").status == "failed"


def test_memory_is_poisoned_at_the_timed_sizes_too(plant: Plant) -> None:
    plant("ssd", leaves_the_last_position_of_odd_lengths)
    (row,) = check_ends(timed_cases("ssd", "tiny")[0], ["planted"], "cpu", F32, 0)
    assert row.status == "failed" and row.values is None


def test_gradients_are_checked_at_the_timed_sizes_too(plant: Plant) -> None:
    plant("ssd", wrong_gradient_of_B)
    for batch in (1, 3):
        tiny = timed_cases("ssd", "tiny")[0]
        case = replace(tiny, sizes={**tiny.sizes, "batch": batch})
        wrong, right = check_ends(case, ["planted", "torch"], "cpu", F32, 0)
        off = {name for name, error in wrong.gradients.items() if error is None or error > 5e-5}
        assert (wrong.status, off, right.status) == ("failed", {"B_BLGN"}, "passed")
        assert check_ends(case, ["planted"], "cpu", F32, 0, gradients=False)[0].gradients == {}


def test_several_processes_check_what_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(ops=["ssd"], sizes="tiny")
    alone = bench._checked(len)

    @contextmanager
    def two(device: str) -> Iterator[ProcessPoolExecutor]:
        with ProcessPoolExecutor(2, get_context("spawn")) as pool:
            yield pool

    monkeypatch.setattr(kernel_bench, "_crew", two)
    assert bench._checked(len) == alone and len(alone) > 10


def who_checks(
    case: Any, backends: list[str], device: str, dtype: torch.dtype, seed: int
) -> list[KernelCheck]:
    """Rows that name their process; numba's dies."""
    if backends == ["numba"]:
        os._exit(3)
    rows = check_ends(case, backends, device, dtype, seed, gradients=False)
    return [row.model_copy(update={"reason": str(os.getpid())}) for row in rows]


def test_what_a_backend_does_to_its_process_stays_there() -> None:
    bench = Bench(ops=["selective_scan"], sizes="tiny")
    case = timed_cases("selective_scan", "tiny")[0]
    rows = bench._apart(kernel_bench._Check(case, torch.float32, who_checks, alone=True))
    by_name = {row.backend: row for row in rows}
    assert list(by_name) == bench.running["selective_scan"] == ["numba", "torch"]
    assert (by_name["numba"].status, by_name["numba"].reason) == ("failed", "its process died")
    assert by_name["torch"].status == "passed" and by_name["torch"].reason != str(os.getpid())


def test_half_images_must_give_what_float32_gives(plant: Plant) -> None:
    def coarse_in_half(*inputs: Tensor) -> Tensor:
        weight = inputs[2] if inputs[0].dtype == F32 else inputs[2] * 1.02
        return torch_backend.ss2d(*inputs[:2], weight, *inputs[3:])

    plant("ss2d", coarse_in_half)
    assert check("ss2d", "odd HxW").status == "passed"
    assert check("ss2d", "odd HxW", dtype=torch.bfloat16).status == "failed"
    assert check("ss2d", "odd HxW", "torch", torch.bfloat16).status == "passed"


def test_memory_is_poisoned_inside_and_as_before_outside() -> None:
    with poisoned_memory():
        assert torch.empty(100).isnan().all()
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("op", OPS)
def test_cases_reach_the_edges(op: str) -> None:
    shapes = [make_inputs(case, "cpu", F32, 0).tensors for case in check_cases(op)]
    first = [next(iter(tensors.values())) for tensors in shapes]
    assert any(t.shape[0] == 1 for t in first) and any(t.shape[0] > 2 for t in first)
    positions = [t[0, ..., 0].numel() if op == "ss2d" else t.shape[1] for t in first]
    assert 1 in positions and max(positions) > 500 and any(p > 2 and p % 2 for p in positions)
    assert any(t.shape[-1] % 2 and t.shape[-1] > 1 for t in first)
    assert {1, 16} <= {case.sizes.get("state", 1) for case in check_cases(op)}
    assert any(case.half for case in check_cases(op))
    if op == "ss2d":
        sides = {tuple(t.shape[1:3]) for t in first}
        assert (1, 1) in sides and any(h == 1 < w for h, w in sides) and any(w == 1 < h for h, w in sides)


@pytest.mark.parametrize("op", OPS)
def test_the_largest_input_needs_more_than_32_bits(op: str) -> None:
    with torch.device("meta"):
        case = beyond_int32(op)
        inner = {"length", "heads", "channels", "height", "width", "batch"}
        elements = 1
        for name, value in case.sizes.items():
            elements *= value if name in inner else 1
    assert 2**31 < elements < 1.1 * 2**31


def test_towers_of_the_paper_are_timed() -> None:
    sides = {(c.sizes["height"], c.sizes["channels"], c.sizes["rank"]) for c in timed_cases("ss2d", "paper")}
    assert sides == {(56, 256, 8), (28, 512, 16), (14, 1024, 32), (7, 2048, 64), (224, 256, 8)}
    texts = {
        (c.sizes["batch"], c.sizes["length"], c.sizes["channels"], c.sizes["state"])
        for c in timed_cases("selective_scan", "paper")
    }
    assert (64, 512, 4096, 16) in texts and (8, 77, 1536, 16) in texts and len(texts) == 12
    assert all(timed_cases(op, sizes) for op in OPS for sizes in (*SIZES, "tiny"))


def test_inputs_repeat_and_take_the_dtype_where_a_tower_would() -> None:
    for op in OPS:
        case = check_cases(op)[1]
        one, two = (make_inputs(case, "cpu", torch.bfloat16, seed=3).tensors for _ in range(2))
        assert all(torch.equal(one[name], two[name]) for name in one)
        assert {name for name, t in one.items() if t.dtype == torch.bfloat16} == ACTIVATIONS[op] & one.keys()


def test_an_error_is_relative_to_the_largest_value() -> None:
    expected = torch.tensor([4.0, -8.0])
    assert relative_error(torch.tensor([4.0, -8.8]), expected) == pytest.approx(0.1, rel=1e-6)
    assert relative_error(torch.tensor([4.0]), expected) == float("inf")
    assert relative_error(torch.tensor([4.0, torch.nan]), expected) == float("inf")
    assert TOLERANCES[torch.float64].values < TOLERANCES[F32].values < TOLERANCES[torch.float16].values


def test_what_is_wrong_at_the_timed_size_alone_is_caught_and_withheld(plant: Plant) -> None:
    def wrong_when_timed(*inputs: Tensor, **options: Any) -> Tensor:
        y = torch_backend_ssd.ssd(*inputs, **options)
        return y * 1.01 if options["chunk_size"] == 256 and y.shape[1] == 9 else y

    plant("ssd", wrong_when_timed)
    told: list[str] = []
    bench = Bench(ops=["ssd"], sizes="tiny", repeats=2)
    run = bench.run(told.append)
    assert len(told) == bench.steps
    assert [(c.backend, c.case, c.oracle) for c in run.failed] == [("planted", "tiny", "torch in float64")]
    timings = {(t.backend, t.direction): t for t in run.timings}
    assert len(timings) == 4
    for direction in ("forward", "forward+backward"):
        withheld = timings["planted", direction]
        assert withheld.reason == "withheld: failed tiny (float32)"
        assert withheld.median_ms is None and withheld.min_ms is None and withheld.speed is None
        torch_ = timings["torch", direction]
        assert torch_.speed == 1.0 and torch_.min_ms is not None and torch_.median_ms is not None
        assert 0 < torch_.min_ms <= torch_.median_ms and torch_.repeats == 2 and torch_.p95_ms is None
    assert run.provenance.device == "cpu" and run.absent["ssd: triton"]


def test_no_backend_is_compared_with_a_baseline_that_failed(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant("ssd", torch_backend_ssd.ssd)
    monkeypatch.setitem(sys.modules, "broken", ModuleType("broken"))
    monkeypatch.setattr(sys.modules["broken"], "ssd", wrong_gradient_of_B, raising=False)
    entries = dispatch._BACKENDS["ssd"]
    broken = dispatch._Backend("torch", "broken", lambda device: (True, ""))
    changed = tuple(broken if entry.name == "torch" else entry for entry in entries)
    monkeypatch.setitem(dispatch._BACKENDS, "ssd", changed)
    run = Bench(ops=["ssd"], backends=["planted"], sizes="tiny", repeats=1, backward=False).run(len)
    planted, torch_ = run.timings
    assert (planted.backend, planted.speed) == ("planted", None) and planted.median_ms is not None
    assert torch_.reason == "withheld: failed length 1 (float32)" and torch_.median_ms is None


def test_backends_take_turns_and_speeds_are_ratios_of_medians(monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[str] = []
    clock = {"torch": iter([8.0, 6.0, 7.0]), "numba": iter([3.0, 4.0, 3.5])}

    def sample(call: Any, count: int, device: str) -> float:
        turns.append(call())
        return next(clock[call()])

    monkeypatch.setattr(kernel_timing, "_call", lambda case, name, *rest: lambda: name)
    monkeypatch.setattr(kernel_timing, "warm_up", lambda call, device: ((call, 1), None))
    monkeypatch.setattr(kernel_timing, "_sample", sample)
    case = timed_cases("ss2d", "tiny")[0]
    numba, torch_ = time_case(case, ["numba", "torch"], {}, "cpu", F32, "forward", repeats=3, seed=0)
    assert turns == ["numba", "torch", "torch", "numba", "numba", "torch"]
    assert (numba.median_ms, numba.min_ms, numba.speed) == (3.5, 3.0, 2.0)
    assert (torch_.median_ms, torch_.speed) == (7.0, 1.0)


def test_slow_rounds_are_fewer_unless_a_number_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_timing, "MOST_SECONDS", -1.0)
    case = timed_cases("ssd", "tiny")[0]
    (few,) = time_case(case, ["torch"], {}, "cpu", F32, "forward", repeats=None, seed=0)
    assert few.repeats == kernel_timing.LEAST_REPEATS and few.p95_ms is None
    (asked,) = time_case(case, ["torch"], {}, "cpu", F32, "forward", repeats=20, seed=0)
    assert asked.repeats == 20
    assert asked.p95_ms is not None and asked.median_ms is not None and asked.p95_ms >= asked.median_ms


def test_short_memory_skips_a_check_and_a_timing_with_the_reason(plant: Plant) -> None:
    def hungry(*inputs: Tensor, **options: Any) -> Tensor:
        raise torch.OutOfMemoryError("Out of memory. Tried to allocate 9.9 GiB. GPU 0 has 8 GiB.\nmore")

    plant("ssd", hungry)
    case = timed_cases("ssd", "tiny")[0]
    skipped, passed = check_ends(case, ["planted", "torch"], "cpu", F32, 0)
    assert skipped.status == "skipped"
    assert skipped.reason == "memory is too short: Out of memory. Tried to allocate 9.9 GiB."
    assert passed.status == "passed" and passed.gradients
    short, timed = time_case(case, ["planted", "torch"], {}, "cpu", F32, "forward", repeats=1, seed=0)
    assert short.reason == "memory is too short" and short.median_ms is None and timed.speed == 1.0


def test_what_a_backend_refuses_is_skipped_and_not_timed(plant: Plant) -> None:
    def choosy(*inputs: Tensor, **options: Any) -> Tensor:
        raise BackendError("it wants bfloat16")

    plant("ssd", choosy)
    case = timed_cases("ssd", "tiny")[0]
    for check, oracle in ((check_ends, ENDS_ORACLE), (check_case, "reference")):
        refused, passed = check(case, ["planted", "torch"], "cpu", F32, 0)
        assert (refused.status, refused.reason, refused.oracle) == ("skipped", "it wants bfloat16", oracle)
        assert passed.status == "passed" and not first_failures([refused, passed])
    untimed, timed = time_case(case, ["planted", "torch"], {}, "cpu", F32, "forward", repeats=1, seed=0)
    assert (untimed.reason, untimed.median_ms, timed.speed) == ("it wants bfloat16", None, 1.0)


def test_unknown_words_and_backends_that_cannot_run() -> None:
    with pytest.raises(UsageError, match="Did you mean 'ss2d'"):
        Bench(ops=["ss2"])
    with pytest.raises(UsageError, match="Did you mean 'numba'"):
        Bench(backends=["nmba"])
    with pytest.raises(UsageError, match="Did you mean 'paper'"):
        Bench(sizes="papr")
    with pytest.raises(UsageError, match="unknown backend 'numba'"):
        Bench(ops=["ssd"], backends=["numba"])
    with pytest.raises(UsageError, match="checked against"):
        Bench(backends=["reference"])
    with pytest.raises(
        BackendError, match="backend 'numba' cannot run on cuda: its loops are compiled for CPUs"
    ):
        Bench(backends=["numba"], device="cuda")


def test_a_named_backend_runs_beside_the_baseline_where_it_exists() -> None:
    assert Bench(backends=["numba"]).running == {
        "ss2d": ["numba", "torch"],
        "selective_scan": ["numba", "torch"],
        "ssd": ["torch"],
    }
