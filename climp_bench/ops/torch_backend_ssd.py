"""``ssd`` in PyTorch: matrix products within chunks, a short recurrence across them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from climp_bench.ops.torch_backend_scan import compute_dtype, no_autocast

ONE_CHUNK, CPU_CHUNK = 128, 64
"""On a CPU sequences of up to so many positions are one chunk, longer ones are cut shorter: the decays
between positions grow with the square of a chunk and take longer than the matrix products."""


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
    """See ``climp_bench.ops.ssd``. A sequence of one chunk is never padded; a CPU wants shorter chunks."""
    dtype = compute_dtype(x_BLHP, dt_BLH, A_H)
    length = x_BLHP.shape[1]
    size = min(chunk_size, length)
    if x_BLHP.device.type == "cpu" and length > ONE_CHUNK:
        size = min(size, CPU_CHUNK)
    padding = -length % size
    with no_autocast(x_BLHP.device):
        x, dt, A, B, C, D = (t.to(dtype) for t in (x_BLHP, dt_BLH, A_H, B_BLGN, C_BLGN, D_H))
        # Padded positions have dt = 0: they decay nothing and write nothing.
        inputs = (_chunks(t, size, padding) for t in (x * dt[..., None], dt * A, B, C))
        y = _chunked(*inputs).flatten(1, 2)[:, :length]
        return (y + x * D[:, None]).to(x_BLHP.dtype)


def _chunks(t: Tensor, size: int, padding: int) -> Tensor:
    """(B, L, ...) -> (B, chunks, size, ...), zeros appended."""
    if padding:
        t = F.pad(t, (0, 0) * (t.dim() - 2) + (0, padding))
    return torch.unflatten(t, 1, (-1, size))


def _chunked(x: Tensor, log_decay: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """The scan without its skip connection, on inputs already multiplied by dt.

    Letters: c chunks, l and s positions in a chunk, g groups, r heads of a group, p channels, n state.

    Args:
        x: (B, c, l, H, p), dt x.
        log_decay: (B, c, l, H), dt A.
        B, C: (B, c, l, g, n).

    Returns:
        (B, c, l, H, p).
    """
    batch, chunks, size, heads, channels = x.shape
    groups = B.shape[3]
    x = torch.unflatten(x, 3, (groups, -1)).permute(0, 1, 3, 4, 2, 5)  # b c g r l p
    # Differences of long sums, and so are their gradients: float32 would lose what tells neighbours apart.
    sums = log_decay.double().cumsum(2)
    total = torch.unflatten(sums, 3, (groups, -1)).permute(0, 1, 3, 4, 2)  # b c g r l
    B, C = B.transpose(2, 3), C.transpose(2, 3)  # b c g l n
    causal = torch.ones(size, size, dtype=torch.bool, device=x.device).tril()
    between = (total.unsqueeze(-1) - total.unsqueeze(-2)).to(x.dtype).masked_fill(~causal, -torch.inf).exp()
    scores = (C @ B.transpose(-1, -2)).unsqueeze(3)  # b c g 1 l s, once for all heads of a group
    y = (scores * between) @ x
    if chunks > 1:
        to_end = (total[..., -1:] - total).to(x.dtype).exp().unsqueeze(-1)
        total = total.to(x.dtype)
        written = (x * to_end).transpose(-1, -2) @ B.unsqueeze(3)  # b c g r p n
        entering = _entering(written, total[..., -1].exp()[..., None, None])
        y = y + (C.unsqueeze(3) @ entering.transpose(-1, -2)) * total.exp().unsqueeze(-1)
    return y.permute(0, 1, 4, 2, 3, 5).reshape(batch, chunks, size, heads, channels)


def _entering(written: Tensor, decay: Tensor) -> Tensor:
    """The state that enters each chunk, from what each chunk writes and how much it lets through."""
    state = torch.zeros_like(written[:, 0])
    entering = [state]
    for write, keep in zip(written.unbind(1)[:-1], decay.unbind(1)[:-1], strict=True):
        state = keep * state + write
        entering.append(state)
    return torch.stack(entering, dim=1)
