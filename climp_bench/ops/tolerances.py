"""How far a backend may be from the float64 reference: one table for tests and ``bench-kernels``.

The error of a tensor is its largest absolute error over the largest absolute value of the reference. In half
precision activations and results are rounded, parameters and arithmetic are float32: what is allowed is one
rounding of the result (half a unit in the last place) and a half more, twice that for a gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tolerance:
    """Largest relative error of a result and of the gradient of any argument."""

    values: float
    gradients: float


TOLERANCES = {
    torch.float64: Tolerance(1e-12, 1e-11),
    torch.float32: Tolerance(1e-5, 5e-5),
    torch.bfloat16: Tolerance(1.5 * 2**-8, 3 * 2**-8),
    torch.float16: Tolerance(1.5 * 2**-11, 3 * 2**-11),
}
"""By dtype of what is compared; for gradients that of the activations, whatever the parameters' is."""

SMALLEST_SCALE = 1e-3
"""Errors of tensors smaller than this all over are relative to it."""


def relative_error(got: Tensor, expected: Tensor) -> float:
    """Largest error over the largest value of ``expected``; infinite if shapes differ or a value is NaN."""
    if got.shape != expected.shape:
        return float("inf")
    if not expected.numel():
        return 0.0
    got, expected = got.detach().double(), expected.detach().double().to(got.device)
    error = float((got - expected).abs().max() / expected.abs().max().clamp(min=SMALLEST_SCALE))
    return error if error == error else float("inf")


def tolerance_of(op: str, dtype: torch.dtype) -> Tolerance:
    """What is allowed to ``op`` with results in ``dtype``.

    ``ss2d`` sums four directions, whose own results may be rounded to half precision: one rounding more.
    """
    allowed = TOLERANCES[dtype]
    if op == "ss2d" and dtype in (torch.bfloat16, torch.float16):
        return Tolerance(allowed.values + torch.finfo(dtype).eps / 2, allowed.gradients)
    return allowed
