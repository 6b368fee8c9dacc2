"""How long the backends of an op take, side by side.

Backends take turns within one process, so that a clock that changes or a busy neighbour meets all of them
alike, and each round starts with another one. Before that every backend is warmed up, which compiles it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from climp_bench.errors import BackendError
from climp_bench.eval.kernel_inputs import OPS, Case, make_inputs
from climp_bench.metrics.timing import P95_NEEDS, median, p95
from climp_bench.results.kernels import BASELINE, Direction, KernelTiming

WARMUP = 2
SAMPLE_MS = 5.0
"""A repeat lasts at least this long, in calls of the same backend: a clock read costs nothing beside it."""
MOST_CALLS = 100
REPEATS, LEAST_REPEATS, MOST_SECONDS = 20, 5, 2.0
"""Rounds of a timing unless a number is asked for: so many, fewer once they have taken so long."""

Call = Callable[[], object]


def time_case(
    case: Case,
    backends: Sequence[str],
    withheld: Mapping[str, str],
    device: str,
    dtype: torch.dtype,
    direction: Direction,
    *,
    repeats: int | None,
    seed: int,
) -> list[KernelTiming]:
    """Median, minimum and 95th percentile of one call, of each backend.

    Args:
        case, seed: what to compute, on which inputs.
        backends, withheld: to time, or to say why not; why they must not be timed.
        device: ``cpu`` (by the wall clock) or ``cuda`` (by events on the device).
        dtype: of the activations.
        direction: ``forward`` without autograd, or ``forward+backward`` with the gradient of every argument.
        repeats: rounds; None is ``REPEATS`` or as many as fit into ``MOST_SECONDS``.
    """
    reasons = {name: withheld[name] for name in backends if name in withheld}
    calls: dict[str, tuple[Call, int]] = {}
    peaks: dict[str, float | None] = {}
    for name in backends:
        if name not in reasons:
            try:
                call = _call(case, name, device, dtype, direction, seed)
                calls[name], peaks[name] = warm_up(call, device)
            except (torch.OutOfMemoryError, MemoryError):
                reasons[name] = "memory is too short"
                if device == "cuda":
                    torch.cuda.empty_cache()
            except BackendError as error:
                reasons[name] = error.what
    times = by_turns(calls, device, repeats)
    medians = {name: median(found) for name, found in times.items()}
    facts: dict[str, Any] = {
        "op": case.op,
        "size": case.name,
        "shape": case.shape,
        "dtype": str(dtype).removeprefix("torch."),
        "direction": direction,
    }
    return [
        KernelTiming(**facts, backend=name, reason=reasons[name])
        if name in reasons
        else KernelTiming(
            **facts,
            backend=name,
            median_ms=medians[name],
            min_ms=min(times[name]),
            p95_ms=p95(times[name]) if len(times[name]) >= P95_NEEDS else None,
            repeats=len(times[name]),
            calls=calls[name][1],
            peak_mib=peaks[name],
            speed=medians[BASELINE] / medians[name] if BASELINE in medians else None,
        )
        for name in backends
    ]


def _call(case: Case, backend: str, device: str, dtype: torch.dtype, direction: Direction, seed: int) -> Call:
    inputs = make_inputs(case, device, dtype, seed)
    op, options = OPS[case.op], inputs.options
    if direction == "forward":

        def forward() -> object:
            with torch.no_grad():
                return op(**inputs.tensors, **options, backend=backend)

        return forward
    leaves = {name: t.requires_grad_() for name, t in inputs.tensors.items()}

    def both() -> object:
        result = op(**leaves, **options, backend=backend)
        return torch.autograd.grad(result, list(leaves.values()), torch.ones_like(result))

    return both


def warm_up(call: Call, device: str) -> tuple[tuple[Call, int], float | None]:
    """The call with the number of calls in a repeat, and its peak memory in MiB."""
    for _ in range(WARMUP):
        call()
    peak = None
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        peak = (torch.cuda.max_memory_allocated() - before) / 2**20
    once = _sample(call, 1, device)
    return (call, min(MOST_CALLS, max(1, math.ceil(SAMPLE_MS / max(once, 1e-6))))), peak


def by_turns(
    calls: Mapping[str, tuple[Call, int]], device: str, repeats: int | None
) -> dict[str, list[float]]:
    """Milliseconds of every repeat of each call, given with the number of times that one repeat makes it."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls)
    began = time.perf_counter()
    for done in range((repeats or REPEATS) if calls else 0):
        if repeats is None and done >= LEAST_REPEATS and time.perf_counter() - began > MOST_SECONDS:
            break
        for name in order:
            call, count = calls[name]
            times[name].append(_sample(call, count, device))
        order.append(order.pop(0))
    return times


def _sample(call: Call, count: int, device: str) -> float:
    """Milliseconds of one of ``count`` calls."""
    if device == "cuda":
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(count):
            call()
        end.record()
        torch.cuda.synchronize()
        return float(start.elapsed_time(end)) / count
    began = time.perf_counter()
    for _ in range(count):
        call()
    return 1000 * (time.perf_counter() - began) / count
