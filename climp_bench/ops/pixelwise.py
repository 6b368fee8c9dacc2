"""What stands between the matrix products of a VMamba block: fused where ``ss2d`` runs in Triton.

In PyTorch the layer norms, the depthwise convolution, SiLU and the additions of a block take longer than its
matrix products, because each reads and writes the whole image. In inference with ``ss2d`` on its ``triton``
backend (``fusing.is_fused``) a tower calls these in their place, none of which records gradients.
Axis letters: see ``climp_bench.specs``; E is the scan's channels, C those of the residual stream.
"""

from __future__ import annotations

import torch
from torch import Tensor

from climp_bench.ops.fusing import working_dtype
from climp_bench.ops.ss2d import ss2d

HIDDEN_BYTES = 32 << 20
"""Of an MLP's hidden layer at a time: bounds the peak of memory, for 2% of the time (design/kernels.md)."""


def add_norm_(x: Tensor, branch: Tensor | None, norm: torch.nn.LayerNorm, dtype: torch.dtype) -> Tensor:
    """``x += branch``, and the layer norm of the sum: one kernel.

    Args:
        x: the residual stream (..., C), contiguous, overwritten if there is a branch.
        branch: (..., C), or None.
        norm: over C.
        dtype: of the result.
    """
    from climp_bench.ops.triton_pixels import add_norm

    return add_norm(x, branch, norm.weight, norm.bias, norm.eps, dtype)


def conv_silu(x_BHWE: Tensor, weight_E: Tensor) -> Tensor:
    """SiLU of a depthwise 3 x 3 convolution with zeros around the image: one kernel.

    Args:
        x_BHWE: the image, channels last.
        weight_E: (E, 1, 3, 3).
    """
    from climp_bench.ops.triton_pixels import conv_silu

    return conv_silu(x_BHWE.contiguous(), weight_E)


def ss2d_norm(
    x_BHWE: Tensor,
    x_dbl_BHWKC: Tensor,
    dt_weight_KER: Tensor,
    dt_bias_KE: Tensor,
    A_logs_KEN: Tensor,
    D_KE: Tensor,
    norm: torch.nn.LayerNorm,
) -> Tensor:
    """The layer norm over E of ``ss2d``, in the dtype of x: with one state a channel the last of its kernels.

    Args:
        x_BHWE, x_dbl_BHWKC, dt_weight_KER, dt_bias_KE, A_logs_KEN, D_KE: as ``ss2d`` takes them.
        norm: over E.
    """
    inputs = (x_BHWE, x_dbl_BHWKC, dt_weight_KER, dt_bias_KE, A_logs_KEN, D_KE)
    if A_logs_KEN.shape[-1] > 1:
        return add_norm_(ss2d(*inputs), None, norm, x_BHWE.dtype)
    from climp_bench.ops.triton_ss2d import ss2d_normed

    return ss2d_normed(*inputs, norm.weight, norm.bias, norm.eps)


def mlp(x: Tensor, first: torch.nn.Linear, second: torch.nn.Linear) -> Tensor:
    """``second(gelu(first(x)))`` without gradients, some pixels at a time: the hidden layer stays small.

    Args:
        x: (..., C).
        first, second: layers with biases.
    """
    dtype = working_dtype(x)
    rows = x.reshape(-1, x.shape[-1]).to(dtype)
    out = rows.new_empty(len(rows), second.out_features)
    weights = [layer.weight.to(dtype).t() for layer in (first, second)]
    biases = [layer.bias.to(dtype) for layer in (first, second)]
    share = max(1, HIDDEN_BYTES // (first.out_features * out.element_size()))
    for start in range(0, len(rows), share):
        hidden = torch.addmm(biases[0], rows[start : start + share], weights[0])
        torch.ops.aten.gelu_(hidden)
        torch.addmm(biases[1], hidden, weights[1], out=out[start : start + share])
    return out.view(*x.shape[:-1], second.out_features)
