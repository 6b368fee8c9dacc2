"""Mamba-2's state-space dual and its gradient in Triton for bfloat16: programs that walk over their chunks.

A program is one head of one batch entry. It carries its state (N, P), float32, in registers from chunk to
chunk, or in the gradient the state's gradient from the last chunk back, so that no state passes through
memory but those that the gradient needs; without CHUNKED there is one chunk, and no state. Products run on
the tensor cores in bfloat16. Inputs are exact there, and what is not an input enters as the sum of two
bfloat16, which keep 16 of its bits; as one, where the result is the gradient of B or C, bfloat16 itself.

Letters and the layout of sequences: see ``triton_ssd_kernels``.
"""

import triton
import triton.language as tl

from climp_bench.ops.triton_common import INTERPRETED
from climp_bench.ops.triton_ssd_kernels import decay_sums, decays_between, stored


@triton.jit
def product(a: tl.tensor, b: tl.tensor, acc: tl.tensor) -> tl.tensor:
    """``acc + a @ b`` of bfloat16 in float32; the interpreter would multiply the bits."""
    if INTERPRETED:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, acc)


@triton.jit
def two_parts(x: tl.tensor) -> tl.tensor:
    """A float32 tensor as the sum of two in bfloat16, up to 2^-17 of it."""
    high = x.to(tl.bfloat16)
    return high, (x - high.to(tl.float32)).to(tl.bfloat16)


@triton.jit
def from_left(rounded: tl.tensor, exact: tl.tensor, acc: tl.tensor) -> tl.tensor:
    """``acc + rounded @ exact``, of float32 and bfloat16."""
    high, low = two_parts(rounded)
    return product(low, exact, product(high, exact, acc))


@triton.jit
def from_right(exact: tl.tensor, high: tl.tensor, low: tl.tensor, acc: tl.tensor) -> tl.tensor:
    """``acc + exact @ (high + low)``, all bfloat16 but ``acc``."""
    return product(exact, low, product(exact, high, acc))


# Texts come in every length: one binary for a block of positions serves all of them.
@triton.jit(do_not_specialize=["length", "size", "chunks"])
def walk(
    x: tl.tensor,
    dt: tl.tensor,
    A_H: tl.tensor,
    B: tl.tensor,
    C: tl.tensor,
    D_H: tl.tensor,
    y: tl.tensor,
    entering_BHKNP: tl.tensor,
    length: tl.tensor,
    size: tl.tensor,
    chunks: tl.tensor,
    heads: tl.tensor,
    channels: tl.tensor,
    state: tl.tensor,
    heads_of_group: tl.tensor,
    x_row: tl.tensor,
    dt_row: tl.tensor,
    B_row: tl.tensor,
    C_row: tl.tensor,
    KEEP: tl.constexpr,
    CHUNKED: tl.constexpr,
    Q_BLOCK: tl.constexpr,
    P_BLOCK: tl.constexpr,
    N_BLOCK: tl.constexpr,
) -> None:
    """Write ``y`` or, if KEEP, only the state that enters each chunk, padded to the blocks."""
    program = tl.program_id(0).to(tl.int64)
    head, batch = program % heads, program // heads
    q, p, n = tl.arange(0, Q_BLOCK), tl.arange(0, P_BLOCK), tl.arange(0, N_BLOCK)
    A, skip = tl.load(A_H + head), tl.load(D_H + head)
    group = head // heads_of_group * state
    cell = n[:, None] * P_BLOCK + p[None, :]
    none_QP = tl.zeros((Q_BLOCK, P_BLOCK), tl.float32)
    none_QQ = tl.zeros((Q_BLOCK, Q_BLOCK), tl.float32)
    h = tl.zeros((N_BLOCK, P_BLOCK), tl.float32)
    for chunk in range(chunks):
        position = chunk * size + q
        valid = (q < size) & (position < length)
        row = batch * length + position
        step = tl.load(dt + row * dt_row + head, mask=valid, other=0).to(tl.float32)
        into = stored(B + group, row * B_row, valid, n, state)
        inputs = stored(x + head * channels, row * x_row, valid, p, channels)
        exact, total = decay_sums(step, A)
        if KEEP:
            tl.store(entering_BHKNP + (program * chunks + chunk) * (N_BLOCK * P_BLOCK) + cell, h)
        else:
            out_of = stored(C + group, row * C_row, valid, n, state)
            out = inputs.to(tl.float32) * skip
            if CHUNKED and chunk > 0:
                high, low = two_parts(h)
                read = from_right(out_of, high, low, none_QP)
                out += read * tl.exp(exact.to(tl.float32))[:, None]
            scores = product(out_of, tl.trans(into), none_QQ)
            weights = scores * decays_between(exact, Q_BLOCK) * step[None, :]
            out = from_left(weights, inputs, out)
            at = y + (row * heads + head)[:, None] * channels + p[None, :]
            tl.store(at, out.to(y.dtype.element_ty), mask=valid[:, None] & (p < channels)[None, :])
        if CHUNKED and chunk < chunks - 1:
            to_end = tl.exp((total - exact).to(tl.float32)) * step
            high, low = two_parts(inputs.to(tl.float32) * to_end[:, None])
            h = from_right(tl.trans(into), high, low, h * tl.exp(total.to(tl.float32)))


