"""``selective_scan`` in Triton: one fused kernel each way.

The forward kernel reads its inputs once and writes the output; for the backward pass the inputs are kept and
the state ahead of every 16th position. Kernels and Triton itself are imported at the first call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from climp_bench.errors import BackendError
from climp_bench.ops.torch_backend_scan import records_gradient


@dataclass(frozen=True)
class _Launch:
    """How a kernel is launched: channels of a program, and warps."""

    channels: int
    warps: int


_FORWARD = {2: _Launch(channels=64, warps=1), 1: _Launch(channels=64, warps=2)}
"""By the channels that a thread owns. Two cost three quarters of the time of one: threads read B and C for
themselves."""
_BACKWARD = _Launch(channels=32, warps=1)
_EVERY = 16
"""Positions between kept states, which cost 1/16 of all states."""
_GROUP, _WALK, _VECTOR = 2, 4, 2
"""Of the gradient: positions whose states are in registers at once, and positions loaded at once on the way
to them. Of both kernels: channels of a thread where their alignment allows it. See design/kernels.md."""


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
    """See ``climp_bench.ops.selective_scan``.

    Raises:
        BackendError: an input is float64; these kernels compute in float32.
    """
    inputs = (u_BLD, delta_BLD, A_DN, B_BLN, C_BLN, D_D, delta_bias_D, z_BLD)
    refuse_float64("selective_scan", *inputs)
    if records_gradient(*(t for t in inputs if t is not None)):
        y: Tensor = _Scan.apply(*inputs, delta_softplus)
        return y
    return _forward(inputs, delta_softplus, keep=False)[0]


def refuse_float64(op: str, *tensors: Tensor | None) -> None:
    """Raise BackendError if any tensor is float64."""
    if any(t is not None and t.dtype == torch.float64 for t in tensors):
        raise BackendError(
            "its kernels compute in float32 and an input is float64",
            where=f"{op}, backend 'triton'",
            remedy="Use backend 'torch' for float64.",
        )


def rows(t: Tensor) -> Tensor:
    """(B, L, ...) as (B L, all the rest), the rest with unit stride; a view wherever that is possible."""
    flat = t.flatten(0, 1).flatten(1)
    return flat if flat.stride(1) == 1 else flat.contiguous()


def _arguments(inputs: tuple[Tensor | None, ...], softplus: bool) -> dict[str, Any]:
    """What both kernels are given, by name."""
    from triton import next_power_of_2

    u, delta, A, B, C, D, bias, z = inputs
    assert u is not None and delta is not None and A is not None
    assert B is not None and C is not None and D is not None
    sequences = {"u": u, "delta": delta, "B": B, "C": C, "z": u if z is None else z}
    as_rows = {name: rows(t) for name, t in sequences.items()}
    return {
        **as_rows,
        **{f"{name}_row": t.stride(0) for name, t in as_rows.items()},
        "A_ND": A.float().T.contiguous(),
        "D": D.contiguous(),
        "bias": D if bias is None else bias.contiguous(),
        "length": u.shape[1],
        "channels": u.shape[2],
        "state": A.shape[1],
        "BIASED": bias is not None,
        "GATED": z is not None,
        "SOFTPLUS": softplus,
        "EVERY": _EVERY,
        "N_BLOCK": next_power_of_2(A.shape[1]),
    }


def _forward(inputs: tuple[Tensor | None, ...], softplus: bool, keep: bool) -> tuple[Tensor, Tensor]:
    """The output, and the states ahead of every piece (B, K, N, D) if they are to be kept."""
    from climp_bench.ops import triton_scan_kernels as kernels

    arguments = _arguments(inputs, softplus)
    u, A_ND = inputs[0], arguments["A_ND"]
    assert u is not None
    batch, length, channels = u.shape
    pieces = -(-length // _EVERY) if keep else 0
    entries = torch.empty(batch, pieces, *A_ND.shape, device=u.device)
    y = torch.empty(u.shape, dtype=u.dtype, device=u.device)
    vector = _aligned(y, *(arguments[name] for name in ("u", "delta", "z", "D", "bias")))
    launch = _FORWARD[vector]
    grid = (batch * -(-channels // launch.channels),)
    with torch.cuda.device_of(u):
        kernels.scan[grid](
            **arguments,
            y=y,
            entries_BKND=entries,
            KEEP=keep,
            D_BLOCK=launch.channels,
            VECTOR=vector,
            num_warps=launch.warps,
        )
    return y, entries


def _aligned(*tensors: Tensor) -> int:
    """``_VECTOR`` if so many channels, the innermost axis, are aligned to their size in all rows, else 1."""
    return _VECTOR if all(
        t.shape[-1] % _VECTOR == 0
        and t.data_ptr() % (_VECTOR * t.element_size()) == 0
        and all(stride % _VECTOR == 0 for stride in t.stride()[:-1])
        for t in tensors
    ) else 1  # fmt: skip


class _Scan(torch.autograd.Function):
    """The scan with its gradient: the inputs and the states ahead of every piece are kept."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        *inputs, softplus = arguments
        y, entries = _forward(tuple(inputs), softplus, keep=True)
        ctx.save_for_backward(*inputs, entries)
        ctx.softplus = softplus
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        from climp_bench.ops import triton_scan_kernels as kernels

        *inputs, entries = ctx.saved_tensors
        u, delta, A, B, C, D, bias, z = inputs
        batch, _, channels = u.shape
        arguments = _arguments(tuple(inputs), ctx.softplus)
        blocks = -(-channels // _BACKWARD.channels)
        grad_rows = rows(grad)
        vector = _aligned(grad_rows, *(arguments[name] for name in ("u", "delta", "z", "D", "bias")))
        tile = (_EVERY // _GROUP, arguments["N_BLOCK"], _BACKWARD.channels)

        def buffer(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.empty(shape, dtype=dtype, device=u.device)

        made = {
            "grad_u": buffer(*u.shape, dtype=u.dtype),
            "grad_delta": buffer(*u.shape, dtype=delta.dtype),
            "grad_z": grad if z is None else buffer(*u.shape, dtype=z.dtype),
            "grad_A_BND": buffer(batch, A.shape[1], channels),
            "grad_B_XBLN": buffer(blocks, *B.shape),
            "grad_C_XBLN": buffer(blocks, *C.shape),
            "grad_D_BD": buffer(batch, channels),
            "grad_bias_BD": grad if bias is None else buffer(batch, channels),
        }
        with torch.cuda.device_of(u):
            kernels.scan_backward[(batch * blocks,)](
                **arguments,
                **made,
                grad=grad_rows,
                grad_row=grad_rows.stride(0),
                entries_BKND=entries,
                scratch_PSNX=buffer(batch * blocks, *tile),
                batches=batch,
                GROUP=_GROUP,
                WALK=_WALK,
                VECTOR=vector,
                G=min(arguments["N_BLOCK"], 32 * _BACKWARD.warps * vector // _BACKWARD.channels),
                D_BLOCK=_BACKWARD.channels,
                num_warps=_BACKWARD.warps,
            )
        return (
            made["grad_u"],
            made["grad_delta"],
            made["grad_A_BND"].sum(0).T.to(A.dtype),
            made["grad_B_XBLN"].sum(0).to(B.dtype),
            made["grad_C_XBLN"].sum(0).to(C.dtype),
            made["grad_D_BD"].sum(0).to(D.dtype),
            None if bias is None else made["grad_bias_BD"].sum(0).to(bias.dtype),
            None if z is None else made["grad_z"],
            None,
        )
