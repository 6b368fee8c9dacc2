"""What stands between the matrix products and the scan of a text block, in Triton for inference.

Axis letters: see ``climp_bench.specs``. Sequences come as rows, batch entry after batch entry.
"""

import triton
import triton.language as tl

from climp_bench.ops.triton_common import sigmoid


# Texts come in every length: one binary serves all.
@triton.jit(do_not_specialize=["rows", "length"])
def causal_conv_silu(
    x: tl.tensor,
    weight_DK: tl.tensor,
    bias_D: tl.tensor,
    y_MD: tl.tensor,
    rows: tl.tensor,
    length: tl.tensor,
    x_row: tl.tensor,
    D: tl.constexpr,
    K: tl.constexpr,
    T: tl.constexpr,
    X: tl.constexpr,
) -> None:
    """Depthwise convolution of each position with the K - 1 before it, and SiLU: T rows, X channels.

    The T rows may belong to several texts, so that short ones leave no part of a program idle.
    """
    blocks: tl.constexpr = (D + X - 1) // X
    channel = tl.program_id(0) % blocks * X + tl.arange(0, X)
    first = (tl.program_id(0) // blocks).to(tl.int64) * T
    row = first + tl.arange(0, T)
    position = ((first % length).to(tl.int32) + tl.arange(0, T)) % length
    in_D = channel < D
    bias = tl.load(bias_D + channel, mask=in_D, other=0).to(tl.float32)
    acc_TX = tl.zeros((T, X), tl.float32) + bias[None, :]
    for k in tl.static_range(K):
        back = K - 1 - k
        mask = ((position >= back) & (row < rows))[:, None] & in_D[None, :]
        weight = tl.load(weight_DK + channel * K + k, mask=in_D, other=0).to(tl.float32)
        tap_TX = tl.load(x + (row - back)[:, None] * x_row + channel[None, :], mask=mask, other=0)
        acc_TX += tap_TX.to(tl.float32) * weight[None, :]
    out = y_MD + row[:, None] * D + channel[None, :]
    tl.store(out, acc_TX * sigmoid(acc_TX), mask=(row < rows)[:, None] & in_D[None, :])
