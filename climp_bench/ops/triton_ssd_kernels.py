"""Mamba-2's state-space dual and its gradient in Triton.

A program is one chunk of one head: its positions meet in matrix products (Q, Q), (Q, P) and (Q, N), float32,
the state in blocks of N; ``pass_states`` takes states from chunk to chunk. Sums of log decays run in float64,
one a position, and become two float32 of which the second holds what the first rounds away: differences of
such pairs keep float32's accuracy, those of plain float32 sums would not. Positions past the end hold zeros:
they decay nothing and write nothing.

Letters: see ``climp_bench.ops.ssd``; K chunks, Q and S positions of a chunk. Sequences come as rows, batch
entry after batch entry, with unit stride along everything but the row.
"""

import triton
import triton.language as tl


@triton.jit
def place(
    heads: tl.tensor, chunks: tl.tensor, length: tl.tensor, size: tl.tensor, Q: tl.constexpr
) -> tl.tensor:
    """This program's head, number among (B, K, H), rows (Q) and which of them are positions of its chunk."""
    program = tl.program_id(0).to(tl.int64)
    head, chunk = program % heads, program // heads % chunks
    q = tl.arange(0, Q)
    position = chunk * size + q
    valid = (q < size) & (position < length)
    return head, program, program // heads // chunks * length + position, valid


@triton.jit
def stored(
    start: tl.tensor, row: tl.tensor, valid: tl.tensor, column: tl.tensor, columns: tl.tensor
) -> tl.tensor:
    """Rows of a sequence as they are stored, (Q, columns)."""
    inside = valid[:, None] & (column < columns)[None, :]
    return tl.load(start + row[:, None] + column[None, :], mask=inside, other=0)


@triton.jit
def tile(
    start: tl.tensor, row: tl.tensor, valid: tl.tensor, column: tl.tensor, columns: tl.tensor
) -> tl.tensor:
    """The same as float32."""
    return stored(start, row, valid, column, columns).to(tl.float32)


@triton.jit
def decay_sums(dt: tl.tensor, A: tl.tensor) -> tl.tensor:
    """Sums of log decays from the chunk's start (Q) and over all of it, in float64."""
    exact = tl.cumsum((dt * A).to(tl.float64), 0)
    return exact, tl.sum((dt * A).to(tl.float64), 0)


@triton.jit
def decays_between(exact: tl.tensor, Q: tl.constexpr) -> tl.tensor:
    """From each position S to each later Q, (Q, S): masked ahead of exp, which would overflow."""
    high = exact.to(tl.float32)
    low = (exact - high.to(tl.float64)).to(tl.float32)
    q = tl.arange(0, Q)
    between = (high[:, None] - high[None, :]) + (low[:, None] - low[None, :])
    return tl.exp(tl.where(q[:, None] >= q[None, :], between, float("-inf")))


# Texts come in every length: one binary for a block of positions serves all of them.
@triton.jit(do_not_specialize=["length", "size", "chunks"])
def chunk_states(
    x: tl.tensor,
    dt: tl.tensor,
    A_H: tl.tensor,
    B: tl.tensor,
    states_BKHPN: tl.tensor,
    decay_BKH: tl.tensor,
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
    REVERSE: tl.constexpr,
    INPUTS: tl.constexpr,
    MIXED: tl.constexpr,
    Q_BLOCK: tl.constexpr,
    P_BLOCK: tl.constexpr,
    N_BLOCK: tl.constexpr,
) -> None:
    """What each chunk writes to the state by its end, and how much of the entering state it lets through.

    REVERSE is the transpose: ``x`` and ``B`` are the gradient of y and C, and the result is what each chunk
    adds to the gradient of the state that enters it.
    """
    head, program, row, valid = place(heads, chunks, length, size, Q_BLOCK)
    p = tl.arange(0, P_BLOCK)
    step = tl.load(dt + row * dt_row + head, mask=valid, other=0).to(tl.float32)
    exact, total = decay_sums(step, tl.load(A_H + head))
    tl.store(decay_BKH + program, tl.exp(total.to(tl.float32)))
    weight = tl.exp((exact if REVERSE else total - exact).to(tl.float32))
    if not REVERSE:
        weight *= step
    written = tl.trans(tile(x + head * channels, row * x_row, valid, p, channels) * weight[:, None])
    group = B + head // heads_of_group * state
    for first in range(0, state, N_BLOCK):
        n = first + tl.arange(0, N_BLOCK)
        h = tl.dot(written, tile(group, row * B_row, valid, n, state), input_precision=MIXED)
        cell = program * channels * state + p[:, None] * state + n[None, :]
        tl.store(states_BKHPN + cell, h, mask=(p < channels)[:, None] & (n < state)[None, :])


