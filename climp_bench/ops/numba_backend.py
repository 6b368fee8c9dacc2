"""``selective_scan`` and ``ss2d`` on a CPU by compiled loops, forward and backward.

Elementwise work and matrix products stay with torch; the walks are ``numba_kernels``'. Nothing is ever laid
out as a sequence: a walk is an order of reading the image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, library
from torch.autograd.function import once_differentiable

from climp_bench.ops import numba_kernels as kernels
from climp_bench.ops.torch_backend_scan import compute_dtype, no_autocast, records_gradient

_BLOCK = 256
"""Channels of a job: with 16 states of each and their decays, 32 KiB."""


def selective_scan(
    u_BLD: Tensor,
    delta_BLD: Tensor,
    A_DN: Tensor,
    B_BLN: Tensor,
    C_BLN: Tensor,
    D_D: Tensor,
    *,
    delta_bias_D: Tensor | None = None,
    z_BLD: Tensor | None = None,
    delta_softplus: bool = True,
) -> Tensor:
    """See ``climp_bench.ops.selective_scan``."""
    dtype = compute_dtype(u_BLD, delta_BLD, A_DN)
    with no_autocast(u_BLD.device):
        u, delta, A, B, C, D = (t.to(dtype) for t in (u_BLD, delta_BLD, A_DN, B_BLN, C_BLN, D_D))
        bias = torch.zeros_like(D) if delta_bias_D is None else delta_bias_D.to(dtype)
        walk = (0, 1, int(u.shape[1]))
        z = None if z_BLD is None else z_BLD.to(dtype)
        inputs = (u, delta, bias, A.T, B, C)
        if records_gradient(*inputs, D, *([] if z is None else [z])):
            y = torch.addcmul(_walked(*inputs, walk, delta_softplus), u, D)
            y = y if z is None else y * F.silu(z)
        else:
            y = torch.empty_like(u, memory_format=torch.contiguous_format)
            _forward(inputs, y, walk, delta_softplus, D, z)
    return y.to(u_BLD.dtype)


def ss2d(
    x_BHWE: Tensor,
    x_dbl_BHWKC: Tensor,
    dt_weight_KER: Tensor,
    dt_bias_KE: Tensor,
    A_logs_KEN: Tensor,
    D_KE: Tensor,
) -> Tensor:
    """See ``climp_bench.ops.ss2d``."""
    height, width = map(int, x_BHWE.shape[1:3])
    rank, state = dt_weight_KER.shape[-1], A_logs_KEN.shape[-1]
    dtype = compute_dtype(x_BHWE, x_dbl_BHWKC, A_logs_KEN)
    with no_autocast(x_BHWE.device):
        x_BLE = x_BHWE.to(dtype).flatten(1, 2)
        A_KNE = -torch.exp(A_logs_KEN.to(dtype)).transpose(1, 2)
        y = x_BLE * D_KE.to(dtype).sum(0)
        for k, projected in enumerate(x_dbl_BHWKC.to(dtype).flatten(1, 2).unbind(2)):
            low, B, C = torch.split(projected, [rank, state, state], dim=-1)
            raw = F.linear(low, dt_weight_KER[k].to(dtype))
            walk = (k, height, width)
            y = _walked(x_BLE, raw, dt_bias_KE[k].to(dtype), A_KNE[k], B, C, walk, True, onto=y)
        return torch.unflatten(y, 1, (height, width))


def _walked(
    u: Tensor,
    raw: Tensor,
    bias: Tensor,
    A_NE: Tensor,
    B: Tensor,
    C: Tensor,
    walk: tuple[int, int, int],
    softplus: bool,
    onto: Tensor | None = None,
) -> Tensor:
    """``C h`` of one walk, added to ``onto`` (in place if nothing asks for a gradient)."""
    inputs = (u, raw, bias, A_NE, B, C)
    if records_gradient(*inputs):
        y: Tensor = _Walk.apply(*inputs, walk, softplus)
        return y if onto is None else onto + y
    y = torch.zeros_like(u, memory_format=torch.contiguous_format) if onto is None else onto
    _forward(inputs, y, walk, softplus)
    return y


def _forward(
    inputs: tuple[Tensor, ...], y: Tensor, walk: tuple[int, int, int], softplus: bool,
    skip: Tensor | None = None, z: Tensor | None = None,
) -> None:  # fmt: skip
    """``C h`` added to ``y``; with ``skip`` the whole op, written to it."""
    end = kernels.ADDED if skip is None else kernels.SKIPPED if z is None else kernels.GATED
    idle = inputs[2].new_empty(0)
    skip, z = idle if skip is None else skip, idle.view(0, 0, 0) if z is None else z
    given = [t.detach().contiguous() for t in (*inputs, skip, z)]
    _scan(given, y, end, softplus, walk)


@library.custom_op(
    "climp_bench::numba_scan", mutates_args=("y",),
    schema="(Tensor[] given, Tensor(a!) y, int end, bool softplus, int[] walk) -> ()",
)  # fmt: skip
def _scan(given: list[Tensor], y: Tensor, end: int, softplus: bool, walk: Sequence[int]) -> None:
    """An operator of torch, which torch.compile takes as it is."""
    u, raw, bias, A, B, C, skip, z = (t.numpy() for t in given)
    written = y.numpy()

    def run(block: int, first: int, last: int) -> None:
        kernels.scan(u, raw, bias, softplus, A, B, C, written, skip, z, end, *walk, block, first, last)

    _side_by_side(run, u.shape)


class _Walk(torch.autograd.Function):
    """One walk with its gradient; only the inputs are kept."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        *inputs, walk, softplus = arguments
        y = torch.zeros_like(inputs[0], memory_format=torch.contiguous_format)
        _forward(tuple(inputs), y, walk, softplus)
        ctx.save_for_backward(*inputs)
        ctx.walk, ctx.softplus = walk, softplus
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs = [t.detach().contiguous() for t in (grad, *ctx.saved_tensors)]
        _, u, raw, _, A, B, C = inputs
        blocks = -(-u.shape[2] // _block(u.shape))
        grad_u, grad_raw = torch.zeros_like(u), torch.empty_like(raw)
        grad_A = torch.empty(len(u), *A.shape, dtype=A.dtype)
        grad_B, grad_C = (torch.empty(blocks, *t.shape, dtype=t.dtype) for t in (B, C))
        _scan_backward(inputs, [grad_u, grad_raw, grad_A, grad_B, grad_C], ctx.softplus, ctx.walk)
        grad_bias = grad_raw.sum((0, 1))
        return grad_u, grad_raw, grad_bias, grad_A.sum(0), grad_B.sum(0), grad_C.sum(0), None, None


@library.custom_op(
    "climp_bench::numba_scan_backward", mutates_args=("made",),
    schema="(Tensor[] given, Tensor(a!)[] made, bool softplus, int[] walk) -> ()",
)  # fmt: skip
def _scan_backward(given: list[Tensor], made: list[Tensor], softplus: bool, walk: Sequence[int]) -> None:
    """As ``_scan``."""
    grad, u, raw, bias, *others = (t.numpy() for t in given)
    gradients = [t.numpy() for t in made]

    def run(block: int, first: int, last: int) -> None:
        places = (*walk, block, first, last)
        kernels.scan_backward(grad, u, raw, bias, softplus, *others, *gradients, *places)

    _side_by_side(run, u.shape)


def _block(shape: tuple[int, ...]) -> int:
    """Channels of a job for (B, L, E): fewer if there would be less than one job a thread."""
    batch, _, channels = map(int, shape)  # a tracer of torch makes tensors of them
    wanted = -(-torch.get_num_threads() // batch)
    return max(1, min(_BLOCK, -(-channels // wanted)))


def _side_by_side(run: Callable[[int, int, int], None], shape: tuple[int, ...]) -> None:
    """Call ``run(block, first, last)`` for shares of the jobs, as many as torch has threads here."""
    block = _block(shape)
    jobs = int(shape[0]) * -(-int(shape[2]) // block)
    shares = min(torch.get_num_threads(), jobs)
    bounds = [jobs * share // shares for share in range(shares + 1)]
    if shares <= 1:
        run(block, 0, jobs)
        return
    others = [_threads().submit(run, block, *bounds[k : k + 2]) for k in range(1, shares)]
    run(block, *bounds[:2])
    for other in others:
        other.result()


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="scan")
