"""What stands between the matrix products and the scan of a text block: fused where the scan runs in Triton.

On a GPU PyTorch gives a causal depthwise convolution to cuDNN, which plans anew for every shape that it
meets: tens of milliseconds a shape, and in texts batched by length every batch has one of its own. In
inference, with the block's scan on its ``triton`` backend, one kernel pads, convolves and applies SiLU. So
the backend of the scan decides for the block, and what is recorded for it holds for all of it.
Axis letters: see ``climp_bench.specs``; K is the taps.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from climp_bench.ops.dispatch import resolve
from climp_bench.ops.torch_backend_scan import records_gradient

POSITIONS, CHANNELS, WARPS = 16, 128, 4
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
    if is_fused(x_BLD, weight_DK, bias_D, scan=scan):
        return _fused(x_BLD, weight_DK, bias_D)
    taps = weight_DK.shape[1]
    # As an image one pixel high, channels last: no transposed copy on either side.
    image = F.pad(x_BLD, (0, 0, taps - 1, 0)).transpose(1, 2).unsqueeze(2)
    out = F.conv2d(image, weight_DK[:, None, None], bias_D, groups=len(weight_DK))
    return F.silu(out.squeeze(2).transpose(1, 2))


def is_fused(x: Tensor, *parameters: Tensor, scan: str) -> bool:
    """Whether the kernel runs: no gradient is recorded, and ``scan`` runs in Triton where ``x`` is."""
    if torch.compiler.is_compiling() or records_gradient(x, *parameters) or x.dtype == torch.float64:
        return False
    return resolve(scan, x.device)[1] == "triton"


def _fused(x_BLD: Tensor, weight_DK: Tensor, bias_D: Tensor) -> Tensor:
    from climp_bench.ops.triton_scan import rows
    from climp_bench.ops.triton_tokens_kernels import causal_conv_silu as kernel

    batch, length, channels = x_BLD.shape
    kind = x_BLD.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x_BLD.dtype
    x = rows(x_BLD)
    y = torch.empty(x_BLD.shape, dtype=dtype, device=x.device)
    with torch.cuda.device_of(x):
        kernel[(batch * -(-length // POSITIONS) * -(-channels // CHANNELS),)](
            *(x, weight_DK.contiguous(), bias_D.contiguous(), y, length, x.stride(0)),
            D=channels,
            K=weight_DK.shape[1],
            T=POSITIONS,
            X=CHANNELS,
            num_warps=WARPS,
        )
    return y
