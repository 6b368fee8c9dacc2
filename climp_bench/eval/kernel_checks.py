"""Backends of the state-space operators against the float64 reference: no speed without correctness."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from climp_bench.errors import BackendError
from climp_bench.eval.kernel_cases import quick_case
from climp_bench.eval.kernel_inputs import OPS, PER_SAMPLE, Case, Inputs, make_inputs
from climp_bench.ops.dispatch import resolve
from climp_bench.ops.tolerances import relative_error, tolerance_of
from climp_bench.results.kernels import KernelCheck

HALVES = (torch.bfloat16, torch.float16)
ENDS_ORACLE = "torch in float64"
_SENTENCE_END = re.compile(r"(?<=\.)\s+")


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Inside, ``torch.empty`` yields NaN: an output that a backend leaves unwritten shows."""
    was = torch.are_deterministic_algorithms_enabled()
    warned_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*deterministic")
            yield
    finally:
        torch.use_deterministic_algorithms(was, warn_only=warned_only)


def dtypes_of(case: Case, dtype: torch.dtype) -> tuple[torch.dtype, ...]:
    """float32 and the dtype of the run; for cases that say so both half precisions."""
    return tuple(dict.fromkeys((torch.float32, dtype, *(HALVES if case.half else ()))))


@dataclass(frozen=True)
class _Exact:
    """What the reference says: the result, what its gradient was asked for, and the gradients by argument."""

    result: Tensor
    seed_gradient: Tensor
    gradients: dict[str, Tensor]


def check_case(
    case: Case, backends: Sequence[str], device: str, dtype: torch.dtype, seed: int
) -> list[KernelCheck]:
    """Result, with and without autograd, and the gradient of every argument, of each backend.

    Where a backend says that it does not take such an input, the check is skipped.

    Args:
        case: what to compute.
        backends: names of backends that can run on the device.
        device: ``cpu`` or ``cuda``; the reference runs on the CPU.
        dtype: of the activations.
        seed: of the inputs.
    """
    with poisoned_memory():
        inputs = make_inputs(case, device, dtype, seed)
        exact = _reference(case, inputs, dtype, seed)
        found = []
        for name in backends:
            try:
                found.append(_compare(case, name, inputs, exact, dtype))
            except BackendError as error:
                found.append(_skipped(case, name, "reference", dtype, error))
        return found


def _reference(case: Case, inputs: Inputs, dtype: torch.dtype, seed: int) -> _Exact:
    leaves = {name: t.detach().cpu().double().requires_grad_() for name, t in inputs.tensors.items()}
    result = OPS[case.op](**leaves, **inputs.options, backend="reference")
    weights = torch.randn(result.shape, generator=torch.Generator().manual_seed(seed + 1))
    weights = weights.to(dtype)
    gradients = torch.autograd.grad(result, list(leaves.values()), weights.double())
    return _Exact(result.detach(), weights, dict(zip(leaves, gradients, strict=True)))


def _compare(case: Case, backend: str, inputs: Inputs, exact: _Exact, dtype: torch.dtype) -> KernelCheck:
    def measure() -> tuple[Tensor, float, dict[str, float]]:
        leaves = {name: t.detach().requires_grad_() for name, t in inputs.tensors.items()}
        got = OPS[case.op](**leaves, **inputs.options, backend=backend)
        with torch.no_grad():
            plain = OPS[case.op](**leaves, **inputs.options, backend=backend)
        given = torch.autograd.grad(
            got, list(leaves.values()), exact.seed_gradient.to(got.device, got.dtype), allow_unused=True
        )
        gradients = {
            name: relative_error(
                grad if grad is not None else leaves[name].new_zeros(0), exact.gradients[name]
            )
            for name, grad in zip(leaves, given, strict=True)
        }
        values = max(relative_error(plain, exact.result), relative_error(got, exact.result))
        return got, values, gradients

    return _row(case, backend, "reference", dtype, measure)


def check_ends(
    case: Case, backends: Sequence[str], device: str, dtype: torch.dtype, seed: int, gradients: bool = True
) -> list[KernelCheck]:
    """Result and gradients on an input too large for the reference's loops: first and last sample.

    The oracle is the torch backend in float64 on these two samples alone; no gradient comes from the others.
    Where the memory of the device is too short for the input or for a backend, or a backend says that it does
    not take so large an input, the check is skipped.
    """
    with poisoned_memory():
        try:
            inputs = make_inputs(case, device, dtype, seed)
            exact = _at_ends(case, inputs, dtype, seed, gradients)
        except (torch.OutOfMemoryError, MemoryError) as error:
            return [_skipped(case, name, ENDS_ORACLE, dtype, error) for name in backends]
        found = []
        for name in backends:
            measure = partial(_measure_ends, case, name, inputs, exact)
            try:
                found.append(_row(case, name, ENDS_ORACLE, dtype, measure))
            except (torch.OutOfMemoryError, MemoryError, BackendError) as error:
                found.append(_skipped(case, name, ENDS_ORACLE, dtype, error))
        return found


