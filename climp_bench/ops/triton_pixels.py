"""The launches of ``triton_pixels_kernels``."""

from __future__ import annotations

import torch
from torch import Tensor

NORM_ELEMENTS = 2048
"""Of a program of ``add_norm``, at least one row of channels."""
CONV_COLUMNS, CONV_CHANNELS, CONV_ROWS = 16, 64, 4


def add_norm(
    x: Tensor, branch: Tensor | None, weight_C: Tensor, bias_C: Tensor | None, eps: float, dtype: torch.dtype
) -> Tensor:
    """Add ``branch`` to ``x`` in place, and return the norm of ``x`` over its last axis.

    Args:
        x: the residual stream (..., C), contiguous; overwritten.
        branch: what to add, of the same shape, or None.
        weight_C, bias_C, eps: of a layer norm; without a bias, of a root-mean-square norm.
        dtype: of the result.
    """
    from triton import next_power_of_2

    from climp_bench.ops.triton_pixels_kernels import add_norm as kernel

    channels = x.shape[-1]
    pixels = x.numel() // channels
    normed = torch.empty(x.shape, dtype=dtype, device=x.device)
    block = next_power_of_2(channels)
    rows = max(1, NORM_ELEMENTS // block)
    added = x if branch is None else branch.contiguous()
    with torch.cuda.device_of(x):
        kernel[(-(-pixels // rows),)](
            *(x, added, weight_C, weight_C if bias_C is None else bias_C, normed, pixels, eps),
            C=channels,
            ADD=branch is not None,
            CENTRED=bias_C is not None,
            T=rows,
            X=block,
            num_warps=4,
        )
    return normed


def conv_silu(x_BHWE: Tensor, weight_E: Tensor) -> Tensor:
    """SiLU of the depthwise 3 x 3 convolution with zeros around the image, in the dtype of x.

    Args:
        x_BHWE: contiguous.
        weight_E: (E, 1, 3, 3).
    """
    from triton import next_power_of_2

    from climp_bench.ops.triton_pixels_kernels import conv_silu as kernel

    batch, height, width, channels = x_BHWE.shape
    y = torch.empty_like(x_BHWE)
    block = min(CONV_CHANNELS, next_power_of_2(channels))
    grid = batch * -(-height // CONV_ROWS) * -(-width // CONV_COLUMNS) * -(-channels // block)
    with torch.cuda.device_of(x_BHWE):
        kernel[(grid,)](
            *(x_BHWE, weight_E.contiguous(), y, height, width),
            E=channels,
            T=CONV_COLUMNS,
            X=block,
            num_warps=4,
        )
    return y
