"""SS2D in Triton for inference with one state a channel: kernels that walk through an image.

A program owns X channels of one direction's walk through one batch entry, or through a segment of it, and
carries their states in registers from tile to tile of T positions; the next tile is loaded while one is
computed. So an image is read once a direction, its exponentials are taken once, and nothing but the results
is written. Where batch and channels are too few to fill the GPU, walks are cut into segments: ``summarise``
finds what each makes of a state, and each walk makes its entering state of those before it. ``merge`` sums
the directions' results, with the output norm if there is one.

Where vectors of channels may be loaded at once, Triton gives a thread several of them and spreads positions
over the threads of a warp, which then have to exchange states: the alignment of images is kept from it, but
for pairs of channels, so that a warp is 64 channels and a thread holds two whole columns.

Axis letters: see ``climp_bench.specs``; R is padded to P >= 16 for the tensor cores; S is the segments, W the
walks of a launch: all four, or the two of an axis. Offsets inside an image fit 32 bits.
"""

import triton
import triton.language as tl

from climp_bench.ops.triton_common import INTERPRETED, LOG2E, fast_log2, fold_tile, halves, softplus

LN2 = tl.constexpr(0.6931471805599453)
DIRECTIONS = tl.constexpr(4)
LINEAR = tl.constexpr(24.0)
"""Where softplus, base 2, is its argument to float32's accuracy."""


