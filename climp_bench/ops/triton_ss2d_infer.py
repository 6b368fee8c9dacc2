"""The launches of ``triton_ss2d_walk_kernels``: ``ss2d`` without gradients, and its output norm."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

DIRECTIONS = 4
POSITIONS, CHANNELS = 16, 64
"""A tile: two channels a thread of one warp."""
WARPS, CUT_WARPS = 1, 2
"""Of a program; two share its channels where walks are cut, which leaves each thread one column."""
RESIDENT = 8
"""Programs that fit on a multiprocessor at a time, by their registers."""
SHORTEST_SEGMENT = 8
"""Tiles; below, what is saved by side-by-side segments is lost to their beginnings."""
MERGED = 4096
"""Elements that a program of ``merge`` holds."""


@dataclass(frozen=True)
class Norm:
    """A layer norm over the channels of a result: weight_E, bias_E, and what is added to the variance."""

    weight: Tensor
    bias: Tensor
    eps: float


@dataclass(frozen=True)
class Shares:
    """How an image's walks are shared out.

    Attributes:
        walks: directions a launch: all four side by side, each with its own result, or the two of an axis.
        segments: into which each walk is cut.
        tiles: of a segment.
    """

    walks: int
    segments: int
    tiles: int


def share_out(batch: int, length: int, channels: int, processors: int) -> Shares:
    """Work for every multiprocessor, from as few segments as that takes: each image is read again for them.

    Where even four directions leave multiprocessors idle, memory counts more than speed: results of two
    directions are kept, to which the other two add theirs.
    """
    blocks = -(-channels // CHANNELS)
    walks = DIRECTIONS if batch * blocks * DIRECTIONS >= processors else DIRECTIONS // 2
    programs, wanted = batch * blocks * walks, processors * RESIDENT
    tiles = -(-length // POSITIONS)
    segments = 1 if 2 * programs >= wanted else -(-wanted // programs)
    share = max(SHORTEST_SEGMENT, -(-tiles // segments))
    return Shares(walks, -(-tiles // share), share)


def infer(inputs: tuple[Tensor, ...], norm: Norm | None) -> Tensor:
    """``ss2d`` of its six arguments with N = 1, in the dtype of x; with ``norm``, its layer norm.

    Args:
        inputs: contiguous; those after ``x_dbl`` in any dtype.
        norm: the output norm to apply to the sum of the directions.
    """
    from triton import next_power_of_2

    from climp_bench.ops.triton_ss2d_walk_kernels import follow, merge, summarise

    x, x_dbl, weight, bias, A_logs, D = inputs
    if not x.numel():
        return torch.empty_like(x)
    batch, height, width, channels = map(int, x.shape)
    length, rank = height * width, int(weight.shape[-1])
    with torch.cuda.device_of(x):
        shares = share_out(batch, length, channels, _processors(x.device))
        sizes = {
            "E": channels,
            "R": rank,
            "SHORT": min(height, length) < POSITIONS,
            "MASKED": bool(length % POSITIONS or channels % CHANNELS),
            "W": shares.walks,
            "T": POSITIONS,
            "X": CHANNELS,
            "P": max(16, next_power_of_2(rank)),
            "num_warps": CUT_WARPS if shares.segments > 1 else WARPS,
        }
        grid = (-(-channels // CHANNELS) * shares.walks * shares.segments * batch,)
        cut = shares.segments > 1
        part = (batch, shares.segments, shares.walks, channels) if cut else (1,)
        decay, value = (torch.empty(part, dtype=torch.float32, device=x.device) for _ in range(2))
        y = torch.empty((shares.walks, *x.shape), dtype=x.dtype, device=x.device)
        for axis in range(DIRECTIONS // shares.walks):
            place = (height, width)
            work = (axis, shares.segments, shares.tiles)
            if cut:
                summarise[grid](x, x_dbl, weight, bias, A_logs, decay, value, *place, *work, **sizes)
            follow[grid](
                *(x, x_dbl, weight, bias, A_logs, D, decay, value, y, *place, batch, *work),
                ADD=axis == 1,
                **sizes,
            )
        block = next_power_of_2(channels)
        rows = max(1, MERGED // block)
        out = y[0]  # a program reads all of its pixels before it writes them
        scale, shift, eps = (norm.weight, norm.bias, norm.eps) if norm else (D, D, 0.0)
        merge[(-(-batch * length // rows),)](
            *(y, scale, shift, out, batch * length, eps),
            E=channels,
            W=shares.walks,
            NORM=norm is not None,
            ROWS=rows,
            X=block,
            num_warps=4 if rows * block <= MERGED else 8,
        )
    return out


def _processors(device: torch.device) -> int:
    if device.type != "cuda":
        return 1  # interpreted
    return int(torch.cuda.get_device_properties(device).multi_processor_count)
