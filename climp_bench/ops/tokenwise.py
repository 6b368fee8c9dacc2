"""What stands between the matrix products and the scan of a text block: fused where the scan runs in Triton.

On a GPU PyTorch gives a causal depthwise convolution to cuDNN, which prepares anew for every shape that it
meets, and in texts batched by length every batch has one of its own. In inference, with the block's scan on
its ``triton`` backend (``fusing.is_fused``), one kernel pads, convolves and applies SiLU, and another adds a
branch and normalises the sum.
Axis letters: see ``climp_bench.specs``; K is the taps.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from climp_bench.ops.fusing import is_fused, working_dtype

ROWS, CHANNELS, WARPS = 16, 128, 4
"""Of a program."""


def causal_conv_silu(x_BLD: Tensor, weight_DK: Tensor, bias_D: Tensor, scan: str) -> Tensor:
    """SiLU of a depthwise convolution in which position t sees t - K + 1 .. t, zeros before the first.

    Args:
        x_BLD: the input.
        weight_DK, bias_D: of the convolution.
        scan: the operator that the block scans with, whose backend decides.

    Returns:
        (B, L, D) in the dtype of a convolution of x: autocast's, or that of x.
    """
    if is_fused(scan, x_BLD, (weight_DK, bias_D)):
        return _fused(x_BLD, weight_DK, bias_D)
    taps = weight_DK.shape[1]
    # As an image one pixel high, channels last: no transposed copy on either side.
    image = F.pad(x_BLD, (0, 0, taps - 1, 0)).transpose(1, 2).unsqueeze(2)
    out = F.conv2d(image, weight_DK[:, None, None], bias_D, groups=len(weight_DK))
    return F.silu(out.squeeze(2).transpose(1, 2))


def add_rms_norm_(
    x: Tensor, branch: Tensor | None, weight_D: Tensor, eps: float, dtype: torch.dtype
) -> Tensor:
    """``x += branch``, and the root-mean-square norm of the sum: one kernel, which records no gradient.

    Args:
        x: the residual stream (..., D), contiguous, overwritten if there is a branch.
        branch: (..., D), or None.
        weight_D: of the norm.
        eps: added to the mean square.
        dtype: of the result.
    """
    from climp_bench.ops.triton_pixels import add_norm

    return add_norm(x, branch, weight_D, None, eps, dtype)


def _fused(x_BLD: Tensor, weight_DK: Tensor, bias_D: Tensor) -> Tensor:
    from climp_bench.ops.triton_scan import rows
    from climp_bench.ops.triton_tokens_kernels import causal_conv_silu as kernel

    _, length, channels = x_BLD.shape
    x = rows(x_BLD)
    y = torch.empty(x_BLD.shape, dtype=working_dtype(x), device=x.device)
    with torch.cuda.device_of(x):
        kernel[(-(-len(x) // ROWS) * -(-channels // CHANNELS),)](
            *(x, weight_DK.contiguous(), bias_D.contiguous(), y, len(x), length, x.stride(0)),
            D=channels,
            K=weight_DK.shape[1],
            T=ROWS,
            X=CHANNELS,
            num_warps=WARPS,
        )
    return y
