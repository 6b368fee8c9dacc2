"""``ss2d`` on a GPU by Triton kernels, forward and backward; Triton itself is imported at the first call.

Without gradients and with one state a channel the kernels of ``triton_ss2d_walk_kernels`` run. Else a pass
over the image per axis covers its two directions, so the result is written twice. What autograd keeps is the
inputs and, for images of several tiles, the states that enter them: everything else is computed again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from climp_bench.errors import BackendError
from climp_bench.ops.torch_backend_scan import no_autocast, records_gradient
from climp_bench.ops.triton_ss2d_infer import Norm, infer

_DIRECTIONS = 4
_FEWEST_POSITIONS = 16
"""The smallest side of a matrix product on tensor cores."""


@dataclass(frozen=True)
class Tiling:
    """Sizes of the kernels' work, each a power of two; in matrix products, at least 16.

    Attributes:
        positions: positions of a tile, forward and backward.
        channels: channels of a tile.
        warps: warps of a program that owns a tile.
        backward_channels: channels of a tile in the gradient's kernel, which needs twice the registers.
        backward_warps: its warps.
        carry_tiles: tiles that the scan over tiles takes at a time.
        carry_channels: its channels.
        carry_warps: its warps.
    """

    positions: int
    channels: int
    warps: int
    backward_channels: int
    backward_warps: int
    carry_tiles: int = 32
    carry_channels: int = 32
    carry_warps: int = 1


TILINGS: tuple[tuple[int, Tiling], ...] = (
    (64, Tiling(positions=64, channels=32, warps=4, backward_channels=32, backward_warps=4)),
    (1 << 31, Tiling(positions=32, channels=32, warps=2, backward_channels=32, backward_warps=2)),
)
"""By the most pixels an image may have: a small one is a single tile, and skips the scan over tiles.

A warp is 32 channels, so ``32 warps / channels`` threads share a column, and each holds 16 positions.
"""


def ss2d(
    x_BHWE: Tensor,
    x_dbl_BHWKC: Tensor,
    dt_weight_KER: Tensor,
    dt_bias_KE: Tensor,
    A_logs_KEN: Tensor,
    D_KE: Tensor,
) -> Tensor:
    """See ``climp_bench.ops.ss2d``; float64 and images of 2^31 elements raise a ``BackendError``."""
    tensors = (x_BHWE, x_dbl_BHWKC, dt_weight_KER, dt_bias_KE, A_logs_KEN, D_KE)
    _check(tensors)
    if A_logs_KEN.shape[-1] == 1 and not records_gradient(*tensors):
        return infer(tuple(t.contiguous() for t in tensors), None)
    precision = _precision(x_dbl_BHWKC.dtype, dt_weight_KER.dtype)
    with no_autocast(x_BHWE.device):
        weight, bias = dt_weight_KER.float().contiguous(), dt_bias_KE.float().contiguous()
        A_KNE = -torch.exp(A_logs_KEN.float()).transpose(1, 2).contiguous()
        inputs = (x_BHWE.contiguous(), x_dbl_BHWKC.contiguous(), weight, bias, A_KNE, D_KE.float().sum(0))
        if records_gradient(*inputs):
            y: Tensor = _SS2D.apply(*inputs, precision)
            return y
        return _Launcher(inputs, precision).forward()[0]


def ss2d_normed(
    x_BHWE: Tensor,
    x_dbl_BHWKC: Tensor,
    dt_weight_KER: Tensor,
    dt_bias_KE: Tensor,
    A_logs_KEN: Tensor,
    D_KE: Tensor,
    norm_weight_E: Tensor,
    norm_bias_E: Tensor,
    eps: float,
) -> Tensor:
    """The layer norm of ``ss2d`` with N = 1, in the dtype of x; records no gradients. Raises as ``ss2d``."""
    tensors = (x_BHWE, x_dbl_BHWKC, dt_weight_KER, dt_bias_KE, A_logs_KEN, D_KE)
    _check(tensors)
    return infer(tuple(t.contiguous() for t in tensors), Norm(norm_weight_E, norm_bias_E, eps))


def _check(tensors: tuple[Tensor, ...]) -> None:
    x, x_dbl = tensors[:2]
    remedy = "Use --backend torch."
    if any(t.dtype == torch.float64 for t in tensors):
        raise BackendError("the triton backend computes in float32, not float64", where="ss2d", remedy=remedy)
    if max(x[:1].numel(), x_dbl[:1].numel()) >= 1 << 31:
        raise BackendError(
            f"an image of shape {tuple(x.shape[1:])} has offsets beyond 32 bits", where="ss2d", remedy=remedy
        )


def _precision(low: torch.dtype, weight: torch.dtype) -> str:
    """How to multiply in ``dt_weight low`` so that only float32's rounding is added.

    TF32 holds any half-precision number, but for the smallest of float16's; three of its products make up for
    the other bits of a float32 on one side. With float32 on both sides the products are float32's own.
    """
    half = (torch.bfloat16, torch.float16)
    if low not in half:
        return "ieee"
    return "tf32" if weight in half else "tf32x3"


class _SS2D(torch.autograd.Function):
    """The op on contiguous x_BHWE, x_dbl_BHWKC, and float32 dt_weight_KER, dt_bias_KE, A_KNE, skip_E."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        *inputs, precision = arguments
        y, *entering = _Launcher(tuple(inputs), precision).forward()
        ctx.save_for_backward(*inputs, *entering)
        ctx.precision = precision
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs, entering = ctx.saved_tensors[:6], ctx.saved_tensors[6:]
        with no_autocast(grad.device):
            grads = _Launcher(inputs, ctx.precision).backward(grad.float().contiguous(), entering)
        return (*(g.to(t.dtype) for g, t in zip(grads, inputs, strict=True)), None)


