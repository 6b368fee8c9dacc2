"""What runs and why: no silent fallback, reasons stated, shapes checked, memory poisoned and bounded."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from climp_bench.errors import BackendError, UsageError
from climp_bench.eval.kernel_cases import check_cases
from climp_bench.eval.kernel_inputs import make_inputs
from climp_bench.ops import backends, dispatch, resolve, selective_scan, ss2d, ssd, torch_backend_scan

ON_A_CPU = {"selective_scan": "numba", "ss2d": "numba", "ssd": "torch"}
ON_GPUS = {"selective_scan": ["triton", "mamba-ssm"], "ss2d": ["triton"], "ssd": ["triton", "mamba-ssm"]}
OPS = tuple(ON_A_CPU)


@pytest.fixture
def broken_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """A preferred backend of ss2d that cannot run, ahead of the real ones."""
    broken = dispatch._Backend(
        "broken", "no.such.module", lambda device: (False, f"no compiler for {device}")
    )
    monkeypatch.setitem(dispatch._BACKENDS, "ss2d", (broken, *dispatch._BACKENDS["ss2d"]))


@pytest.mark.parametrize("op", OPS)
def test_auto_takes_the_first_that_can_run_and_says_why(op: str) -> None:
    kernel, name, reason = resolve(op, "cpu")
    assert name == ON_A_CPU[op]
    assert reason.startswith(f"auto: {name} (")
    assert kernel.__name__ == op


@pytest.mark.parametrize("op", OPS)
def test_a_named_backend_is_the_one_that_runs(op: str) -> None:
    kernel, name, reason = resolve(op, "cpu", "reference")
    assert (name, kernel.__module__) == ("reference", "climp_bench.ops.reference")
    assert reason.startswith("requested")
    named = [(b.name, b.available) for b in backends(op, "cpu")]
    compiled = [] if op == "ssd" else [("numba", True)]
    first, *others = [(name, False) for name in ON_GPUS[op]]
    assert named == [("meta", False), *compiled, first, ("torch", True), *others, ("reference", True)]


def test_triton_serves_gpus_and_on_a_cpu_its_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    with pytest.raises(
        BackendError, match="backend 'triton' cannot run on cpu: its kernels are compiled for GPUs"
    ):
        resolve("ss2d", "cpu", "triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    kernel, name, reason = resolve("ss2d", "cpu", "triton")
    assert (name, kernel.__module__) == ("triton", "climp_bench.ops.triton_ss2d")
    assert "interpreted" in reason
    assert resolve("ss2d", "cpu")[1] == ON_A_CPU["ss2d"]


@pytest.mark.parametrize(("capability", "available"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_triton_needs_an_ampere_gpu(
    capability: tuple[int, int], available: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: capability)
    status = {b.name: b for b in backends("ss2d", "cuda")}["triton"]
    assert status.available == available
    assert available or "this device has 7.5" in status.reason
    _, name, reason = resolve("ss2d", "cuda")
    assert name == ("triton" if available else "torch")
    assert available or "not triton (its kernels need compute capability 8.0; this device has 7.5)" in reason


@pytest.mark.usefixtures("broken_first")
def test_a_requested_backend_that_cannot_run_is_an_error() -> None:
    with pytest.raises(
        BackendError, match=r"ss2d: backend 'broken' cannot run on cpu: no compiler for cpu\. Use"
    ):
        resolve("ss2d", "cpu", "broken")


@pytest.mark.usefixtures("broken_first")
def test_auto_names_what_it_passed_over() -> None:
    _, name, reason = resolve("ss2d", "cpu")
    assert name == ON_A_CPU["ss2d"]
    assert "not broken (no compiler for cpu)" in reason
    assert backends("ss2d", "cpu")[0] == dispatch.BackendStatus("broken", False, "no compiler for cpu")


def test_without_numba_torch_runs_and_the_reason_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    _, name, reason = resolve("ss2d", "cpu")
    assert name == "torch" and "not numba (numba is not installed" in reason


def test_no_backend_at_all_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = dispatch._Backend("broken", "no.such.module", lambda device: (False, "no compiler"))
    monkeypatch.setitem(dispatch._BACKENDS, "ssd", (broken,))
    with pytest.raises(BackendError, match=r"no backend can run on cpu: not broken \(no compiler\)"):
        resolve("ssd", "cpu")


def test_unknown_names_offer_near_matches() -> None:
    with pytest.raises(UsageError, match="Did you mean 'ss2d'"):
        resolve("ss2", "cpu")
    with pytest.raises(UsageError, match="Did you mean 'reference'"):
        resolve("ss2d", "cpu", "referense")
    with pytest.raises(UsageError, match="unknown op"):
        backends("attention")


def test_misshapen_arguments_are_named() -> None:
    u, A, B, D = torch.zeros(1, 4, 3), torch.zeros(3, 2), torch.zeros(1, 4, 2), torch.zeros(3)
    with pytest.raises(ValueError, match=r"C_BLN has shape \(1, 4, 3\); .* \(1, 4, 2\)"):
        selective_scan(u, u, A, B, u, D)
    with pytest.raises(ValueError, match="z_BLD"):
        selective_scan(u, u, A, B, B, D, z_BLD=B)
    k = torch.zeros(4, 3, 1)
    with pytest.raises(ValueError, match=r"x_dbl_BHWKC .* \(1, 2, 2, 4, 3\)"):
        ss2d(torch.zeros(1, 2, 2, 3), torch.zeros(1, 2, 2, 4, 2), k, k[..., 0], k, k[..., 0])
    x, dt, G = torch.zeros(1, 4, 3, 2), torch.zeros(1, 4, 3), torch.zeros(1, 4, 2, 5)
    with pytest.raises(ValueError, match="3 heads cannot be split into 2 groups"):
        ssd(x, dt, D, G, G, D, chunk_size=4)
    with pytest.raises(ValueError, match="chunk_size is 0"):
        ssd(x, dt, D, G[:, :, :1], G[:, :, :1], D, chunk_size=0)


def test_uninitialised_memory_is_poisoned_here() -> None:
    assert torch.empty(3).isnan().all()


class _LargestTensor(TorchDispatchMode):
    """Records the most elements of any tensor that an operation returns."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.numel())
        return out


@pytest.mark.parametrize("training", [False, True])
def test_inference_never_holds_the_states_of_a_whole_sequence(
    training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    length, channels, state = 50, 64, 16
    monkeypatch.setattr(torch_backend_scan, "_CPU_STATES", 5 * channels * state)
    u = torch.zeros(1, length, channels, requires_grad=training)
    A, B = -torch.ones(channels, state), torch.zeros(1, length, state)
    with _LargestTensor() as seen:
        selective_scan(u, u, A, B, B, torch.ones(channels), backend="torch")
    all_states = length * channels * state
    assert seen.largest == all_states if training else seen.largest <= all_states // 10


@pytest.mark.parametrize("op", ["selective_scan", "ss2d"])
def test_the_compiler_takes_a_scan_of_a_cpu_as_it_is(op: str) -> None:
    """Without a break of its graph, once the backend is loaded."""
    case = check_cases(op)[3]
    call, inputs = (
        {"selective_scan": selective_scan, "ss2d": ss2d}[op],
        make_inputs(case, "cpu", torch.float32, 0),
    )
    dispatch.resolve(op, "cpu", "numba")

    def run() -> torch.Tensor:
        return call(**inputs.tensors, **inputs.options, backend="numba")

    with torch.no_grad():
        torch.testing.assert_close(torch.compile(run, backend="aot_eager", fullgraph=True)(), run())
