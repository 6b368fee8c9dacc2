"""SS2D in Triton: the kernels of the forward pass, and the device functions that its gradient shares.

A program owns one tile: T consecutive positions of one axis (by rows or by columns) of one batch entry, times
X channels. A position's pixel is an index map, so nothing is ever laid out as a sequence, and a pixel's
channels are contiguous either way. Each axis has two walks, side 0 forwards and side 1 backwards, of
direction ``k = AXIS + 2 side``. State and arithmetic are float32.

``aggregate`` finds what each tile makes of a state that passes through it; ``carry`` scans over tiles, which
gives each its entering state; ``scan`` walks through each tile from there. With one tile an image only
``scan`` runs.

Where vectors of channels may be loaded at once, Triton gives a thread several of them and spreads positions
over the threads of a warp, which then have to exchange states: the alignment of tiles is kept from it, so
that a warp is 32 channels and a thread holds a column.

Axis letters: see ``climp_bench.specs``; R is padded to P >= 16 for the tensor cores; J is the tiles of an
image, S = 2 the sides. Offsets inside an image fit 32 bits, those of images do not.
"""

import triton
import triton.language as tl

from climp_bench.ops.triton_common import decays, enter_tile, fold_tile, softplus

DIRECTIONS = tl.constexpr(4)


