"""Device functions that several Triton kernels share. Importing this imports Triton."""

import os

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")
"""The interpreter knows no assembly."""
LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def softplus(x: tl.tensor) -> tl.tensor:
    """``log(1 + exp(x))`` with full relative accuracy where it is small, for which ``log`` is no use.

    ``log(1 + z) = 2 artanh(z / (2 + z))``, whose series to the 13th power errs by at most 2e-8 of the result.
    """
    z = tl.exp2(-tl.abs(x) * LOG2E)
    s = z / (2.0 + z)
    q = s * s
    series = q * (1.0 / 13) + 1.0 / 11
    series = series * q + 1.0 / 9
    series = series * q + 1.0 / 7
    series = series * q + 1.0 / 5
    series = series * q + 1.0 / 3
    series = series * q + 1.0
    return tl.maximum(x, 0.0) + 2.0 * s * series


@triton.jit
def sigmoid(x: tl.tensor) -> tl.tensor:
    """The derivative of ``softplus``; nothing overflows."""
    z = tl.exp2(-tl.abs(x) * LOG2E)
    return tl.where(x >= 0, 1.0, z) / (1.0 + z)


@triton.jit
def fast_log2(x: tl.tensor) -> tl.tensor:
    """One instruction with an absolute error of 2^-22, where ``tl.log2`` takes fifteen."""
    if INTERPRETED:
        log = tl.log2(x)
    else:
        log = tl.inline_asm_elementwise(
            "lg2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )
    return log


@triton.jit
def decays(dt_TX: tl.tensor, A_X: tl.tensor) -> tl.tensor:
    """``exp(dt A)``, as a power of two: one instruction, where ``exp`` takes four to keep denormals."""
    return tl.exp2(dt_TX * (A_X * LOG2E)[None, :])


@triton.jit
def halves(tile_TX: tl.tensor, T: tl.constexpr, X: tl.constexpr, REVERSE: tl.constexpr) -> tl.tensor:
    """The rows of a tile by turns, (T / 2, X) each: those that a walk meets first, and those that follow."""
    even, odd = tl.split(tl.permute(tl.reshape(tile_TX, (T // 2, 2, X)), (0, 2, 1)))
    if REVERSE:
        even, odd = odd, even
    return even, odd


@triton.jit
def fold_tile(
    decay_TX: tl.tensor, value_TX: tl.tensor, T: tl.constexpr, X: tl.constexpr, REVERSE: tl.constexpr
) -> tl.tensor:
    """What a walk along a tile makes of a state, ``h -> decay h + value``, as decay and value (1, X).

    Two neighbours make one map, until one is left. As in ``enter_tile``, threads exchange nothing if each
    holds a whole column.
    """
    if T > 1:
        decay, next_decay = halves(decay_TX, T, X, REVERSE)
        value, next_value = halves(value_TX, T, X, REVERSE)
        value_TX = next_decay * value + next_value
        decay_TX, value_TX = fold_tile(decay * next_decay, value_TX, T // 2, X, REVERSE)
    return decay_TX, value_TX


@triton.jit
def enter_tile(
    decay_TX: tl.tensor,
    value_TX: tl.tensor,
    entering_1X: tl.tensor,
    T: tl.constexpr,
    X: tl.constexpr,
    REVERSE: tl.constexpr,
) -> tl.tensor:
    """The state ahead of every row of ``h = decay h_previous + value``, (T, X); from the last up if REVERSE.

    Two neighbours make one map, so half as many states, from which the others follow. ``entering_1X`` is the
    state ahead of the first row visited.
    """
    ahead = entering_1X
    if T > 1:
        decay, next_decay = halves(decay_TX, T, X, REVERSE)
        value, next_value = halves(value_TX, T, X, REVERSE)
        both = next_decay * value + next_value
        first = enter_tile(decay * next_decay, both, entering_1X, T // 2, X, REVERSE)
        then = decay * first + value
        pair = tl.join(then, first) if REVERSE else tl.join(first, then)
        ahead = tl.reshape(tl.permute(pair, (0, 2, 1)), (T, X))
    return ahead
