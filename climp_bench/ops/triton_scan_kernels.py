"""Mamba-1's scan and its gradient in Triton.

A program is one batch entry and one block of channels; it walks over the positions with its states in
registers, float32. Channels are innermost. Forward, with 32 VECTOR of them a warp, a thread owns all states
(N, X) of its VECTOR channels, and sums over the state stay inside the thread. Backward, sums over channels
cost more than those over states: a thread owns VECTOR channels and a part of their states, (G, R, X) with G
the parts, along lanes, and R the states of one. What belongs to a channel is held by each of the G, (G, X),
so that threads exchange nothing but sums. Padded states and channels hold zeros.

Axis letters: see ``climp_bench.specs``; X is a block of channels. Sequences come as rows, batch entry after
batch entry, with unit stride along channels or state.
"""

# Tuples that grow in unrolled loops have a type for Triton, and none for mypy.
# mypy: disable-error-code="assignment, var-annotated"

import triton
import triton.language as tl

from climp_bench.ops.triton_common import sigmoid, softplus

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def step_sizes(stored: tl.tensor, bias: tl.tensor, SOFTPLUS: tl.constexpr) -> tl.tensor:
    """The step sizes of one position from ``delta`` as it is stored, in the shape of both."""
    raw = stored.to(tl.float32) + bias
    return softplus(raw) if SOFTPLUS else raw


