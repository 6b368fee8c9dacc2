"""SS2D in Triton: the kernel of its gradient; words and layout as in ``triton_ss2d_kernels``.

``aggregate`` and ``carry`` run once more, ADJOINT, and give each tile the gradient that comes back to it.
Sums over channels or positions leave a tile as partial results, which the caller adds up: no atomics, so the
same bits every time.
"""

import triton
import triton.language as tl

from climp_bench.ops.triton_common import decays, enter_tile, sigmoid
from climp_bench.ops.triton_ss2d_kernels import (
    DIRECTIONS,
    load_low,
    load_state,
    load_weight,
    own_tile,
    pixel_of,
    step_sizes,
)


@triton.jit(do_not_specialize_on_alignment=["x", "grad_y", "grad_x"])
def gradient(
    x: tl.tensor,
    grad_y: tl.tensor,
    x_dbl: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    A_KNE: tl.tensor,
    skip_E: tl.tensor,
    entering_BSJNE: tl.tensor,
    returning_BSJNE: tl.tensor,
    grad_x: tl.tensor,
    grad_x_dbl_MBLKC: tl.tensor,  # M blocks of channels
    grad_weight_JKER: tl.tensor,  # J tiles of all images, here and below
    grad_bias_JKE: tl.tensor,
    grad_A_JKNE: tl.tensor,
    grad_skip_JE: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    tiles: tl.tensor,
    images: tl.tensor,
    E: tl.constexpr,
    R: tl.constexpr,
    N: tl.constexpr,
    AXIS: tl.constexpr,
    ENTERED: tl.constexpr,
    PRECISION: tl.constexpr,
    GRAD_PRECISION: tl.constexpr,
    T: tl.constexpr,
    X: tl.constexpr,
    P: tl.constexpr,
) -> None:
    """The gradients of two walks: ``grad_x``, written by rows and added to by columns, and partial sums."""
    batch, tile, block = own_tile(tiles, E, X)
    length = height * width
    C: tl.constexpr = R + 2 * N
    position = tile * T + tl.arange(0, T)
    inside = position < length
    pixel = pixel_of(position, height, width, AXIS)
    channel = block * X + tl.arange(0, X)
    in_E = channel < E
    r = tl.arange(0, P)
    cells = batch * length * E + (pixel[:, None] * E + channel[None, :])
    mask = inside[:, None] & in_E[None, :]
    x_TX = tl.load(x + cells, mask=mask, other=0.0).to(tl.float32)
    dy_TX = tl.load(grad_y + cells, mask=mask, other=0.0)
    part = batch * tiles + tile
    if AXIS == 0:
        dx_TX = dy_TX * tl.load(skip_E + channel, mask=in_E, other=0.0)[None, :]
        tl.store(grad_skip_JE + part * E + channel, tl.sum(dy_TX * x_TX, 0), mask=in_E)
    else:
        dx_TX = tl.load(grad_x + cells, mask=mask, other=0.0)
    for side in tl.static_range(2):
        k = AXIS + 2 * side
        projected = x_dbl + batch * length * (DIRECTIONS * C) + (pixel * DIRECTIONS + k) * C
        bias_X = tl.load(bias + k * E + channel, mask=in_E, other=0.0)
        weight_PX = load_weight(weight, k, channel, E, R, P)
        low_TP = load_low(projected, inside, R, P)
        raw_TX, dt_TX = step_sizes(low_TP, weight_PX, bias_X, inside, PRECISION)
        states = ((batch * 2 + side) * tiles + tile) * (N * E) + channel
        partial = grad_x_dbl_MBLKC + (block * images + batch) * length * (DIRECTIONS * C)
        partial += (pixel * DIRECTIONS + k) * C
        ddt_TX = tl.zeros((T, X), tl.float32)
        for n in range(N):
            A_X = tl.load(A_KNE + (k * N + n) * E + channel, mask=in_E, other=0.0)
            B_T = tl.load(projected + (R + n), mask=inside, other=0.0).to(tl.float32)
            C_T = tl.load(projected + (R + N + n), mask=inside, other=0.0).to(tl.float32)
            entering_1X = load_state(entering_BSJNE, states + n * E, in_E, ENTERED, X)
            returning_1X = load_state(returning_BSJNE, states + n * E, in_E, ENTERED, X)
            decay_TX = decays(dt_TX, A_X)
            value_TX = dt_TX * B_T[:, None] * x_TX
            kept_TX = decay_TX * enter_tile(decay_TX, value_TX, entering_1X, T, X, side == 1)
            own_TX = C_T[:, None] * dy_TX
            g_TX = own_TX + enter_tile(decay_TX, decay_TX * own_TX, returning_1X, T, X, side == 0)
            gx_TX = g_TX * x_TX
            passed_TX = g_TX * kept_TX
            dx_TX += g_TX * dt_TX * B_T[:, None]
            ddt_TX += gx_TX * B_T[:, None] + A_X[None, :] * passed_TX
            tl.store(partial + (R + n), tl.sum(gx_TX * dt_TX, 1), mask=inside)
            tl.store(partial + (R + N + n), tl.sum(dy_TX * (kept_TX + value_TX), 1), mask=inside)
            dA = grad_A_JKNE + ((part * DIRECTIONS + k) * N + n) * E + channel
            tl.store(dA, tl.sum(passed_TX * dt_TX, 0), mask=in_E)
        draw_TX = tl.where(mask, ddt_TX * sigmoid(raw_TX), 0.0)
        tl.store(grad_bias_JKE + (part * DIRECTIONS + k) * E + channel, tl.sum(draw_TX, 0), mask=in_E)
        dlow_TP = tl.dot(draw_TX, tl.trans(weight_PX), input_precision=GRAD_PRECISION)
        tl.store(partial[:, None] + r[None, :], dlow_TP, mask=inside[:, None] & (r < R)[None, :])
        dweight_XP = tl.dot(tl.trans(draw_TX), low_TP, input_precision=GRAD_PRECISION)
        row = (part * DIRECTIONS + k) * (E * R) + channel * R
        mask_XP = in_E[:, None] & (r < R)[None, :]
        tl.store(grad_weight_JKER + row[:, None] + r[None, :], dweight_XP, mask=mask_XP)
    tl.store(grad_x + cells, dx_TX, mask=mask)