def _at_ends(case: Case, inputs: Inputs, dtype: torch.dtype, seed: int, gradients: bool) -> _Exact:
    few = {
        name: (_ends(t) if name in PER_SAMPLE[case.op] else t).detach().double().requires_grad_(gradients)
        for name, t in inputs.tensors.items()
    }
    result = OPS[case.op](**few, **inputs.options, backend="torch")
    weights = torch.randn(result.shape, generator=torch.Generator().manual_seed(seed + 1)).to(dtype)
    found: dict[str, Tensor] = {}
    if gradients:
        given = torch.autograd.grad(result, list(few.values()), weights.to(result))
        found = dict(zip(few, given, strict=True))
    return _Exact(result.detach(), weights, found)


def _measure_ends(
    case: Case, backend: str, inputs: Inputs, exact: _Exact
) -> tuple[Tensor, float, dict[str, float]]:
    with torch.inference_mode():
        plain = OPS[case.op](**inputs.tensors, **inputs.options, backend=backend)
        values = relative_error(_ends(plain), exact.result)
    if not exact.gradients:
        return plain, values, {}
    del plain
    leaves = {name: t.detach().requires_grad_() for name, t in inputs.tensors.items()}
    got = OPS[case.op](**leaves, **inputs.options, backend=backend)
    weights = torch.zeros_like(got)
    weights[_ENDS[: len(exact.result)]] = exact.seed_gradient.to(weights)
    given = torch.autograd.grad(got, list(leaves.values()), weights)
    errors = {
        name: relative_error(_ends(grad) if name in PER_SAMPLE[case.op] else grad, exact.gradients[name])
        for name, grad in zip(leaves, given, strict=True)
    }
    return got, max(values, relative_error(_ends(got), exact.result)), errors


_ENDS = [0, -1]


def _ends(t: Tensor) -> Tensor:
    return t[_ENDS[: len(t)]]


def _row(
    case: Case,
    backend: str,
    oracle: str,
    dtype: torch.dtype,
    measure: Callable[[], tuple[Tensor, float, dict[str, float]]],
) -> KernelCheck:
    """Run ``measure`` and judge; what it raises is a failure, but for short memory and refused inputs."""
    facts = _facts(case, backend, oracle, dtype)
    try:
        got, values, gradients = measure()
    except (torch.OutOfMemoryError, MemoryError, BackendError):
        raise
    except Exception as error:
        return KernelCheck(**facts, status="failed", reason=f"raised {type(error).__name__}: {error}")
    passed = values < facts["tolerance"] and all(
        error < facts["gradient_tolerance"] for error in gradients.values()
    )
    reason = ""
    if got.dtype != dtype:
        passed, reason = False, f"the result is {got.dtype}, not {dtype}"
    return KernelCheck(
        **facts,
        status="passed" if passed else "failed",
        values=_finite(values),
        gradients={name: _finite(error) for name, error in gradients.items()},
        reason=reason,
    )


def _skipped(case: Case, backend: str, oracle: str, dtype: torch.dtype, error: BaseException) -> KernelCheck:
    if isinstance(error, BackendError):
        reason = error.what
    else:
        first = (str(error).splitlines() or ["out of memory"])[0]
        reason = f"memory is too short: {' '.join(_SENTENCE_END.split(first)[:2])}"  # CUDA goes on for a page
    return KernelCheck(**_facts(case, backend, oracle, dtype), status="skipped", reason=reason)


def crashed(case: Case, backend: str, dtype: torch.dtype) -> KernelCheck:
    """The check of a large input whose process died."""
    facts = _facts(case, backend, ENDS_ORACLE, dtype)
    return KernelCheck(**facts, status="failed", reason="its process died")


def _facts(case: Case, backend: str, oracle: str, dtype: torch.dtype) -> dict[str, Any]:
    """Results and gradients are held to the tolerance of the activations' dtype."""
    allowed = tolerance_of(case.op, dtype)
    return {
        "op": case.op,
        "backend": backend,
        "case": case.name,
        "dtype": str(dtype).removeprefix("torch."),
        "oracle": oracle,
        "tolerance": allowed.values,
        "gradient_tolerance": allowed.gradients,
    }


def _finite(error: float) -> float | None:
    return error if error < float("inf") else None


def require_right(op: str, device: str, backend: str = "auto") -> KernelCheck:
    """The quick check of the backend that will run ``op``, before anything is timed with it.

    Raises:
        UsageError: there is no such op or backend.
        BackendError: the backend cannot run here, or does not agree with the reference.
    """
    _, name, _ = resolve(op, device, backend)
    (found,) = check_case(quick_case(op), [name], device, torch.float32, seed=0)
    if found.status != "passed":
        detail = found.reason or f"by {found.values} of the largest value, gradients by {found.gradients}"
        raise BackendError(
            f"backend {name!r} disagrees with the reference on {device}: {detail}",
            where=op,
            remedy=f"`climp-bench bench-kernels --op {op}` tells more; nothing was timed with it.",
        )
    return found


def first_failures(checks: Sequence[KernelCheck]) -> Mapping[tuple[str, str], str]:
    """The first case that failed, by op and backend."""
    failures: dict[tuple[str, str], str] = {}
    for check in checks:
        if check.status == "failed":
            failures.setdefault((check.op, check.backend), f"{check.case} ({check.dtype})")
    return failures