@triton.jit
def aligned(start: tl.tensor, offsets_GX: tl.tensor, VECTOR: tl.constexpr) -> tl.tensor:
    """Pointers (G, X) with the alignment of VECTOR channels, and no more, made known."""
    return tl.multiple_of(start + offsets_GX, (1, VECTOR * (start.dtype.element_ty.primitive_bitwidth // 8)))


@triton.jit
def aligned_row(start: tl.tensor, offsets_X: tl.tensor, VECTOR: tl.constexpr) -> tl.tensor:
    """As ``aligned``, for pointers (X)."""
    return tl.multiple_of(start + offsets_X, VECTOR * (start.dtype.element_ty.primitive_bitwidth // 8))


# Where longer vectors of channels may be loaded at once, Triton gives a thread more of them and spreads the
# states over the warps, which then meet at every position: no alignment but that of VECTOR may be known.
@triton.jit(
    do_not_specialize=["length"],
    do_not_specialize_on_alignment=[
        "channels", "u", "delta", "z", "y", "A_ND", "D", "bias", "entries_BKND",
    ],
)  # fmt: skip
def scan(
    u: tl.tensor,
    delta: tl.tensor,
    A_ND: tl.tensor,
    B: tl.tensor,
    C: tl.tensor,
    D: tl.tensor,
    bias: tl.tensor,
    z: tl.tensor,
    y: tl.tensor,
    entries_BKND: tl.tensor,
    length: tl.tensor,
    channels: tl.tensor,
    state: tl.tensor,
    u_row: tl.tensor,
    delta_row: tl.tensor,
    B_row: tl.tensor,
    C_row: tl.tensor,
    z_row: tl.tensor,
    BIASED: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    GATED: tl.constexpr,
    KEEP: tl.constexpr,
    EVERY: tl.constexpr,
    N_BLOCK: tl.constexpr,
    D_BLOCK: tl.constexpr,
    VECTOR: tl.constexpr,
) -> None:
    """Write ``y``; if KEEP, also the state ahead of every EVERY-th position to ``entries`` (K pieces).

    VECTOR channels of every row must be aligned to their size.
    """
    blocks = tl.cdiv(channels, D_BLOCK)
    batch = (tl.program_id(0) // blocks).to(tl.int64)
    d = tl.program_id(0) % blocks * D_BLOCK + tl.arange(0, D_BLOCK)
    n = tl.arange(0, N_BLOCK)
    d_in, n_in = d // VECTOR < channels // VECTOR, n < state
    both_in = n_in[:, None] & d_in[None, :]
    cell = n[:, None] * channels + d[None, :]
    A = tl.load(aligned(A_ND, cell, VECTOR), mask=both_in, other=0) * LOG2E
    skip = tl.load(aligned_row(D, d, VECTOR), mask=d_in, other=0).to(tl.float32)
    offset = tl.zeros((D_BLOCK,), tl.float32)
    if BIASED:
        offset = tl.load(aligned_row(bias, d, VECTOR), mask=d_in, other=0).to(tl.float32)
    h = tl.zeros((N_BLOCK, D_BLOCK), tl.float32)
    first = batch * length
    piece = batch * tl.cdiv(length, EVERY)
    for t in range(length):
        row = first + t
        if KEEP and t % EVERY == 0:
            entry = entries_BKND + (piece + t // EVERY) * state * channels
            tl.store(aligned(entry, cell, VECTOR), h, mask=both_in)
        raw = tl.load(aligned_row(delta + row * delta_row, d, VECTOR), mask=d_in, other=0)
        step = step_sizes(raw, offset, SOFTPLUS)
        x = tl.load(aligned_row(u + row * u_row, d, VECTOR), mask=d_in, other=0).to(tl.float32)
        into = tl.load(B + row * B_row + n, mask=n_in, other=0).to(tl.float32)
        out_of = tl.load(C + row * C_row + n, mask=n_in, other=0).to(tl.float32)
        h = tl.exp2(step[None, :] * A) * h + (step * x)[None, :] * into[:, None]
        out = tl.sum(h * out_of[:, None], 0) + skip * x
        if GATED:
            gate = tl.load(aligned_row(z + row * z_row, d, VECTOR), mask=d_in, other=0).to(tl.float32)
            out *= gate * sigmoid(gate)
        tl.store(aligned_row(y + row * channels, d, VECTOR), out.to(y.dtype.element_ty), mask=d_in)


@triton.jit
def aligned_states(start: tl.tensor, offsets_GRX: tl.tensor, VECTOR: tl.constexpr) -> tl.tensor:
    """As ``aligned``, for pointers (G, R, X)."""
    size: tl.constexpr = VECTOR * (start.dtype.element_ty.primitive_bitwidth // 8)
    return tl.multiple_of(start + offsets_GRX, (1, 1, size))


@triton.jit
def over_states(terms_GRX: tl.tensor, G: tl.constexpr) -> tl.tensor:
    """The sum over a channel's states, once for each of the G, (G, X)."""
    sums_GX = tl.sum(terms_GRX, 1)
    if G > 1:
        sums_GX = tl.broadcast_to(tl.sum(sums_GX, 0, keep_dims=True), sums_GX.shape)
    return sums_GX


# No alignment but that of VECTOR channels may be known: Triton would give a thread more of them.
@triton.jit(
    do_not_specialize_on_alignment=[
        "channels", "grad", "u", "delta", "z", "grad_u", "grad_delta", "grad_z", "A_ND", "D", "bias",
        "entries_BKND", "scratch_PSNX", "grad_A_BND", "grad_D_BD", "grad_bias_BD",
    ]
)  # fmt: skip
def scan_backward(
    grad: tl.tensor,
    u: tl.tensor,
    delta: tl.tensor,
    A_ND: tl.tensor,
    B: tl.tensor,
    C: tl.tensor,
    D: tl.tensor,
    bias: tl.tensor,
    z: tl.tensor,
    entries_BKND: tl.tensor,
    scratch_PSNX: tl.tensor,
    grad_u: tl.tensor,
    grad_delta: tl.tensor,
    grad_z: tl.tensor,
    grad_A_BND: tl.tensor,
    grad_B_XBLN: tl.tensor,
    grad_C_XBLN: tl.tensor,
    grad_D_BD: tl.tensor,
    grad_bias_BD: tl.tensor,
    batches: tl.tensor,
    length: tl.tensor,
    channels: tl.tensor,
    state: tl.tensor,
    grad_row: tl.tensor,
    u_row: tl.tensor,
    delta_row: tl.tensor,
    B_row: tl.tensor,
    C_row: tl.tensor,
    z_row: tl.tensor,
    BIASED: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    GATED: tl.constexpr,
    EVERY: tl.constexpr,
    GROUP: tl.constexpr,
    WALK: tl.constexpr,
    VECTOR: tl.constexpr,
    N_BLOCK: tl.constexpr,
    G: tl.constexpr,
    D_BLOCK: tl.constexpr,
) -> None:
    """Gradients of ``scan``, piece by piece from the last, in each group by group from the last.

    From the entry of a piece its states are made again, WALK positions at a time, and those ahead of every
    GROUP-th position kept in the program's scratch (S). Then the states of a group are made once more and
    stay in registers for its gradients. So the loads of several positions are in flight together, and few
    states pass through memory. ``grad_A``, ``grad_D`` and ``grad_bias`` come by batch entry, ``grad_B`` and
    ``grad_C`` by block of channels (X), for the caller to sum: nothing is added atomically. VECTOR channels
    of every row must be aligned to their size.
    """
    R: tl.constexpr = N_BLOCK // G
    GROUPS: tl.constexpr = EVERY // GROUP
    TILE: tl.constexpr = N_BLOCK * D_BLOCK
    blocks = tl.cdiv(channels, D_BLOCK)
    batch = (tl.program_id(0) // blocks).to(tl.int64)
    block = tl.program_id(0) % blocks
    x_X = tl.arange(0, D_BLOCK)
    g_G = tl.arange(0, G)
    d_GX = (block * D_BLOCK + x_X)[None, :] + tl.zeros((G, 1), tl.int32)
    n_GR = g_G[:, None] * R + tl.arange(0, R)[None, :]
    d_in = d_GX // VECTOR < channels // VECTOR
    n_in = n_GR < state
    both_in = n_in[:, :, None] & d_in[:, None, :]
    mine = d_in & (g_G == 0)[:, None]  # whoever writes what belongs to a channel
    cell = n_GR[:, :, None] * channels + d_GX[:, None, :]
    A = tl.load(aligned_states(A_ND, cell, VECTOR), mask=both_in, other=0) * LOG2E
    skip = tl.load(aligned(D, d_GX, VECTOR), mask=d_in, other=0).to(tl.float32)
    offset = tl.zeros((G, D_BLOCK), tl.float32)
    if BIASED:
        offset = tl.load(aligned(bias, d_GX, VECTOR), mask=d_in, other=0).to(tl.float32)
    own = n_GR[:, :, None] * D_BLOCK + x_X[None, None, :]
    scratch = scratch_PSNX + tl.program_id(0).to(tl.int64) * (GROUPS * TILE)

    carry = tl.zeros((G, R, D_BLOCK), tl.float32)
    sum_A = tl.zeros((G, R, D_BLOCK), tl.float32)
    sum_D = tl.zeros((G, D_BLOCK), tl.float32)
    sum_raw = tl.zeros((G, D_BLOCK), tl.float32)
    pieces = tl.cdiv(length, EVERY)
    for back in range(pieces):
        piece = pieces - 1 - back
        start = piece * EVERY
        first = batch * length + start
        groups = tl.cdiv(tl.minimum(EVERY, length - start), GROUP)
        entry = entries_BKND + (batch * pieces + piece) * state * channels
        h = tl.load(aligned_states(entry, cell, VECTOR), mask=both_in, other=0)
        # Stretches may reach beyond the states that are needed, and beyond the last position.
        for stretch in range(tl.cdiv((groups - 1) * GROUP, WALK)):
            deltas, us, Bs = (), (), ()
            for i in tl.static_range(WALK):
                inside = start + stretch * WALK + i < length
                row = first + stretch * WALK + i
                mask = d_in & inside
                deltas += (tl.load(aligned(delta + row * delta_row, d_GX, VECTOR), mask=mask, other=0),)
                us += (tl.load(aligned(u + row * u_row, d_GX, VECTOR), mask=mask, other=0),)
                Bs += (tl.load(B + row * B_row + n_GR, mask=n_in & inside, other=0),)
            for i in tl.static_range(WALK):
                if i % GROUP == 0:
                    place = (stretch * (WALK // GROUP) + i // GROUP) * TILE
                    tl.store(aligned_states(scratch + place, own, VECTOR), h)
                step = step_sizes(deltas[i], offset, SOFTPLUS)
                decay = tl.exp2(step[:, None, :] * A)
                h = decay * h + (step * us[i].to(tl.float32))[:, None, :] * Bs[i].to(tl.float32)[:, :, None]
        if (groups - 1) * GROUP % WALK == 0:  # the last group begins where the last stretch ended
            tl.store(aligned_states(scratch + (groups - 1) * TILE, own, VECTOR), h)
        tl.debug_barrier()  # should other threads read the states than wrote them
        for reverse in range(groups):
            group = groups - 1 - reverse
            h = tl.load(aligned_states(scratch + group * TILE, own, VECTOR))
            deltas, us, gs, zs, Bs, Cs = (), (), (), (), (), ()
            for i in tl.static_range(GROUP):
                row = first + group * GROUP + i
                inside = start + group * GROUP + i < length
                mask, states_mask = d_in & inside, n_in & inside
                deltas += (tl.load(aligned(delta + row * delta_row, d_GX, VECTOR), mask=mask, other=0),)
                us += (tl.load(aligned(u + row * u_row, d_GX, VECTOR), mask=mask, other=0),)
                gs += (tl.load(aligned(grad + row * grad_row, d_GX, VECTOR), mask=mask, other=0),)
                Bs += (tl.load(B + row * B_row + n_GR, mask=states_mask, other=0),)
                Cs += (tl.load(C + row * C_row + n_GR, mask=states_mask, other=0),)
                if GATED:
                    zs += (tl.load(aligned(z + row * z_row, d_GX, VECTOR), mask=mask, other=0),)
            states, decays, steps = (h,), (), ()
            for i in tl.static_range(GROUP):
                step = step_sizes(deltas[i], offset, SOFTPLUS)
                # Beyond the last position a state stays as it is; there the other inputs are zero.
                step = tl.where(start + group * GROUP + i < length, step, 0.0)
                decay = tl.exp2(step[:, None, :] * A)
                h = decay * h + (step * us[i].to(tl.float32))[:, None, :] * Bs[i].to(tl.float32)[:, :, None]
                steps += (step,)
                decays += (decay,)
                states += (h,)
            for i in tl.static_range(GROUP - 1, -1, -1):
                inside = start + group * GROUP + i < length
                row = first + group * GROUP + i
                out = row * channels
                step, decay, before = steps[i], decays[i], states[i]
                x, g = us[i].to(tl.float32), gs[i].to(tl.float32)
                into, out_of = Bs[i].to(tl.float32)[:, :, None], Cs[i].to(tl.float32)[:, :, None]
                write = step * x
                if GATED:
                    gate = zs[i].to(tl.float32)
                    logistic = sigmoid(gate)
                    read = over_states(states[i + 1] * out_of, G) + skip * x
                    g_gate = g * read * logistic * (1 + gate * (1 - logistic))
                    tl.store(
                        aligned(grad_z + out, d_GX, VECTOR),
                        g_gate.to(grad_z.dtype.element_ty),
                        mask=mine & inside,
                    )
                    g *= gate * logistic
                g_h = carry + g[:, None, :] * out_of
                part = ((block * batches + batch) * length + start + group * GROUP + i) * state + n_GR
                tl.store(grad_C_XBLN + part, tl.sum(states[i + 1] * g[:, None, :], 2), mask=n_in & inside)
                tl.store(grad_B_XBLN + part, tl.sum(g_h * write[:, None, :], 2), mask=n_in & inside)
                carry = decay * g_h
                g_exponent = carry * before
                g_write = over_states(g_h * into, G)
                g_raw = over_states(g_exponent * A, G) * LN2 + g_write * x
                if SOFTPLUS:
                    g_raw *= sigmoid(deltas[i].to(tl.float32) + offset)
                g_raw = tl.where(inside, g_raw, 0.0)
                sum_A += g_exponent * step[:, None, :]
                sum_D += g * x
                sum_raw += g_raw
                g_u = g_write * step + g * skip
                tl.store(
                    aligned(grad_u + out, d_GX, VECTOR), g_u.to(grad_u.dtype.element_ty), mask=mine & inside
                )
                tl.store(
                    aligned(grad_delta + out, d_GX, VECTOR),
                    g_raw.to(grad_delta.dtype.element_ty),
                    mask=mine & inside,
                )
        tl.debug_barrier()  # the scratch is free again
    tl.store(aligned_states(grad_A_BND + batch * state * channels, cell, VECTOR), sum_A, mask=both_in)
    tl.store(aligned(grad_D_BD + batch * channels, d_GX, VECTOR), sum_D, mask=mine)
    if BIASED:
        tl.store(aligned(grad_bias_BD + batch * channels, d_GX, VECTOR), sum_raw, mask=mine)
