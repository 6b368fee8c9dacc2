"""The three ops as plain loops in float64 that read like their equations.

These are the oracles of every other backend; they are differentiable, and slow. Sources and meaning of the
arguments: ``selective_scan.py``, ``ss2d.py``, ``ssd.py``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


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
    """Mamba-1's scan, one position at a time. Returns y_BLD in the dtype of ``u_BLD``."""
    u, delta, A, B, C, D = (t.double() for t in (u_BLD, delta_BLD, A_DN, B_BLN, C_BLN, D_D))
    if delta_bias_D is not None:
        delta = delta + delta_bias_D.double()
    if delta_softplus:
        delta = F.softplus(delta)
    h_BDN = u.new_zeros(u.shape[0], u.shape[2], A.shape[1])
    outputs = []
    for t in range(u.shape[1]):
        decay = torch.exp(delta[:, t, :, None] * A)
        h_BDN = decay * h_BDN + delta[:, t, :, None] * B[:, t, None, :] * u[:, t, :, None]
        outputs.append((h_BDN * C[:, t, None, :]).sum(-1) + D * u[:, t])
    y_BLD = torch.stack(outputs, dim=1)
    if z_BLD is not None:
        y_BLD = y_BLD * F.silu(z_BLD.double())
    return y_BLD.to(u_BLD.dtype)


def ss2d(
    x_BHWE: Tensor,
    x_dbl_BHWKC: Tensor,
    dt_weight_KER: Tensor,
    dt_bias_KE: Tensor,
    A_logs_KEN: Tensor,
    D_KE: Tensor,
) -> Tensor:
    """VMamba's scan: four walks over the pixels, summed. Returns y_BHWE in float32 (float64 for float64)."""
    _, height, width, _ = x_BHWE.shape
    rank, state = dt_weight_KER.shape[-1], A_logs_KEN.shape[-1]
    by_row = [(i, j) for i in range(height) for j in range(width)]
    by_column = [(i, j) for j in range(width) for i in range(height)]
    total: dict[tuple[int, int], Tensor] = {}
    for k, walk in enumerate((by_row, by_column, by_row[::-1], by_column[::-1])):
        rows, columns = (list(axis) for axis in zip(*walk, strict=True))
        u_BLE = x_BHWE.double()[:, rows, columns]
        x_dbl_BLC = x_dbl_BHWKC.double()[:, rows, columns, k]
        low_BLR, B_BLN, C_BLN = torch.split(x_dbl_BLC, [rank, state, state], dim=-1)
        y_BLE = selective_scan(
            u_BLE,
            low_BLR @ dt_weight_KER[k].double().T,
            -torch.exp(A_logs_KEN[k].double()),
            B_BLN,
            C_BLN,
            D_KE[k],
            delta_bias_D=dt_bias_KE[k],
        )
        for position, pixel in enumerate(walk):
            total[pixel] = total.get(pixel, torch.zeros_like(y_BLE[:, 0])) + y_BLE[:, position]
    y_BHWE = torch.stack([total[pixel] for pixel in by_row], dim=1).view_as(x_BHWE)
    return y_BHWE.to(torch.promote_types(x_BHWE.dtype, torch.float32))


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
    """Mamba-2's recurrence, one position at a time, whatever ``chunk_size``. Returns y_BLHP in x's dtype."""
    x, dt, A, B, C, D = (t.double() for t in (x_BLHP, dt_BLH, A_H, B_BLGN, C_BLGN, D_H))
    _, length, heads, _ = x.shape
    group_of_head = [head // (heads // B.shape[2]) for head in range(heads)]
    outputs = []
    h_BHPN = x.new_zeros(*x[:, 0].shape, B.shape[-1])
    for t in range(length):
        B_BHN, C_BHN = B[:, t, group_of_head], C[:, t, group_of_head]
        decay_BH = torch.exp(dt[:, t] * A)
        write = dt[:, t, :, None, None] * x[:, t, :, :, None] * B_BHN[:, :, None, :]
        h_BHPN = decay_BH[:, :, None, None] * h_BHPN + write
        outputs.append((h_BHPN * C_BHN[:, :, None, :]).sum(-1) + D[:, None] * x[:, t])
    return torch.stack(outputs, dim=1).to(x_BLHP.dtype)