@triton.jit
def own_tile(tiles: tl.tensor, E: tl.constexpr, X: tl.constexpr) -> tl.tensor:
    """The program's batch entry (64 bits), tile and block of channels; blocks of a tile are neighbours."""
    blocks: tl.constexpr = (E + X - 1) // X
    program = tl.program_id(0)
    block = program % blocks
    tile = program // blocks
    return (tile // tiles).to(tl.int64), tile % tiles, block


@triton.jit
def pixel_of(position: tl.tensor, height: tl.tensor, width: tl.tensor, AXIS: tl.constexpr) -> tl.tensor:
    """The row-major pixel of a position by rows (AXIS 0) or by columns (AXIS 1)."""
    pixel = position
    if AXIS == 1:
        pixel = position % height * width + position // height
    return pixel


@triton.jit
def load_low(
    projected: tl.tensor,
    inside: tl.tensor,
    R: tl.constexpr,
    P: tl.constexpr,
) -> tl.tensor:
    """The step sizes' factors (T, P) of the positions whose projections start at ``projected``."""
    r = tl.arange(0, P)
    mask = inside[:, None] & (r < R)[None, :]
    return tl.load(projected[:, None] + r[None, :], mask=mask, other=0.0).to(tl.float32)


@triton.jit
def load_weight(
    weight: tl.tensor, k: tl.tensor, channel: tl.tensor, E: tl.constexpr, R: tl.constexpr, P: tl.constexpr
) -> tl.tensor:
    """The projection (P, X) of direction k to step sizes."""
    r = tl.arange(0, P)
    mask = (r < R)[:, None] & (channel < E)[None, :]
    return tl.load(weight + (k * E + channel)[None, :] * R + r[:, None], mask=mask, other=0.0)


@triton.jit
def step_sizes(
    low_TP: tl.tensor, weight_PX: tl.tensor, bias_X: tl.tensor, inside: tl.tensor, PRECISION: tl.constexpr
) -> tl.tensor:
    """The step sizes (T, X) ahead of softplus, and after it: 0 outside, where a state must pass unchanged."""
    raw = tl.dot(low_TP, weight_PX, input_precision=PRECISION) + bias_X[None, :]
    return raw, tl.where(inside[:, None], softplus(raw), 0.0)


@triton.jit(do_not_specialize_on_alignment=["source"])
def aggregate(
    source: tl.tensor,  # x, or the gradient of y if ADJOINT
    x_dbl: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    A_KNE: tl.tensor,
    decay_BSJNE: tl.tensor,
    value_BSJNE: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    tiles: tl.tensor,
    E: tl.constexpr,
    R: tl.constexpr,
    N: tl.constexpr,
    AXIS: tl.constexpr,
    ADJOINT: tl.constexpr,
    PRECISION: tl.constexpr,
    T: tl.constexpr,
    X: tl.constexpr,
    P: tl.constexpr,
) -> None:
    """What a tile makes of a state that enters it: ``leaving = decay entering + value``.

    Forward the state is h. ADJOINT, which walks the other way, it is the gradient that a position hands back
    to the one before, ``a g`` with ``g = C dy + (a g)_next``.
    """
    batch, tile, block = own_tile(tiles, E, X)
    length = height * width
    C: tl.constexpr = R + 2 * N
    position = tile * T + tl.arange(0, T)
    inside = position < length
    pixel = pixel_of(position, height, width, AXIS)
    channel = block * X + tl.arange(0, X)
    in_E = channel < E
    cells = pixel[:, None] * E + channel[None, :]
    source_TX = tl.load(
        source + batch * length * E + cells, mask=inside[:, None] & in_E[None, :], other=0.0
    ).to(tl.float32)
    for side in tl.static_range(2):
        k = AXIS + 2 * side
        projected = x_dbl + batch * length * (DIRECTIONS * C) + (pixel * DIRECTIONS + k) * C
        low_TP = load_low(projected, inside, R, P)
        bias_X = tl.load(bias + k * E + channel, mask=in_E, other=0.0)
        weight_PX = load_weight(weight, k, channel, E, R, P)
        _, dt_TX = step_sizes(low_TP, weight_PX, bias_X, inside, PRECISION)
        out = ((batch * 2 + side) * tiles + tile) * (N * E) + channel[None, :]
        for n in range(N):
            A_X = tl.load(A_KNE + (k * N + n) * E + channel, mask=in_E, other=0.0)
            factor = tl.load(projected + (R + ADJOINT * N + n), mask=inside, other=0.0).to(tl.float32)
            decay_TX = decays(dt_TX, A_X)
            value_TX = source_TX * factor[:, None] * (decay_TX if ADJOINT else dt_TX)
            decay_1X, value_1X = fold_tile(decay_TX, value_TX, T, X, side != ADJOINT)
            tl.store(decay_BSJNE + out + n * E, decay_1X, mask=in_E[None, :])
            tl.store(value_BSJNE + out + n * E, value_1X, mask=in_E[None, :])


@triton.jit(do_not_specialize_on_alignment=["decay_BSJNE", "states_BSJNE"])
def carry(
    decay_BSJNE: tl.tensor,
    states_BSJNE: tl.tensor,
    tiles: tl.tensor,
    NE: tl.constexpr,
    ADJOINT: tl.constexpr,
    T: tl.constexpr,
    X: tl.constexpr,
) -> None:
    """Replace each tile's value by the state that enters it; T tiles at a time, in their walk's order."""
    blocks: tl.constexpr = (NE + X - 1) // X
    walk = tl.program_id(0) // blocks
    backwards = walk % 2 != ADJOINT
    column = tl.program_id(0) % blocks * X + tl.arange(0, X)
    base = walk.to(tl.int64) * tiles * NE
    row = tl.arange(0, T)
    state_1X = tl.zeros((1, X), tl.float32)
    for start in range(0, tiles, T):
        visit = start + row
        tile = tl.where(backwards, tiles - 1 - visit, visit)
        cells = base + tile.to(tl.int64)[:, None] * NE + column[None, :]
        mask = (visit < tiles)[:, None] & (column < NE)[None, :]
        decay_TX = tl.load(decay_BSJNE + cells, mask=mask, other=1.0)
        value_TX = tl.load(states_BSJNE + cells, mask=mask, other=0.0)
        ahead_TX = enter_tile(decay_TX, value_TX, state_1X, T, X, False)
        tl.store(states_BSJNE + cells, ahead_TX, mask=mask)
        after_TX = decay_TX * ahead_TX + value_TX
        state_1X = tl.sum(tl.where((row == T - 1)[:, None], after_TX, 0.0), 0)[None, :]


@triton.jit
def load_state(
    entering_BSJNE: tl.tensor, out: tl.tensor, in_E: tl.tensor, HAS: tl.constexpr, X: tl.constexpr
) -> tl.tensor:
    """The state (1, X) that enters a tile; zero where there is but one."""
    state_1X = tl.zeros((1, X), tl.float32)
    if HAS:
        state_1X = tl.load(entering_BSJNE + out[None, :], mask=in_E[None, :], other=0.0)
    return state_1X


@triton.jit(do_not_specialize_on_alignment=["x", "y"])
def scan(
    x: tl.tensor,
    x_dbl: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    A_KNE: tl.tensor,
    skip_E: tl.tensor,
    entering_BSJNE: tl.tensor,
    y: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    tiles: tl.tensor,
    E: tl.constexpr,
    R: tl.constexpr,
    N: tl.constexpr,
    AXIS: tl.constexpr,
    ENTERED: tl.constexpr,
    PRECISION: tl.constexpr,
    T: tl.constexpr,
    X: tl.constexpr,
    P: tl.constexpr,
) -> None:
    """``C h`` of an axis' two walks: written with ``skip x`` by rows, added to what is there by columns."""
    batch, tile, block = own_tile(tiles, E, X)
    length = height * width
    C: tl.constexpr = R + 2 * N
    position = tile * T + tl.arange(0, T)
    inside = position < length
    pixel = pixel_of(position, height, width, AXIS)
    channel = block * X + tl.arange(0, X)
    in_E = channel < E
    cells = batch * length * E + (pixel[:, None] * E + channel[None, :])
    mask = inside[:, None] & in_E[None, :]
    x_TX = tl.load(x + cells, mask=mask, other=0.0).to(tl.float32)
    if AXIS == 0:
        y_TX = x_TX * tl.load(skip_E + channel, mask=in_E, other=0.0)[None, :]
    else:
        y_TX = tl.load(y + cells, mask=mask, other=0.0)
    for side in tl.static_range(2):
        k = AXIS + 2 * side
        projected = x_dbl + batch * length * (DIRECTIONS * C) + (pixel * DIRECTIONS + k) * C
        low_TP = load_low(projected, inside, R, P)
        bias_X = tl.load(bias + k * E + channel, mask=in_E, other=0.0)
        weight_PX = load_weight(weight, k, channel, E, R, P)
        _, dt_TX = step_sizes(low_TP, weight_PX, bias_X, inside, PRECISION)
        states = ((batch * 2 + side) * tiles + tile) * (N * E) + channel
        for n in range(N):
            A_X = tl.load(A_KNE + (k * N + n) * E + channel, mask=in_E, other=0.0)
            B_T = tl.load(projected + (R + n), mask=inside, other=0.0).to(tl.float32)
            C_T = tl.load(projected + (R + N + n), mask=inside, other=0.0).to(tl.float32)
            entering_1X = load_state(entering_BSJNE, states + n * E, in_E, ENTERED, X)
            decay_TX = decays(dt_TX, A_X)
            value_TX = dt_TX * B_T[:, None] * x_TX
            ahead_TX = enter_tile(decay_TX, value_TX, entering_1X, T, X, side == 1)
            y_TX += C_T[:, None] * (decay_TX * ahead_TX + value_TX)
    tl.store(y + cells, y_TX, mask=mask)
