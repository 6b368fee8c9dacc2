"""Mamba-1's scan and its gradient in Triton.

A program is one batch entry and one block of channels; it walks over the positions with its states (N, X) in
registers, float32. Channels are innermost: in the forward kernel, with 32 of them a warp, a thread owns all
states of its channel, and sums over the state stay inside the thread. Padded states and channels hold zeros.

Axis letters: see ``climp_bench.specs``; X is a block of channels. Sequences come as rows, batch entry after
batch entry, with unit stride along channels or state.
"""

import triton
import triton.language as tl

from climp_bench.ops.triton_common import sigmoid, softplus

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def step_sizes(
    delta_X: tl.tensor, inside_X: tl.tensor, bias_X: tl.tensor, SOFTPLUS: tl.constexpr
) -> tl.tensor:
    """The step sizes of one position, (X), ahead of softplus and after it."""
    raw = tl.load(delta_X, mask=inside_X, other=0).to(tl.float32) + bias_X
    return raw, softplus(raw) if SOFTPLUS else raw


# Where vectors of channels may be loaded at once, Triton gives a thread several of them and spreads the
# states over the warps, which then meet at every position: the alignment of rows is kept from it here.
@triton.jit(do_not_specialize_on_alignment=["channels"])
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
) -> None:
    """Write ``y``; if KEEP, also the state ahead of every EVERY-th position to ``entries`` (K pieces)."""
    blocks = tl.cdiv(channels, D_BLOCK)
    batch = (tl.program_id(0) // blocks).to(tl.int64)
    d = tl.program_id(0) % blocks * D_BLOCK + tl.arange(0, D_BLOCK)
    n = tl.arange(0, N_BLOCK)
    d_in, n_in = d < channels, n < state
    both_in = n_in[:, None] & d_in[None, :]
    cell = n[:, None] * channels + d[None, :]
    A = tl.load(A_ND + cell, mask=both_in, other=0) * LOG2E
    skip = tl.load(D + d, mask=d_in, other=0).to(tl.float32)
    offset = tl.zeros((D_BLOCK,), tl.float32)
    if BIASED:
        offset = tl.load(bias + d, mask=d_in, other=0).to(tl.float32)
    h = tl.zeros((N_BLOCK, D_BLOCK), tl.float32)
    first = batch * length
    piece = batch * tl.cdiv(length, EVERY)
    for t in range(length):
        row = first + t
        if KEEP and t % EVERY == 0:
            tl.store(entries_BKND + (piece + t // EVERY) * state * channels + cell, h, mask=both_in)
        _, step = step_sizes(delta + row * delta_row + d, d_in, offset, SOFTPLUS)
        x = tl.load(u + row * u_row + d, mask=d_in, other=0).to(tl.float32)
        into = tl.load(B + row * B_row + n, mask=n_in, other=0).to(tl.float32)
        out_of = tl.load(C + row * C_row + n, mask=n_in, other=0).to(tl.float32)
        h = tl.exp2(step[None, :] * A) * h + (step * x)[None, :] * into[:, None]
        out = tl.sum(h * out_of[:, None], 0) + skip * x
        if GATED:
            gate = tl.load(z + row * z_row + d, mask=d_in, other=0).to(tl.float32)
            out *= gate * sigmoid(gate)
        tl.store(y + row * channels + d, out.to(y.dtype.element_ty), mask=d_in)


@triton.jit
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
    scratch_PTNX: tl.tensor,
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
    N_BLOCK: tl.constexpr,
    D_BLOCK: tl.constexpr,
) -> None:
    """Gradients of ``scan``, piece by piece from the last.

    The states of a piece are made again from its entry, written to the program's scratch (T positions), and
    read back in reverse. ``grad_A``, ``grad_D`` and ``grad_bias`` come by batch entry, ``grad_B`` and
    ``grad_C`` by block of channels (X), for the caller to sum: nothing is added atomically.
    """
    blocks = tl.cdiv(channels, D_BLOCK)
    batch = (tl.program_id(0) // blocks).to(tl.int64)
    block = tl.program_id(0) % blocks
    d = block * D_BLOCK + tl.arange(0, D_BLOCK)
    n = tl.arange(0, N_BLOCK)
    d_in, n_in = d < channels, n < state
    both_in = n_in[:, None] & d_in[None, :]
    cell = n[:, None] * channels + d[None, :]
    A = tl.load(A_ND + cell, mask=both_in, other=0) * LOG2E
    skip = tl.load(D + d, mask=d_in, other=0).to(tl.float32)
    offset = tl.zeros((D_BLOCK,), tl.float32)
    if BIASED:
        offset = tl.load(bias + d, mask=d_in, other=0).to(tl.float32)
    own = n[:, None] * D_BLOCK + tl.arange(0, D_BLOCK)[None, :]
    scratch = scratch_PTNX + tl.program_id(0).to(tl.int64) * (EVERY * N_BLOCK * D_BLOCK) + own

    carry = tl.zeros((N_BLOCK, D_BLOCK), tl.float32)
    sum_A = tl.zeros((N_BLOCK, D_BLOCK), tl.float32)
    sum_D = tl.zeros((D_BLOCK,), tl.float32)
    sum_raw = tl.zeros((D_BLOCK,), tl.float32)
    pieces = tl.cdiv(length, EVERY)
    for back in range(pieces):
        piece = pieces - 1 - back
        start = piece * EVERY
        size = tl.minimum(EVERY, length - start)
        first = batch * length + start
        entry = (batch * pieces + piece) * state * channels
        h = tl.load(entries_BKND + entry + cell, mask=both_in, other=0)
        for t in range(size):
            tl.store(scratch + t * (N_BLOCK * D_BLOCK), h)
            row = first + t
            _, step = step_sizes(delta + row * delta_row + d, d_in, offset, SOFTPLUS)
            x = tl.load(u + row * u_row + d, mask=d_in, other=0).to(tl.float32)
            into = tl.load(B + row * B_row + n, mask=n_in, other=0).to(tl.float32)
            h = tl.exp2(step[None, :] * A) * h + (step * x)[None, :] * into[:, None]
        tl.debug_barrier()  # the states are read by other threads than wrote them, if the layouts differ
        for reverse in range(size):
            t = size - 1 - reverse
            row = first + t
            raw, step = step_sizes(delta + row * delta_row + d, d_in, offset, SOFTPLUS)
            x = tl.load(u + row * u_row + d, mask=d_in, other=0).to(tl.float32)
            into = tl.load(B + row * B_row + n, mask=n_in, other=0).to(tl.float32)
            out_of = tl.load(C + row * C_row + n, mask=n_in, other=0).to(tl.float32)
            g = tl.load(grad + row * grad_row + d, mask=d_in, other=0).to(tl.float32)
            before = tl.load(scratch + t * (N_BLOCK * D_BLOCK))
            decay = tl.exp2(step[None, :] * A)
            write = step * x
            h = decay * before + write[None, :] * into[:, None]
            if GATED:
                gate = tl.load(z + row * z_row + d, mask=d_in, other=0).to(tl.float32)
                logistic = sigmoid(gate)
                read = tl.sum(h * out_of[:, None], 0) + skip * x
                g_gate = g * read * logistic * (1 + gate * (1 - logistic))
                tl.store(grad_z + row * channels + d, g_gate.to(grad_z.dtype.element_ty), mask=d_in)
                g *= gate * logistic
            g_h = carry + g[None, :] * out_of[:, None]
            part = ((block * batches + batch) * length + start + t) * state + n
            tl.store(grad_C_XBLN + part, tl.sum(h * g[None, :], 1), mask=n_in)
            tl.store(grad_B_XBLN + part, tl.sum(g_h * write[None, :], 1), mask=n_in)
            carry = decay * g_h
            g_exponent = carry * before
            g_write = tl.sum(g_h * into[:, None], 0)
            g_raw = tl.sum(g_exponent * A, 0) * LN2 + g_write * x
            if SOFTPLUS:
                g_raw *= sigmoid(raw)
            sum_A += g_exponent * step[None, :]
            sum_D += g * x
            sum_raw += g_raw
            g_u = g_write * step + g * skip
            tl.store(grad_u + row * channels + d, g_u.to(grad_u.dtype.element_ty), mask=d_in)
            tl.store(grad_delta + row * channels + d, g_raw.to(grad_delta.dtype.element_ty), mask=d_in)
        tl.debug_barrier()  # the scratch is free again
    tl.store(grad_A_BND + batch * state * channels + cell, sum_A, mask=both_in)
    tl.store(grad_D_BD + batch * channels + d, sum_D, mask=d_in)
    if BIASED:
        tl.store(grad_bias_BD + batch * channels + d, sum_raw, mask=d_in)
