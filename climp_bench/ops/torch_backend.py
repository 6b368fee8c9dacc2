"""``selective_scan`` and ``ss2d`` in PyTorch, with hand-written gradients.

Both save their inputs and the states, recompute the rest piece by piece in the backward pass, and run one
sequential loop each way. Without gradients only one piece's temporaries exist at a time.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from climp_bench.ops.torch_backend_scan import (
    States,
    compute_dtype,
    no_autocast,
    pieces,
    records_gradient,
    scan_piece,
    scan_piece_backward,
)

_ROW_PARTS = 256


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
        if delta_bias_D is not None:
            delta = delta + delta_bias_D.to(dtype)
        if delta_softplus:
            delta = F.softplus(delta)
        keep = records_gradient(u, delta, A, B, C)
        time_major = (t.transpose(0, 1) for t in (u, delta, B, C))
        y = torch.addcmul(_Scan.apply(*time_major, A.T, keep).transpose(0, 1), u, D)
        if z_BLD is not None:
            y = y * F.silu(z_BLD.to(dtype))
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
    batch, height, width, channels = x_BHWE.shape
    rank, state = dt_weight_KER.shape[-1], A_logs_KEN.shape[-1]
    dtype = compute_dtype(x_BHWE, x_dbl_BHWKC, A_logs_KEN)
    with no_autocast(x_BHWE.device):
        x = x_BHWE.to(dtype)
        low, B, C = torch.split(_by_direction(x_dbl_BHWKC.to(dtype)), [rank, state, state], dim=-1)
        weight, bias = dt_weight_KER.to(dtype), dt_bias_KE.to(dtype)
        A_KNE = -torch.exp(A_logs_KEN.to(dtype)).transpose(1, 2)
        by_row = x.permute(1, 2, 0, 3)
        both = torch.stack([by_row.flatten(0, 1), by_row.transpose(0, 1).flatten(0, 1)])
        keep = records_gradient(both, low, B, C, weight, bias, A_KNE)
        y_rows, y_columns = _Scan2D.apply(both, low, B, C, weight, bias, A_KNE, keep).unbind(0)
        y_columns = y_columns.view(width, height, batch, channels).transpose(0, 1)
        y = y_rows.view(height, width, batch, channels) + y_columns
        return torch.addcmul(y.permute(2, 0, 1, 3), x, D_KE.to(dtype).sum(0))


def _by_direction(x_dbl_BHWKC: Tensor) -> Tensor:
    """Each direction's projections in the order of its walk: (K, L, B, C)."""
    rows, columns, rows_back, columns_back = x_dbl_BHWKC.permute(3, 1, 2, 0, 4).unbind(0)
    return torch.stack(
        [
            rows.flatten(0, 1),
            columns.transpose(0, 1).flatten(0, 1),
            rows_back.flatten(0, 1).flip(0),
            columns_back.transpose(0, 1).flatten(0, 1).flip(0),
        ]
    )


