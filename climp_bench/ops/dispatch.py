"""Which implementation of an op runs on a device, and why.

Adding a backend is one file with a function of the op's signature (without ``backend``) and one line in
``_BACKENDS``; the order of the lines is the order of preference of ``auto``.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from climp_bench.errors import BackendError
from climp_bench.registry import unknown

Kernel = Callable[..., Tensor]


@dataclass(frozen=True)
class BackendStatus:
    """Whether a backend of an op can run on a device.

    Attributes:
        name: the backend's name, as given to ``backend=``.
        available: whether it can run.
        reason: why it can or cannot, one sentence without a full stop.
    """

    name: str
    available: bool
    reason: str


@dataclass(frozen=True)
class _Backend:
    """A backend: the module that holds it, and a probe that says whether it runs on a device and why."""

    name: str
    module: str
    probe: Callable[[torch.device], tuple[bool, str]]


def _anywhere(reason: str) -> Callable[[torch.device], tuple[bool, str]]:
    """A probe for backends that run on every device."""
    return lambda device: (True, reason)


def _meta_only(device: torch.device) -> tuple[bool, str]:
    """A probe for the backend that computes nothing."""
    if device.type == "meta":
        return True, "shapes and costs, computes nothing"
    return False, "it computes nothing, and serves to count on the meta device"


def _numba(device: torch.device) -> tuple[bool, str]:
    """A probe for loops that numba compiles."""
    if device.type != "cpu":
        return False, "its loops are compiled for CPUs"
    if importlib.util.find_spec("numba") is None:
        return False, "numba is not installed: pip install numba"
    return True, "loops compiled by numba at their first call, kept on disk"


_TORCH = _anywhere("vectorised PyTorch, runs on every device")
_REFERENCE = _anywhere("float64 loops for checking, slow")

_BACKENDS: dict[str, tuple[_Backend, ...]] = {
    "selective_scan": (
        _Backend("meta", "climp_bench.ops.meta_backend", _meta_only),
        _Backend("numba", "climp_bench.ops.numba_backend", _numba),
        _Backend("torch", "climp_bench.ops.torch_backend", _TORCH),
        _Backend("reference", "climp_bench.ops.reference", _REFERENCE),
    ),
    "ss2d": (
        _Backend("meta", "climp_bench.ops.meta_backend", _meta_only),
        _Backend("numba", "climp_bench.ops.numba_backend", _numba),
        _Backend("torch", "climp_bench.ops.torch_backend", _TORCH),
        _Backend("reference", "climp_bench.ops.reference", _REFERENCE),
    ),
    "ssd": (
        _Backend("meta", "climp_bench.ops.meta_backend", _meta_only),
        _Backend("torch", "climp_bench.ops.torch_backend_ssd", _TORCH),
        _Backend("reference", "climp_bench.ops.reference", _REFERENCE),
    ),
}


def backends(op: str, device: torch.device | str | None = None) -> list[BackendStatus]:
    """The backends of ``op`` in order of preference, with what each says about ``device``.

    Args:
        op: ``selective_scan``, ``ss2d`` or ``ssd``.
        device: the device to ask about; without it the current accelerator if there is one, else the CPU.

    Raises:
        UsageError: there is no such op.
    """
    where = torch.device(device) if device is not None else _default_device()
    return [BackendStatus(b.name, *b.probe(where)) for b in _entries(op)]


def resolve(op: str, device: torch.device | str, backend: str = "auto") -> tuple[Kernel, str, str]:
    """The function that runs ``op`` on ``device``, its backend's name, and why it was chosen.

    Args:
        op: ``selective_scan``, ``ss2d`` or ``ssd``.
        device: where the tensors live.
        backend: a backend's name, or ``auto`` for the first that is available.

    Raises:
        UsageError: there is no such op or backend.
        BackendError: the requested backend cannot run on this device, or none can.
    """
    where = torch.device(device)
    entries = _entries(op)
    if backend != "auto":
        named = [entry for entry in entries if entry.name == backend]
        if not named:
            raise unknown("backend", backend, ["auto", *(entry.name for entry in entries)])
        available, reason = named[0].probe(where)
        if not available:
            raise BackendError(
                f"backend {backend!r} cannot run on {where}: {reason}",
                where=op,
                remedy="Use backend 'auto', or see `climp-bench doctor` for what can run here.",
            )
        return _load(op, named[0]), backend, f"requested; {reason}"
    passed_over: list[str] = []
    for entry in entries:
        available, reason = entry.probe(where)
        if available:
            why = "; ".join([f"auto: {entry.name} ({reason})", *passed_over])
            return _load(op, entry), entry.name, why
        passed_over.append(f"not {entry.name} ({reason})")
    raise BackendError(
        f"no backend can run on {where}: " + "; ".join(passed_over),
        where=op,
        remedy="Use --device cpu.",
    )


def _entries(op: str) -> tuple[_Backend, ...]:
    if op not in _BACKENDS:
        raise unknown("op", op, _BACKENDS)
    return _BACKENDS[op]


def _load(op: str, entry: _Backend) -> Kernel:
    """Import the backend's module only now: start-up stays free of compilers and kernels."""
    kernel: Kernel = getattr(importlib.import_module(entry.module), op)
    return kernel


def _default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def check_shapes(op: str, expected: dict[str, tuple[Tensor, tuple[int, ...]]]) -> None:
    """Compare each named tensor's shape with the one that the other arguments ask for.

    Raises:
        ValueError: a shape differs; the message names the op, the argument and both shapes.
    """
    for name, (tensor, shape) in expected.items():
        if tuple(tensor.shape) != shape:
            raise ValueError(
                f"{op}: {name} has shape {tuple(tensor.shape)}; the other arguments ask for {shape}"
            )
