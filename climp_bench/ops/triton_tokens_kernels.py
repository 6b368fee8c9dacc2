"""What stands between the matrix products and the scan of a text block, in Triton for inference.

Axis letters: see ``climp_bench.specs``. Sequences come as rows, batch entry after batch entry.
"""

import triton
import triton.language as tl

from climp_bench.ops.triton_common import sigmoid


# Texts come in every length: one binary serves all.
@triton.jit(do_not_specialize=["length"])
def causal_conv_silu(
    x: tl.tensor,
    weight_DK: tl.tensor,
    bias_D: tl.tensor,
    y_BLD: tl.tensor,
    length: tl.tensor,
    x_row: tl.tensor,
    D: tl.constexpr,
    K: tl.constexpr,
    T: tl.constexpr,
    X: tl.constexpr,
) -> None:
    """Depthwise convolution of each position with the K - 1 before it, and SiLU: T positions, X channels."""
    blocks: tl.constexpr = (D + X - 1) // X
    strips = tl.cdiv(length, T)
    channel = tl.program_id(0) % blocks * X + tl.arange(0, X)
    position = tl.program_id(0) // blocks % strips * T + tl.arange(0, T)
    first = (tl.program_id(0) // blocks // strips).to(tl.int64) * length
    in_D = channel < D
    bias = tl.load(bias_D + channel, mask=in_D, other=0).to(tl.float32)
    acc_TX = tl.zeros((T, X), tl.float32) + bias[None, :]
    for k in tl.static_range(K):
        source = position + k - (K - 1)
        mask = ((source >= 0) & (source < length))[:, None] & in_D[None, :]
        weight = tl.load(weight_DK + channel * K + k, mask=in_D, other=0).to(tl.float32)
        row_TX = tl.load(x + (first + source)[:, None] * x_row + channel[None, :], mask=mask, other=0)
        acc_TX += row_TX.to(tl.float32) * weight[None, :]
    out = y_BLD + (first + position)[:, None] * D + channel[None, :]
    tl.store(out, acc_TX * sigmoid(acc_TX), mask=(position < length)[:, None] & in_D[None, :])