@triton.jit(do_not_specialize=["chunks"])
def pass_states(
    states_BKHX: tl.tensor,
    decay_BKH: tl.tensor,
    chunks: tl.tensor,
    heads: tl.tensor,
    cells: tl.tensor,
    REVERSE: tl.constexpr,
    X_BLOCK: tl.constexpr,
) -> None:
    """Replace what each chunk writes by the state that enters it; from the last chunk back if REVERSE."""
    blocks = tl.cdiv(cells, X_BLOCK)
    entry = (tl.program_id(0) // blocks).to(tl.int64)
    x = tl.program_id(0) % blocks * X_BLOCK + tl.arange(0, X_BLOCK)
    carried = tl.zeros((X_BLOCK,), tl.float32)
    for i in range(chunks):
        chunk = chunks - 1 - i if REVERSE else i
        program = (entry // heads * chunks + chunk) * heads + entry % heads
        at = states_BKHX + program * cells + x
        written = tl.load(at, mask=x < cells, other=0)
        tl.store(at, carried, mask=x < cells)
        carried = tl.load(decay_BKH + program) * carried + written


@triton.jit(do_not_specialize=["length", "size", "chunks"])
def chunk_outputs(
    x: tl.tensor,
    dt: tl.tensor,
    A_H: tl.tensor,
    B: tl.tensor,
    C: tl.tensor,
    D_H: tl.tensor,
    entering_BKHPN: tl.tensor,
    y: tl.tensor,
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
    CHUNKED: tl.constexpr,
    INPUTS: tl.constexpr,
    MIXED: tl.constexpr,
    Q_BLOCK: tl.constexpr,
    P_BLOCK: tl.constexpr,
    N_BLOCK: tl.constexpr,
) -> None:
    """Write ``y``. The scores C B^T are made again for every head of a group."""
    head, program, row, valid = place(heads, chunks, length, size, Q_BLOCK)
    p = tl.arange(0, P_BLOCK)
    group = head // heads_of_group * state
    scores = tl.zeros((Q_BLOCK, Q_BLOCK), tl.float32)
    read = tl.zeros((Q_BLOCK, P_BLOCK), tl.float32)
    for first in range(0, state, N_BLOCK):
        n = first + tl.arange(0, N_BLOCK)
        out_of = tile(C + group, row * C_row, valid, n, state)
        into = tile(B + group, row * B_row, valid, n, state)
        scores = tl.dot(out_of, tl.trans(into), scores, input_precision=INPUTS)
        if CHUNKED:
            h = tile(entering_BKHPN + program * channels * state, p * state, p < channels, n, state)
            read = tl.dot(out_of, tl.trans(h), read, input_precision=MIXED)
    step = tl.load(dt + row * dt_row + head, mask=valid, other=0).to(tl.float32)
    exact, _ = decay_sums(step, tl.load(A_H + head))
    inputs = tile(x + head * channels, row * x_row, valid, p, channels)
    out = read * tl.exp(exact.to(tl.float32))[:, None] + inputs * tl.load(D_H + head)
    weights = scores * decays_between(exact, Q_BLOCK) * step[None, :]
    out = tl.dot(weights, inputs, out, input_precision=MIXED)
    cell = (row * heads + head)[:, None] * channels + p[None, :]
    tl.store(y + cell, out.to(y.dtype.element_ty), mask=valid[:, None] & (p < channels)[None, :])


@triton.jit
def chunk_gradients(
    grad: tl.tensor,
    x: tl.tensor,
    dt: tl.tensor,
    A_H: tl.tensor,
    B: tl.tensor,
    C: tl.tensor,
    D_H: tl.tensor,
    entering_BKHPN: tl.tensor,
    leaving_BKHPN: tl.tensor,
    grad_x: tl.tensor,
    grad_dt: tl.tensor,
    grad_A_BKH: tl.tensor,
    grad_B_BLHN: tl.tensor,
    grad_C_BLHN: tl.tensor,
    grad_D_BKH: tl.tensor,
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
    INPUTS: tl.constexpr,
    MIXED: tl.constexpr,
    Q_BLOCK: tl.constexpr,
    P_BLOCK: tl.constexpr,
    N_BLOCK: tl.constexpr,
) -> None:
    """Gradients of one chunk of one head, given the states that enter and the gradient of those that leave.

    ``grad_A`` and ``grad_D`` come by chunk, ``grad_B`` and ``grad_C`` by head, for the caller to sum.
    """
    head, program, row, valid = place(heads, chunks, length, size, Q_BLOCK)
    p = tl.arange(0, P_BLOCK)
    p_in = p < channels
    group = head // heads_of_group * state
    states = program * channels * state
    A = tl.load(A_H + head)
    step = tl.load(dt + row * dt_row + head, mask=valid, other=0).to(tl.float32)
    inputs = tile(x + head * channels, row * x_row, valid, p, channels)
    g = tile(grad + head * channels, row * grad_row, valid, p, channels)
    exact, total = decay_sums(step, A)
    from_start = tl.exp(exact.to(tl.float32))
    to_end = tl.exp((total - exact).to(tl.float32))
    written = inputs * step[:, None]

    scores = tl.zeros((Q_BLOCK, Q_BLOCK), tl.float32)
    read = tl.zeros((Q_BLOCK, P_BLOCK), tl.float32)
    g_written = tl.zeros((Q_BLOCK, P_BLOCK), tl.float32)
    kept = tl.zeros((P_BLOCK, N_BLOCK), tl.float32)
    for first in range(0, state, N_BLOCK):
        n = first + tl.arange(0, N_BLOCK)
        out_of = tile(C + group, row * C_row, valid, n, state)
        into = tile(B + group, row * B_row, valid, n, state)
        scores = tl.dot(out_of, tl.trans(into), scores, input_precision=INPUTS)
        if CHUNKED:
            h = tile(entering_BKHPN + states, p * state, p_in, n, state)
            g_h = tile(leaving_BKHPN + states, p * state, p_in, n, state)
            read = tl.dot(out_of, tl.trans(h), read, input_precision=MIXED)
            g_written = tl.dot(into, tl.trans(g_h), g_written, input_precision=MIXED)
            kept += h * g_h
    g_written *= to_end[:, None]

    between = decays_between(exact, Q_BLOCK)
    g_scores = tl.dot(g, tl.trans(inputs), input_precision=INPUTS) * step[None, :] * between
    # Each sum of log decays takes part in many terms that cancel: float64 keeps what is left of them.
    pairs = (g_scores * scores).to(tl.float64)
    g_entered = (from_start * tl.sum(g * read, 1)).to(tl.float64)
    g_left = tl.sum(written * g_written, 1).to(tl.float64)
    g_sum = tl.sum(pairs, 1) - tl.sum(pairs, 0) + g_entered - g_left
    g_total = tl.sum(g_left, 0) + (tl.exp(total.to(tl.float32)) * tl.sum(tl.sum(kept, 1), 0)).to(tl.float64)
    g_log = (tl.sum(g_sum, 0) - tl.cumsum(g_sum, 0) + g_sum + g_total).to(tl.float32)
    g_written = tl.dot(tl.trans(scores * between), g, g_written, input_precision=MIXED)

    g_x = g_written * step[:, None] + g * tl.load(D_H + head)
    cell = (row * heads + head)[:, None] * channels + p[None, :]
    tl.store(grad_x + cell, g_x.to(grad_x.dtype.element_ty), mask=valid[:, None] & p_in[None, :])
    g_step = g_log * A + tl.sum(g_written * inputs, 1)
    tl.store(grad_dt + row * heads + head, g_step.to(grad_dt.dtype.element_ty), mask=valid)
    tl.store(grad_A_BKH + program, tl.sum(g_log * step, 0))
    tl.store(grad_D_BKH + program, tl.sum(tl.sum(g * inputs, 1), 0))

    for first in range(0, state, N_BLOCK):
        n = first + tl.arange(0, N_BLOCK)
        into = tile(B + group, row * B_row, valid, n, state)
        g_out_of = tl.dot(g_scores, into, input_precision=MIXED)
        out_of = tile(C + group, row * C_row, valid, n, state)
        g_into = tl.dot(tl.trans(g_scores), out_of, input_precision=MIXED)
        if CHUNKED:
            h = tile(entering_BKHPN + states, p * state, p_in, n, state)
            g_out_of += tl.dot(g, h, input_precision=MIXED) * from_start[:, None]
            g_h = tile(leaving_BKHPN + states, p * state, p_in, n, state)
            g_into += tl.dot(written, g_h, input_precision=MIXED) * to_end[:, None]
        written_to = (row * heads + head)[:, None] * state + n[None, :]
        inside = valid[:, None] & (n < state)[None, :]
        tl.store(grad_C_BLHN + written_to, g_out_of, mask=inside)
        tl.store(grad_B_BLHN + written_to, g_into, mask=inside)