@triton.jit
def own_walk(
    axis: tl.tensor, segments: tl.tensor, E: tl.constexpr, X: tl.constexpr, W: tl.constexpr
) -> tl.tensor:
    """The program's batch entry (64 bits), segment, walk of the launch, direction, and channels (X)."""
    blocks: tl.constexpr = (E + X - 1) // X
    program = tl.program_id(0)
    channel = program % blocks * X + tl.arange(0, X)
    walk = program // blocks % W
    segment = program // (blocks * W) % segments
    batch = (program // (blocks * W) // segments).to(tl.int64)
    direction = walk
    if W == 2:
        direction = axis + 2 * walk
    return batch, segment, walk, direction, channel


@triton.jit
def pixels_of(
    first: tl.tensor,
    direction: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    SHORT: tl.constexpr,
    T: tl.constexpr,
) -> tl.tensor:
    """The row-major pixels of a walk's T positions from ``first`` on; meaningless beyond the last.

    A walk is runs of neighbours: one run by rows, a column each by columns. SHORT says that a tile may
    stretch over more than two runs; else one comparison takes the place of a division a position.
    """
    length = height * width
    run, stride = length, 1
    if direction % 2 == 1:
        run, stride = height, width
    start = first // run
    place = first - start * run
    index = tl.arange(0, T)
    if SHORT:
        pixel = (place + index) % run * stride + (start + (place + index) // run)
    else:
        pixel = index * stride + (place * stride + start)
        pixel += tl.where(index < run - place, 0, 1 - run * stride)
    if direction >= 2:
        pixel = length - 1 - pixel
    return pixel


@triton.jit
def by_pairs(image: tl.tensor, offsets_TX: tl.tensor) -> tl.tensor:
    """Pointers to a tile of an image, with the alignment of two channels, and no more, made known."""
    return tl.multiple_of(image + offsets_TX, (1, image.dtype.element_ty.primitive_bitwidth // 4))


@triton.jit
def load_tile(cells: tl.tensor, inside: tl.tensor, in_E: tl.tensor, MASKED: tl.constexpr) -> tl.tensor:
    """A tile (T, X) of an image, as it is stored; zero outside."""
    return tl.load(cells, mask=inside[:, None] & in_E[None, :], other=0.0) if MASKED else tl.load(cells)


@triton.jit
def load_projections(
    projected: tl.tensor,
    inside: tl.tensor,
    R: tl.constexpr,
    P: tl.constexpr,
    MASKED: tl.constexpr,
) -> tl.tensor:
    """Of T pixels whose projections start at ``projected``: step sizes' factors (T, P), B and C (T)."""
    r = tl.arange(0, P)
    if MASKED or P != R:
        low = tl.load(projected[:, None] + r[None, :], mask=inside[:, None] & (r < R)[None, :], other=0.0)
    else:
        low = tl.load(projected[:, None] + r[None, :])
    if MASKED:
        B = tl.load(projected + R, mask=inside, other=0.0)
        C = tl.load(projected + R + 1, mask=inside, other=0.0)
    else:
        B = tl.load(projected + R)
        C = tl.load(projected + R + 1)
    return low, B, C


@triton.jit
def load_channels(
    weight: tl.tensor,
    bias: tl.tensor,
    A_logs: tl.tensor,
    direction: tl.tensor,
    channel: tl.tensor,
    E: tl.constexpr,
    R: tl.constexpr,
    P: tl.constexpr,
) -> tl.tensor:
    """A direction's projection to step sizes (P, X), its bias in powers of two (X), and A (X)."""
    r = tl.arange(0, P)
    in_E = channel < E
    own = direction * E + channel
    mask = (r < R)[:, None] & in_E[None, :]
    weight_PX = tl.load(weight + own[None, :] * R + r[:, None], mask=mask, other=0.0)
    bias_X = tl.load(bias + own, mask=in_E, other=0.0).to(tl.float32)
    A_X = -tl.exp(tl.load(A_logs + own, mask=in_E, other=0.0).to(tl.float32))
    return weight_PX, bias_X, A_X


@triton.jit
def half_product(left: tl.tensor, right: tl.tensor) -> tl.tensor:
    """A matrix product in half precision, summed in float32; the interpreter takes bfloat16 for integers."""
    if INTERPRETED:
        product = tl.dot(left.to(tl.float32), right.to(tl.float32), input_precision="ieee")
    else:
        product = tl.dot(left, right)
    return product


@triton.jit
def steps(
    low_TP: tl.tensor,
    weight_PX: tl.tensor,
    bias_X: tl.tensor,
    A_X: tl.tensor,
    B_T: tl.tensor,
    x_TX: tl.tensor,
    inside: tl.tensor,
    MASKED: tl.constexpr,
) -> tl.tensor:
    """``exp(dt A)`` and ``dt B x`` of a tile (T, X) each; a state passes unchanged outside.

    Half-precision factors meet weights of float32 in two products on the tensor cores, which leaves out less
    than 2^-16 of a weight. Step sizes then come by the fast logarithm in units of log 2; its error of 2^-22
    is nothing beside what half precision did to the factors. Float32 factors meet float32's own
    arithmetic throughout.
    """
    if low_TP.dtype == tl.float32:
        raw_TX = tl.dot(low_TP, weight_PX.to(tl.float32), input_precision="ieee")
        dt_TX = softplus(raw_TX + bias_X[None, :]) * LOG2E
    else:
        high_PX = weight_PX.to(low_TP.dtype)
        raw_TX = half_product(low_TP, high_PX)
        if weight_PX.dtype == tl.float32:
            rest_PX = (weight_PX - high_PX.to(tl.float32)).to(low_TP.dtype)
            raw_TX += half_product(low_TP, rest_PX)
        raw_TX = raw_TX * LOG2E + (bias_X * LOG2E)[None, :]
        dt_TX = tl.where(raw_TX > LINEAR, raw_TX, fast_log2(1.0 + tl.exp2(raw_TX)))
    if MASKED:
        dt_TX = tl.where(inside[:, None], dt_TX, 0.0)
    decay_TX = tl.exp2(dt_TX * A_X[None, :])
    value_TX = dt_TX * (B_T.to(tl.float32) * LN2)[:, None] * x_TX.to(tl.float32)
    return decay_TX, value_TX


@triton.jit
def interleave(even: tl.tensor, odd: tl.tensor, T: tl.constexpr, X: tl.constexpr) -> tl.tensor:
    """The tile (T, X) of these even and odd rows."""
    return tl.reshape(tl.permute(tl.join(even, odd), (0, 2, 1)), (T, X))


@triton.jit
def enter_rows(
    decay_TX: tl.tensor, value_TX: tl.tensor, state_1X: tl.tensor, T: tl.constexpr, X: tl.constexpr
) -> tl.tensor:
    """The state ahead of every row of ``h = decay h_previous + value`` (T, X), and after the last (1, X).

    Two neighbours make one map, so half as many states, from which the others follow: threads that hold whole
    columns exchange nothing.
    """
    ahead = state_1X
    if T == 1:
        leaving_1X = decay_TX * state_1X + value_TX
    else:
        decay, next_decay = halves(decay_TX, T, X, False)
        value, next_value = halves(value_TX, T, X, False)
        both = next_decay * value + next_value
        first, leaving_1X = enter_rows(decay * next_decay, both, state_1X, T // 2, X)
        ahead = interleave(first, decay * first + value, T, X)
    return ahead, leaving_1X


@triton.jit
def pass_tile(
    decay_TX: tl.tensor, value_TX: tl.tensor, state_1X: tl.tensor, T: tl.constexpr, X: tl.constexpr
) -> tl.tensor:
    """As ``enter_rows``, but the state after every row."""
    decay, next_decay = halves(decay_TX, T, X, False)
    value, next_value = halves(value_TX, T, X, False)
    both = next_decay * value + next_value
    first, leaving_1X = enter_rows(decay * next_decay, both, state_1X, T // 2, X)
    then = decay * first + value
    return interleave(then, next_decay * then + next_value, T, X), leaving_1X


@triton.jit
def entering_state(
    decay_BSWE: tl.tensor,
    value_BSWE: tl.tensor,
    batch: tl.tensor,
    segment: tl.tensor,
    segments: tl.tensor,
    walk: tl.tensor,
    channel: tl.tensor,
    E: tl.constexpr,
    W: tl.constexpr,
    X: tl.constexpr,
) -> tl.tensor:
    """The state (1, X) that enters a segment, from what those before it make of one."""
    state_X = tl.zeros((X,), tl.float32)
    own = (batch * segments * W + walk) * E + channel
    for before in range(segment):
        cell = own + before * (W * E)
        decay_X = tl.load(decay_BSWE + cell, mask=channel < E, other=0.0)
        state_X = decay_X * state_X + tl.load(value_BSWE + cell, mask=channel < E, other=0.0)
    return state_X[None, :]


@triton.jit(do_not_specialize_on_alignment=["x"], do_not_specialize=["axis", "segments", "tiles"])
def summarise(
    x: tl.tensor,
    x_dbl: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    A_logs: tl.tensor,
    decay_BSWE: tl.tensor,
    value_BSWE: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    axis: tl.tensor,
    segments: tl.tensor,
    tiles: tl.tensor,
    E: tl.constexpr,
    R: tl.constexpr,
    SHORT: tl.constexpr,
    MASKED: tl.constexpr,
    W: tl.constexpr,
    T: tl.constexpr,
    X: tl.constexpr,
    P: tl.constexpr,
) -> None:
    """What a segment of ``tiles`` tiles makes of a state: ``leaving = decay entering + value``."""
    batch, segment, walk, direction, channel = own_walk(axis, segments, E, X, W)
    length = height * width
    C: tl.constexpr = R + 2
    in_E = channel < E
    weight_PX, bias_X, A_X = load_channels(weight, bias, A_logs, direction, channel, E, R, P)
    image = x + batch * length * E
    projections = x_dbl + batch * length * (DIRECTIONS * C) + direction * C
    decay_1X = tl.full((1, X), 1.0, tl.float32)
    value_1X = tl.zeros((1, X), tl.float32)
    for tile in range(segment * tiles, tl.minimum((segment + 1) * tiles, tl.cdiv(length, T))):
        inside = tile * T + tl.arange(0, T) < length
        pixel = pixels_of(tile * T, direction, height, width, SHORT, T)
        x_TX = load_tile(by_pairs(image, pixel[:, None] * E + channel[None, :]), inside, in_E, MASKED)
        low_TP, B_T, _ = load_projections(projections + pixel * (DIRECTIONS * C), inside, R, P, MASKED)
        decay_TX, value_TX = steps(low_TP, weight_PX, bias_X, A_X, B_T, x_TX, inside, MASKED)
        decay, value = fold_tile(decay_TX, value_TX, T, X, False)
        decay_1X, value_1X = decay * decay_1X, decay * value_1X + value
    out = ((batch * segments + segment) * W + walk) * E + channel[None, :]
    tl.store(decay_BSWE + out, decay_1X, mask=in_E[None, :])
    tl.store(value_BSWE + out, value_1X, mask=in_E[None, :])


@triton.jit(do_not_specialize_on_alignment=["x", "y_WBLE"], do_not_specialize=["axis", "segments", "tiles"])
def follow(
    x: tl.tensor,
    x_dbl: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    A_logs: tl.tensor,
    D: tl.tensor,
    decay_BSWE: tl.tensor,
    value_BSWE: tl.tensor,
    y_WBLE: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    images: tl.tensor,
    axis: tl.tensor,
    segments: tl.tensor,
    tiles: tl.tensor,
    E: tl.constexpr,
    R: tl.constexpr,
    ADD: tl.constexpr,
    SHORT: tl.constexpr,
    MASKED: tl.constexpr,
    W: tl.constexpr,
    T: tl.constexpr,
    X: tl.constexpr,
    P: tl.constexpr,
) -> None:
    """``C h + D x`` along each walk, into its own ``y``, or added to it if ADD."""
    batch, segment, walk, direction, channel = own_walk(axis, segments, E, X, W)
    length = height * width
    C: tl.constexpr = R + 2
    in_E = channel < E
    weight_PX, bias_X, A_X = load_channels(weight, bias, A_logs, direction, channel, E, R, P)
    D_X = tl.load(D + direction * E + channel, mask=in_E, other=0.0).to(tl.float32)
    state_1X = entering_state(decay_BSWE, value_BSWE, batch, segment, segments, walk, channel, E, W, X)
    image = x + batch * length * E
    result = y_WBLE + (walk * images + batch) * length * E
    projections = x_dbl + batch * length * (DIRECTIONS * C) + direction * C
    for tile in range(segment * tiles, tl.minimum((segment + 1) * tiles, tl.cdiv(length, T))):
        inside = tile * T + tl.arange(0, T) < length
        pixel = pixels_of(tile * T, direction, height, width, SHORT, T)
        cells = pixel[:, None] * E + channel[None, :]
        x_TX = load_tile(by_pairs(image, cells), inside, in_E, MASKED)
        low_TP, B_T, C_T = load_projections(projections + pixel * (DIRECTIONS * C), inside, R, P, MASKED)
        decay_TX, value_TX = steps(low_TP, weight_PX, bias_X, A_X, B_T, x_TX, inside, MASKED)
        h_TX, state_1X = pass_tile(decay_TX, value_TX, state_1X, T, X)
        y_TX = C_T.to(tl.float32)[:, None] * h_TX + D_X[None, :] * x_TX.to(tl.float32)
        if ADD:
            y_TX += load_tile(by_pairs(result, cells), inside, in_E, MASKED).to(tl.float32)
        if MASKED:
            tl.store(by_pairs(result, cells), y_TX, mask=inside[:, None] & in_E[None, :])
        else:
            tl.store(by_pairs(result, cells), y_TX)


@triton.jit
def merge(
    y_WME: tl.tensor,
    weight_E: tl.tensor,
    bias_E: tl.tensor,
    out_ME: tl.tensor,
    pixels: tl.tensor,
    eps: tl.tensor,
    E: tl.constexpr,
    W: tl.constexpr,
    NORM: tl.constexpr,
    ROWS: tl.constexpr,
    X: tl.constexpr,
) -> None:
    """The sum over walks at each of M pixels, and its layer norm if NORM."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    channel = tl.arange(0, X)
    mask = (row < pixels)[:, None] & (channel < E)[None, :]
    cells = row[:, None] * E + channel[None, :]
    sum_MX = tl.zeros((ROWS, X), tl.float32)
    for walk in tl.static_range(W):
        sum_MX += tl.load(y_WME + walk * pixels.to(tl.int64) * E + cells, mask=mask, other=0.0).to(tl.float32)
    if NORM:
        mean = tl.sum(sum_MX, 1) / E
        off_MX = tl.where((channel < E)[None, :], sum_MX - mean[:, None], 0.0)
        scale = tl.rsqrt(tl.sum(off_MX * off_MX, 1) / E + eps)
        weight = tl.load(weight_E + channel, mask=channel < E, other=0.0).to(tl.float32)
        bias = tl.load(bias_E + channel, mask=channel < E, other=0.0).to(tl.float32)
        sum_MX = off_MX * scale[:, None] * weight[None, :] + bias[None, :]
    tl.store(out_ME + cells, sum_MX, mask=mask)
