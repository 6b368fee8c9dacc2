"""What stands between the matrix products of a VMamba block, in Triton for inference: channels last.

Axis letters: see ``climp_bench.specs``; M is pixels (or tokens, whose blocks share ``add_norm``), C channels
of the residual stream, E those of the scan. Offsets inside an image fit 32 bits.
"""

import triton
import triton.language as tl

from climp_bench.ops.triton_common import sigmoid

ROWS = tl.constexpr(4)
"""Rows of an image that a program of ``conv_silu`` makes: a row that is loaded serves three of them."""


# Of texts batched by length every batch has another number of tokens: one binary serves all.
@triton.jit(do_not_specialize=["pixels"])
def add_norm(
    x_MC: tl.tensor,
    branch_MC: tl.tensor,
    weight_C: tl.tensor,
    bias_C: tl.tensor,
    normed_MC: tl.tensor,
    pixels: tl.tensor,
    eps: tl.tensor,
    C: tl.constexpr,
    ADD: tl.constexpr,
    CENTRED: tl.constexpr,
    T: tl.constexpr,
    X: tl.constexpr,
) -> None:
    """``x += branch`` if ADD, and the layer norm of x; without CENTRED its root-mean-square norm, no bias."""
    row = tl.program_id(0).to(tl.int64) * T + tl.arange(0, T)
    channel = tl.arange(0, X)
    mask = (row < pixels)[:, None] & (channel < C)[None, :]
    cells = row[:, None] * C + channel[None, :]
    x_TX = tl.load(x_MC + cells, mask=mask, other=0.0).to(tl.float32)
    if ADD:
        x_TX += tl.load(branch_MC + cells, mask=mask, other=0.0).to(tl.float32)
        tl.store(x_MC + cells, x_TX, mask=mask)
    if CENTRED:
        mean = tl.sum(x_TX, 1) / C
        x_TX = tl.where((channel < C)[None, :], x_TX - mean[:, None], 0.0)
    scale = tl.rsqrt(tl.sum(x_TX * x_TX, 1) / C + eps)
    weight = tl.load(weight_C + channel, mask=channel < C, other=0.0).to(tl.float32)
    out_TX = x_TX * scale[:, None] * weight[None, :]
    if CENTRED:
        out_TX += tl.load(bias_C + channel, mask=channel < C, other=0.0).to(tl.float32)[None, :]
    tl.store(normed_MC + cells, out_TX, mask=mask)


@triton.jit
def tap(acc_TX: tl.tensor, row_TX: tl.tensor, k_X: tl.tensor, USED: tl.constexpr) -> tl.tensor:
    """One tap of a convolution, where the row that was loaded takes part in the row that is made."""
    if USED:
        acc_TX += row_TX * k_X[None, :]
    return acc_TX


@triton.jit
def store_silu(acc_TX: tl.tensor, cells: tl.tensor, mask: tl.tensor) -> None:
    """``silu(acc)`` into ``cells``."""
    tl.store(cells, acc_TX * sigmoid(acc_TX), mask=mask)


@triton.jit
def conv_silu(
    x_BHWE: tl.tensor,
    weight_E9: tl.tensor,
    y_BHWE: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    E: tl.constexpr,
    T: tl.constexpr,
    X: tl.constexpr,
) -> None:
    """Depthwise 3 x 3 convolution with zeros around the image, and SiLU: ROWS rows, T columns, X channels."""
    blocks: tl.constexpr = (E + X - 1) // X
    program = tl.program_id(0)
    channel = program % blocks * X + tl.arange(0, X)
    strips = tl.cdiv(width, T)
    column = program // blocks % strips * T + tl.arange(0, T)
    bands = tl.cdiv(height, ROWS)
    first = program // blocks // strips % bands * ROWS
    image = (program // blocks // strips // bands).to(tl.int64) * height * width * E
    in_E = channel < E
    y0 = tl.zeros((T, X), tl.float32)
    y1, y2, y3 = y0, y0, y0
    for dx in tl.static_range(3):
        source = column + dx - 1
        inside = (source >= 0) & (source < width)
        k0 = tl.load(weight_E9 + channel * 9 + dx, mask=in_E, other=0.0).to(tl.float32)
        k1 = tl.load(weight_E9 + channel * 9 + dx + 3, mask=in_E, other=0.0).to(tl.float32)
        k2 = tl.load(weight_E9 + channel * 9 + dx + 6, mask=in_E, other=0.0).to(tl.float32)
        for j in tl.static_range(ROWS + 2):
            row = first + j - 1
            mask = (inside & (row >= 0) & (row < height))[:, None] & in_E[None, :]
            cells = image + ((row * width + source)[:, None] * E + channel[None, :])
            row_TX = tl.load(x_BHWE + cells, mask=mask, other=0.0).to(tl.float32)
            y0 = tap(tap(tap(y0, row_TX, k0, j == 0), row_TX, k1, j == 1), row_TX, k2, j == 2)
            y1 = tap(tap(tap(y1, row_TX, k0, j == 1), row_TX, k1, j == 2), row_TX, k2, j == 3)
            y2 = tap(tap(tap(y2, row_TX, k0, j == 2), row_TX, k1, j == 3), row_TX, k2, j == 4)
            y3 = tap(tap(tap(y3, row_TX, k0, j == 3), row_TX, k1, j == 4), row_TX, k2, j == 5)
    out = y_BHWE + image + ((first * width + column)[:, None] * E + channel[None, :])
    inside = (column < width)[:, None] & in_E[None, :]
    store_silu(y0, out, inside & (first < height))
    store_silu(y1, out + width * E, inside & (first + 1 < height))
    store_silu(y2, out + 2 * width * E, inside & (first + 2 < height))
    store_silu(y3, out + 3 * width * E, inside & (first + 3 < height))