@triton.jit(do_not_specialize=["length", "size", "chunks"])
def walk_back(
    grad: tl.tensor,
    x: tl.tensor,
    dt: tl.tensor,
    A_H: tl.tensor,
    B: tl.tensor,
    C: tl.tensor,
    D_H: tl.tensor,
    entering_BHKNP: tl.tensor,
    grad_x: tl.tensor,
    grad_dt: tl.tensor,
    grad_A_BH: tl.tensor,
    grad_B_BLHN: tl.tensor,
    grad_C_BLHN: tl.tensor,
    grad_D_BH: tl.tensor,
    length: tl.tensor,
    size: tl.tensor,
    chunks: tl.tensor,
    heads: tl.tensor,
    channels: tl.tensor,
    state: tl.tensor,
    heads_of_group: tl.tensor,
    grad_row: tl.tensor,
    x_row: tl.tensor,
    dt_row: tl.tensor,
    B_row: tl.tensor,
    C_row: tl.tensor,
    CHUNKED: tl.constexpr,
    Q_BLOCK: tl.constexpr,
    P_BLOCK: tl.constexpr,
    N_BLOCK: tl.constexpr,
) -> None:
    """Gradients, chunk by chunk from the last, given the state that enters each.

    ``grad_A`` and ``grad_D`` come by batch entry, ``grad_B`` and ``grad_C`` by head, for the caller to sum.
    """
    program = tl.program_id(0).to(tl.int64)
    head, batch = program % heads, program // heads
    q, p, n = tl.arange(0, Q_BLOCK), tl.arange(0, P_BLOCK), tl.arange(0, N_BLOCK)
    A, skip = tl.load(A_H + head), tl.load(D_H + head)
    group = head // heads_of_group * state
    cell = n[:, None] * P_BLOCK + p[None, :]
    none_QP = tl.zeros((Q_BLOCK, P_BLOCK), tl.float32)
    none_QN = tl.zeros((Q_BLOCK, N_BLOCK), tl.float32)
    none_QQ = tl.zeros((Q_BLOCK, Q_BLOCK), tl.float32)
    g_h = tl.zeros((N_BLOCK, P_BLOCK), tl.float32)
    g_A, g_D = 0.0, 0.0
    before = tl.where(q[:, None] < q[None, :], 1.0, 0.0).to(tl.bfloat16)
    for back in range(chunks):
        chunk = chunks - 1 - back
        position = chunk * size + q
        valid = (q < size) & (position < length)
        row = batch * length + position
        step = tl.load(dt + row * dt_row + head, mask=valid, other=0).to(tl.float32)
        out_of = stored(C + group, row * C_row, valid, n, state)
        into = stored(B + group, row * B_row, valid, n, state)
        inputs = stored(x + head * channels, row * x_row, valid, p, channels)
        g = stored(grad + head * channels, row * grad_row, valid, p, channels)
        exact, total = decay_sums(step, A)
        from_start = tl.exp(exact.to(tl.float32))
        to_end = tl.exp((total - exact).to(tl.float32))
        between = decays_between(exact, Q_BLOCK)
        decay = tl.exp(total.to(tl.float32))
        x_wide, g_wide = inputs.to(tl.float32), g.to(tl.float32)

        scores = product(out_of, tl.trans(into), none_QQ)
        g_scores = product(g, tl.trans(inputs), none_QQ) * step[None, :] * between
        # Terms of a decay are all pairs it lies between, s < t <= q: summed over s here, over q there.
        ahead = from_left(g_scores * scores, before, none_QQ)
        g_log = tl.sum(tl.where(q[:, None] >= q[None, :], ahead, 0.0), 0)
        g_written = from_left(tl.trans(scores * between), g, none_QP)
        g_scores_half = g_scores.to(tl.bfloat16)

        at = (row * heads + head)[:, None] * state + n[None, :]
        inside = valid[:, None] & (n < state)[None, :]
        g_out_of = product(g_scores_half, into, none_QN)
        if CHUNKED and chunk > 0:
            h = tl.load(entering_BHKNP + (program * chunks + chunk) * (N_BLOCK * P_BLOCK) + cell)
            high, low = two_parts(h)
            read = from_right(out_of, high, low, none_QP)
            g_log += tl.cumsum(from_start * tl.sum(g_wide * read, 1), 0, reverse=True)
            g_log += decay * tl.sum(tl.sum(h * g_h, 1), 0)
            g_out_of += product(g, tl.trans(high), none_QN) * from_start[:, None]
        tl.store(grad_C_BLHN + at, g_out_of, mask=inside)

        g_into = product(tl.trans(g_scores_half), out_of, none_QN)
        if CHUNKED and back > 0:
            high, low = two_parts(g_h)
            g_left = from_right(into, high, low, none_QP) * to_end[:, None]
            left = step * tl.sum(x_wide * g_left, 1)
            g_log += tl.cumsum(left, 0) - left
            g_written += g_left
            g_into += product(inputs, tl.trans(high), none_QN) * (step * to_end)[:, None]
        tl.store(grad_B_BLHN + at, g_into, mask=inside)

        at = (row * heads + head)[:, None] * channels + p[None, :]
        inside = valid[:, None] & (p < channels)[None, :]
        g_x = g_written * step[:, None] + g_wide * skip
        tl.store(grad_x + at, g_x.to(grad_x.dtype.element_ty), mask=inside)
        g_step = g_log * A + tl.sum(g_written * x_wide, 1)
        tl.store(grad_dt + row * heads + head, g_step.to(grad_dt.dtype.element_ty), mask=valid)
        g_A += tl.sum(g_log * step, 0)
        g_D += tl.sum(tl.sum(g_wide * x_wide, 1), 0)
        if CHUNKED and chunk > 0:
            high, low = two_parts(g_wide * from_start[:, None])
            g_h = from_right(tl.trans(out_of), high, low, g_h * decay)
    tl.store(grad_A_BH + program, g_A)
    tl.store(grad_D_BH + program, g_D)