class _Launcher:
    """The kernels' sizes for some inputs, and the order they run in."""

    def __init__(self, inputs: tuple[Tensor, ...], precision: str) -> None:
        from triton import next_power_of_2

        self.x, self.x_dbl, self.weight, self.bias, self.A, self.skip = inputs
        self.batch, self.height, self.width, self.channels = map(int, self.x.shape)
        self.rank, self.state = int(self.weight.shape[-1]), int(self.A.shape[1])
        self.length = self.height * self.width
        self.tiling = next(tiling for most, tiling in TILINGS if self.length <= most)
        fitting = max(_FEWEST_POSITIONS, next_power_of_2(self.length))
        self.positions = min(self.tiling.positions, fitting)
        self.tiles = -(-self.length // self.positions)
        self.precision = precision
        self.sizes = {
            "height": self.height,
            "width": self.width,
            "tiles": self.tiles,
            "E": self.channels,
            "R": self.rank,
            "N": self.state,
            "PRECISION": precision,
            "T": self.positions,
            "P": max(16, next_power_of_2(self.rank)),
        }

    def forward(self) -> tuple[Tensor, ...]:
        """``y`` and, of each axis, the states that enter the tiles (empty if an image is one tile)."""
        from climp_bench.ops.triton_ss2d_kernels import scan

        y = torch.empty_like(self.x, dtype=torch.float32)
        entering = []
        with torch.cuda.device_of(self.x):
            for axis in range(2):
                entering.append(self._entering(self.x, axis, adjoint=False))
                scan[self._grid(self.tiling.channels)](
                    *(self.x, self.x_dbl, self.weight, self.bias, self.A, self.skip, entering[axis], y),
                    **self.sizes,
                    AXIS=axis,
                    ENTERED=self.tiles > 1,
                    X=self.tiling.channels,
                    num_warps=self.tiling.warps,
                )
        return (y, *entering)

    def backward(self, grad_y: Tensor, entering: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The gradients of the inputs, float32."""
        from climp_bench.ops.triton_ss2d_backward import gradient

        width = self.tiling.backward_channels
        blocks, parts = -(-self.channels // width), self.batch * self.tiles
        new = self.skip.new_empty
        grad_x = torch.empty_like(grad_y)
        sums = [
            new(blocks, *self.x_dbl.shape),
            *(new(parts, *t.shape) for t in (self.weight, self.bias, self.A, self.skip)),
        ]
        with torch.cuda.device_of(self.x):
            for axis in range(2):
                returning = self._entering(grad_y, axis, adjoint=True)
                gradient[self._grid(width)](
                    *(self.x, grad_y, self.x_dbl, self.weight, self.bias, self.A, self.skip),
                    *(entering[axis], returning, grad_x, *sums),
                    **self.sizes,
                    images=self.batch,
                    AXIS=axis,
                    ENTERED=self.tiles > 1,
                    GRAD_PRECISION="ieee" if self.precision == "ieee" else "tf32x3",
                    X=width,
                    num_warps=self.tiling.backward_warps,
                )
        return (grad_x, *(t.sum(0) for t in sums))

    def _entering(self, source: Tensor, axis: int, *, adjoint: bool) -> Tensor:
        """The states that enter the tiles, (B, 2, J, N, E); empty if an image is one tile."""
        from climp_bench.ops.triton_ss2d_kernels import aggregate, carry

        if self.tiles == 1:
            return self.skip.new_empty(0)
        tiling = self.tiling
        shape = (self.batch, 2, self.tiles, self.state, self.channels)
        decay, states = (self.skip.new_empty(shape) for _ in range(2))
        aggregate[self._grid(tiling.channels)](
            *(source, self.x_dbl, self.weight, self.bias, self.A, decay, states),
            **self.sizes,
            AXIS=axis,
            ADJOINT=int(adjoint),
            X=tiling.channels,
            num_warps=tiling.warps,
        )
        columns = self.state * self.channels
        carry[(2 * self.batch * -(-columns // tiling.carry_channels),)](
            *(decay, states, self.tiles),
            NE=columns,
            ADJOINT=int(adjoint),
            T=tiling.carry_tiles,
            X=tiling.carry_channels,
            num_warps=tiling.carry_warps,
        )
        return states

    def _grid(self, channels: int) -> tuple[int]:
        return (self.batch * self.tiles * -(-self.channels // channels),)