class _Scan(torch.autograd.Function):
    """C h of one time-major scan: u_LBE, delta_LBE (final), B_LBN, C_LBN, A_NE -> (L, B, E)."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, delta: Tensor, B: Tensor, C: Tensor, A: Tensor, keep: bool) -> Tensor:
        length, batch, channels = u.shape
        per_position = (1, batch, A.shape[0], channels)
        steps = pieces(length, batch * A.numel(), u.device)
        states = States(u, length, per_position, steps, keep)
        A1 = A.contiguous()[None]
        y = torch.empty_like(u)
        for s in steps:
            y[s] = scan_piece(states, s, u[None, s], delta[None, s], A1, B[None, s], C[None, s])[0]
        if keep:
            ctx.save_for_backward(u, delta, B, C, A, states.store)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        u, delta, B, C, A, h = ctx.saved_tensors
        length, batch, _ = u.shape
        steps = pieces(length, batch * A.numel(), u.device)
        A1 = A.contiguous()[None]
        carry = torch.zeros_like(h[:, 0])
        scratch = h.new_empty(2, h.shape[0], steps[0].stop, *h.shape[2:])
        grads = [torch.empty_like(t) for t in (u, delta, B, C)]
        grad_A = torch.zeros_like(A1)
        with no_autocast(u.device):
            for s in reversed(steps):
                before = h[:, s.start - 1] if s.start else None
                inputs = (u[None, s], delta[None, s], A1, B[None, s], C[None, s])
                got = scan_piece_backward(grad[None, s], *inputs, h[:, s], before, carry, scratch)
                grad_A += got[2]
                for whole, part in zip(grads, (got[0], got[1], got[3], got[4]), strict=True):
                    whole[s] = part[0]
        return (*grads, grad_A[0], None)


class _Scan2D(torch.autograd.Function):
    """C h of the four walks, summed forwards with backwards.

    Takes the image by rows and by columns (2, L, B, E), the projections in the order of each walk
    (K, L, B, R and N and N), dt_weight_KER, dt_bias_KE and A_KNE; returns (2, L, B, E), likewise.
    """

    @staticmethod
    def forward(
        ctx: Any,
        both: Tensor,
        low: Tensor,
        B: Tensor,
        C: Tensor,
        weight: Tensor,
        bias: Tensor,
        A: Tensor,
        keep: bool,
    ) -> Tensor:
        _, length, batch, channels = both.shape
        per_position = (A.shape[0], batch, A.shape[1], channels)
        steps = pieces(length, batch * A.numel(), both.device)
        states = States(both, length, per_position, steps, keep)
        A = A.contiguous()
        y = torch.zeros_like(both)
        for s in steps:
            delta = F.softplus(_step_sizes(low[:, s], weight, bias))
            _add_walks(y, s, scan_piece(states, s, _walks(both, s), delta, A, B[:, s], C[:, s]))
        if keep:
            ctx.save_for_backward(both, low, B, C, weight, bias, A, states.store)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        both, low, B, C, weight, bias, A, h = ctx.saved_tensors
        _, length, batch, _ = both.shape
        steps = pieces(length, batch * A.numel(), both.device)
        carry = torch.zeros_like(h[:, 0])
        scratch = h.new_empty(2, h.shape[0], steps[0].stop, *h.shape[2:])
        grad_both, grad_weight, grad_bias, grad_A = (torch.zeros_like(t) for t in (both, weight, bias, A))
        grad_low, grad_B, grad_C = (torch.empty_like(t) for t in (low, B, C))
        with no_autocast(both.device):
            for s in reversed(steps):
                raw = _step_sizes(low[:, s], weight, bias)
                before = h[:, s.start - 1] if s.start else None
                inputs = (_walks(both, s), F.softplus(raw), A, B[:, s], C[:, s])
                got = scan_piece_backward(_walks(grad, s), *inputs, h[:, s], before, carry, scratch)
                _add_walks(grad_both, s, got[0])
                grad_A += got[2]
                grad_B[:, s], grad_C[:, s] = got[3], got[4]
                grad_raw = got[1].mul_(raw.sigmoid_()).flatten(1, 2)
                grad_low[:, s] = torch.bmm(grad_raw, weight).view_as(low[:, s])
                grad_weight += _weight_gradient(grad_raw, low[:, s].flatten(1, 2))
                grad_bias += grad_raw.sum(1)
        return grad_both, grad_low, grad_B, grad_C, grad_weight, grad_bias, grad_A, None


def _step_sizes(low_KTBR: Tensor, weight_KER: Tensor, bias_KE: Tensor) -> Tensor:
    """The step sizes ahead of softplus, (K, T, B, E)."""
    raw = torch.baddbmm(bias_KE.unsqueeze(1), low_KTBR.flatten(1, 2), weight_KER.transpose(1, 2))
    return raw.view(*low_KTBR.shape[:-1], -1)


def _weight_gradient(grad_KME: Tensor, low_KMR: Tensor) -> Tensor:
    """``grad^T low`` over M rows, (K, E, R).

    M is huge and the result small, which as one product keeps few of a GPU's cores busy: the rows are split.
    """
    parts = (math.gcd(grad_KME.shape[1], _ROW_PARTS), -1)
    split_grad, split_low = (torch.unflatten(t, 1, parts) for t in (grad_KME, low_KMR))
    return torch.matmul(split_grad.transpose(-1, -2), split_low).sum(1)


def _mirrored(s: slice, length: int) -> slice:
    """The slice that a backward walk visits while a forward one visits ``s``."""
    return slice(length - s.stop, length - s.start)


def _walks(both_2LBE: Tensor, s: slice) -> Tensor:
    """Slice ``s`` of each of the four walks, (K, T, B, E)."""
    back = both_2LBE[:, _mirrored(s, both_2LBE.shape[1])].flip(1)
    return torch.cat([both_2LBE[:, s], back])


def _add_walks(both_2LBE: Tensor, s: slice, y_KTBE: Tensor) -> None:
    """Add slice ``s`` of the four walks to where it belongs; the transpose of ``_walks``."""
    both_2LBE[:, s] += y_KTBE[:2]
    both_2LBE[:, _mirrored(s, both_2LBE.shape[1])] += y_KTBE[2:].flip(1)
