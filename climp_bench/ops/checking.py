"""A quick look at whether the backend that will run an op computes what its reference does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from climp_bench.errors import BackendError
from climp_bench.ops.dispatch import resolve
from climp_bench.registry import unknown

TOLERANCE = 1e-3
"""Largest error over the largest value of the reference. Float32 stays far below it; a product in TF32 does,
too. A backend that does something else does not. The tests hold backends to less."""


@dataclass(frozen=True)
class Check:
    """A backend that agrees with the reference.

    Attributes:
        op, backend: what was looked at.
        reason: why this backend runs here.
        error: largest error over the largest value of the reference.
    """

    op: str
    backend: str
    reason: str
    error: float


def check(op: str, device: torch.device | str, backend: str = "auto") -> Check:
    """Run ``op`` on a tiny float32 input on ``device`` and compare with the float64 reference.

    Args:
        op: ``selective_scan``, ``ss2d`` or ``ssd``.
        device: where the backend runs.
        backend: a backend's name, or ``auto`` for the one that ``auto`` runs.

    Raises:
        UsageError: there is no such op or backend.
        BackendError: the backend cannot run here, or it disagrees with the reference.
    """
    if op not in _INPUTS:
        raise unknown("op", op, _INPUTS)
    kernel, name, reason = resolve(op, device, backend)
    reference, _, _ = resolve(op, "cpu", "reference")
    generator = torch.Generator().manual_seed(0)
    inputs = _INPUTS[op](generator)
    options: dict[str, int] = {"chunk_size": 4} if op == "ssd" else {}
    with torch.inference_mode():
        expected = reference(**{key: tensor.double() for key, tensor in inputs.items()}, **options)
        got = kernel(**{key: tensor.to(device) for key, tensor in inputs.items()}, **options)
    error = float((got.double().cpu() - expected).abs().max() / expected.abs().max())
    if not error <= TOLERANCE:
        raise BackendError(
            f"backend {name!r} disagrees with the reference on {device} by {error:.1e} of the largest value",
            where=op,
            remedy="Report it with what `climp-bench doctor` prints; nothing was timed with it.",
        )
    return Check(op, name, reason, error)


def _selective_scan(generator: torch.Generator) -> dict[str, Tensor]:
    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    batch, length, channels, state = 2, 7, 32, 16
    return {
        "u_BLD": normal(batch, length, channels),
        "delta_BLD": normal(batch, length, channels) - 1,
        "A_DN": -torch.arange(1, state + 1).float().repeat(channels, 1),
        "B_BLN": normal(batch, length, state),
        "C_BLN": normal(batch, length, state),
        "D_D": normal(channels),
        "delta_bias_D": normal(channels) - 1,
        "z_BLD": normal(batch, length, channels),
    }


def _ss2d(generator: torch.Generator) -> dict[str, Tensor]:
    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    channels, rank, state = 32, 8, 1
    return {
        "x_BHWE": normal(2, 5, 6, channels),
        "x_dbl_BHWKC": normal(2, 5, 6, 4, rank + 2 * state),
        "dt_weight_KER": 0.1 * normal(4, channels, rank),
        "dt_bias_KE": normal(4, channels) - 1,
        "A_logs_KEN": 0.1 * normal(4, channels, state),
        "D_KE": normal(4, channels),
    }


def _ssd(generator: torch.Generator) -> dict[str, Tensor]:
    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    batch, length, heads, channels, groups, state = 2, 10, 4, 16, 1, 16
    return {
        "x_BLHP": normal(batch, length, heads, channels),
        "dt_BLH": 0.1 * normal(batch, length, heads).abs(),
        "A_H": -torch.arange(1, heads + 1).float(),
        "B_BLGN": normal(batch, length, groups, state),
        "C_BLGN": normal(batch, length, groups, state),
        "D_H": normal(heads),
    }


_INPUTS: dict[str, Callable[[torch.Generator], dict[str, Tensor]]] = {
    "selective_scan": _selective_scan,
    "ss2d": _ss2d,
    "ssd": _ssd,
}
