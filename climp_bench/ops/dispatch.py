"""Which implementation of an op runs on a device, and why.

Adding a backend is one file with a function of the op's signature (without ``backend``) and one line in
``_BACKENDS``; the order of the lines is the order of preference of ``auto``.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

from climp_bench.errors import BackendError, UsageError
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
    if not _installed(importlib.util.find_spec, "numba"):
        return False, "numba is not installed: pip install numba"
    return True, "loops compiled by numba at their first call, kept on disk"


@cache
def _installed(find: Callable[[str], object], module: str) -> bool:
    """Whether ``find`` finds a module; looked up once, because every call of an op asks."""
    return find(module) is not None


def _gpu(device: torch.device, package: str) -> str:
    """Why ``package``, whose kernels need a GPU of NVIDIA's Ampere or later, cannot run here, or nothing."""
    if not _installed(importlib.util.find_spec, package.replace("-", "_")):
        return f"{package} is not installed: pip install {package}"
    if device.type != "cuda":
        return "its kernels are compiled for GPUs"
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    capability = torch.cuda.get_device_capability(device)
    if capability < (8, 0):
        return "its kernels need compute capability 8.0; this device has {}.{}".format(*capability)
    return ""


def _triton(device: torch.device) -> tuple[bool, str]:
    """A probe for kernels that Triton compiles, or interprets on a CPU when ``TRITON_INTERPRET`` is 1."""
    interpreted = os.environ.get("TRITON_INTERPRET") == "1" and device.type == "cpu"
    if interpreted and _installed(importlib.util.find_spec, "triton"):
        return True, "kernels interpreted by Triton for checking, slow"
    missing = _gpu(device, "triton")
    return not missing, missing or "fused kernels compiled by Triton at their first call"


def _mamba_ssm(device: torch.device) -> tuple[bool, str]:
    """A probe for the kernels of the package mamba-ssm, found without importing it."""
    missing = _gpu(device, "mamba-ssm")
    return not missing, missing or "the kernels of the package, whose ssd rounds float32 to TF32"


_TORCH = _anywhere("vectorised PyTorch, runs on every device")
_REFERENCE = _anywhere("float64 loops for checking, slow")

_BACKENDS: dict[str, tuple[_Backend, ...]] = {
    "selective_scan": (
        _Backend("meta", "climp_bench.ops.meta_backend", _meta_only),
        _Backend("numba", "climp_bench.ops.numba_backend", _numba),
        _Backend("triton", "climp_bench.ops.triton_scan", _triton),
        _Backend("torch", "climp_bench.ops.torch_backend", _TORCH),
        _Backend("mamba-ssm", "climp_bench.ops.mamba_ssm_backend", _mamba_ssm),
        _Backend("reference", "climp_bench.ops.reference", _REFERENCE),
    ),
    "ss2d": (
        _Backend("meta", "climp_bench.ops.meta_backend", _meta_only),
        _Backend("numba", "climp_bench.ops.numba_backend", _numba),
        _Backend("triton", "climp_bench.ops.triton_ss2d", _triton),
        _Backend("torch", "climp_bench.ops.torch_backend", _TORCH),
        _Backend("reference", "climp_bench.ops.reference", _REFERENCE),
    ),
    "ssd": (
        _Backend("meta", "climp_bench.ops.meta_backend", _meta_only),
        _Backend("triton", "climp_bench.ops.triton_ssd", _triton),
        _Backend("torch", "climp_bench.ops.torch_backend_ssd", _TORCH),
        _Backend("mamba-ssm", "climp_bench.ops.mamba_ssm_backend", _mamba_ssm),
        _Backend("reference", "climp_bench.ops.reference", _REFERENCE),
    ),
}


_loaded: dict[str, ModuleType] = {}
_preferred: ContextVar[Mapping[str, str] | None] = ContextVar("preferred", default=None)


@contextmanager
def preferred(choice: Mapping[str, str]) -> Iterator[None]:
    """Inside, ``auto`` is the backend that ``choice`` names for an op; others choose as before.

    It holds for this thread only (threads start with a context of their own), and a nested one goes on top.
    """
    token = _preferred.set({**(_preferred.get() or {}), **choice})
    try:
        yield
    finally:
        _preferred.reset(token)


def ops() -> tuple[str, ...]:
    """The names of all ops."""
    return tuple(_BACKENDS)


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
        backend: a backend's name, or ``auto`` for the one that is ``preferred``, else the first available.

    Raises:
        UsageError: there is no such op or backend.
        BackendError: the requested backend cannot run on this device, or none can.
    """
    where = torch.device(device)
    entries = _entries(op)
    if backend == "auto":
        backend = (_preferred.get() or {}).get(op, "auto")
    if backend != "auto":
        named = [entry for entry in entries if entry.name == backend]
        if not named:
            raise _no_such(op, backend)
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
        if available and not (where.type == "cpu" and entry.name == "triton"):  # interpreted, if at all
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


def _no_such(op: str, backend: str) -> UsageError:
    """The error for a backend that ``op`` does not have, though others may."""
    own = ["auto", *(entry.name for entry in _BACKENDS[op] if entry.name != "meta")]
    if any(entry.name == backend for entries in _BACKENDS.values() for entry in entries):
        remedy = f"It has: {', '.join(own)}. Name backends by op: ss2d=NAME,selective_scan=NAME."
        return UsageError(f"there is no backend {backend!r} of this op", where=op, remedy=remedy)
    return unknown("backend", backend, own)


def _load(op: str, entry: _Backend) -> Kernel:
    """Import the backend's module only now: start-up stays free of compilers and kernels.

    Remembered in a dictionary, because torch.compile can trace that and not an import.
    """
    module = _loaded.get(entry.module)
    if module is None:
        module = _loaded[entry.module] = importlib.import_module(entry.module)
    kernel: Kernel = getattr(module, op)
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
