"""The three ops on the meta device: shape and dtype of the result, and the cost to whoever is counting."""

from __future__ import annotations

import torch
from torch import Tensor

from climp_bench.ops.flops import report, selective_scan_cost, ss2d_cost, ssd_cost


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
    batch, length, channels = u_BLD.shape
    cost = selective_scan_cost(
        batch=batch, length=length, channels=channels, state=A_DN.shape[-1], gated=z_BLD is not None
    )
    report("selective_scan", cost)
    return torch.empty_like(u_BLD)


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
    directions, _, state = A_logs_KEN.shape
    cost = ss2d_cost(
        batch=batch,
        pixels=height * width,
        channels=channels,
        state=state,
        rank=dt_weight_KER.shape[-1],
        directions=directions,
    )
    report("ss2d", cost)
    return torch.empty_like(x_BHWE, dtype=torch.promote_types(x_BHWE.dtype, torch.float32))


def ssd(
    x_BLHP: Tensor,
    dt_BLH: Tensor,
    A_H: Tensor,
    B_BLGN: Tensor,
    C_BLGN: Tensor,
    D_H: Tensor,
    *,
    chunk_size: int,
) -> Tensor:
    """See ``climp_bench.ops.ssd``."""
    batch, length, heads, channels = x_BLHP.shape
    groups, state = B_BLGN.shape[-2:]
    cost = ssd_cost(
        batch=batch,
        length=length,
        heads=heads,
        channels=channels,
        groups=groups,
        state=state,
        chunk_size=chunk_size,
    )
    report("ssd", cost)
    return torch.empty_like(x_BLHP)
