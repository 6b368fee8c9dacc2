"""Loops of the scans for CPUs, compiled by numba at their first call and kept on disk after that.

A job is one batch entry and one block of channels: it walks over all positions with its states in the cache
of its core, and channels innermost, so that every loop becomes vector instructions. Kernels release Python's
lock; who calls them splits the jobs over threads. numba's own threads are not used: they abort the process
when two threads of a program call them at once, which is what encoding batches side by side does.

Axis letters: see ``climp_bench.specs``; E is the scan's channels, X a block of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import intrinsic, overload

_FAST = {"contract", "reassoc", "nsz", "arcp"}
"""What of IEEE arithmetic may be relaxed: order of sums and fused multiply-adds, but no NaN or infinity."""


def _jit(function: Callable[..., Any]) -> Any:
    """Compile at the first call, and keep the result on disk where a place can be written."""
    options = {"nogil": True, "fastmath": _FAST, "error_model": "numpy", "boundscheck": False}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # numba finds no folder for its cache
        return njit(**options)(function)


ADDED, SKIPPED, GATED = 0, 1, 2
"""What becomes of ``C h``: it is added to y; y is ``C h + D u``; y is ``(C h + D u) silu(z)``."""
_f = np.float32
_LOG2E = 1.4426950408889634
_POWER = tuple(
    map(_f, (1.534581163e-4, 1.339993126e-3, 9.618488959e-3, 5.550328777e-2, 2.402264689e-1, 6.931472057e-1))
)
"""2^r over |r| <= 1/2 is 1 + r (c1 + r (c2 + ...)): least largest relative error, highest degree first."""
_ARTANH = tuple(_f(1 / k) for k in range(15, 0, -2))


@intrinsic
def _as_float(typing_context: Any, bits: Any) -> Any:
    """The float32 with the bits of an int32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(types.float32))

    return types.float32(types.int32), generate


@intrinsic
def _as_bits(typing_context: Any, number: Any) -> Any:
    """The bits of a float32, as an int32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(types.int32))

    return types.int32(types.float32), generate


def _octaves(x: Any) -> Any:
    """``x log2(e)``: what to give to ``_power`` for ``exp(x)``."""


@overload(_octaves, inline="always")
def _octaves_overload(x: Any) -> Any:
    factor = _f(_LOG2E) if x == types.float32 else _LOG2E

    def octaves(x: Any) -> Any:
        return x * factor

    return octaves


def _power(x: Any) -> Any:
    """``2 ** x``; in float32 a polynomial over one octave, relative error 1e-7, that vectorises."""


@overload(_power, inline="always")
def _power_overload(x: Any) -> Any:
    def exact(x: Any) -> Any:
        return 2.0**x

    if x != types.float32:
        return exact
    c6, c5, c4, c3, c2, c1 = _POWER

    def power(x: Any) -> Any:
        x = min(max(x, _f(-126.0)), _f(127.0))
        octave = np.floor(x + _f(0.5))
        r = x - octave
        p = (((((c6 * r + c5) * r + c4) * r + c3) * r + c2) * r + c1) * r + _f(1.0)
        return _as_float(_as_bits(p) + (np.int32(octave) << np.int32(23)))

    return power


def _softplus(x: Any) -> Any:
    """``log(1 + exp(x))``; in float32 by the series of artanh, relative error 3e-7."""


@overload(_softplus, inline="always")
def _softplus_overload(x: Any) -> Any:
    def exact(x: Any) -> Any:
        return max(x, 0.0) + math.log1p(math.exp(-abs(x)))

    if x != types.float32:
        return exact
    a15, a13, a11, a9, a7, a5, a3, a1 = _ARTANH

    def softplus(x: Any) -> Any:
        z = _power(_octaves(-abs(x)))
        s = z / (_f(2.0) + z)
        q = s * s
        p = ((((((a15 * q + a13) * q + a11) * q + a9) * q + a7) * q + a5) * q + a3) * q + a1
        return max(x, _f(0.0)) + _f(2.0) * s * p

    return softplus


@_jit
def place(step: int, walk: int, height: int, width: int) -> int:
    """Row-major index of the pixel that a walk visits at a step: see ``scan``."""
    if walk >= 2:
        step = height * width - 1 - step
    return step if walk % 2 == 0 else (step % height) * width + step // height


@_jit
def in_octaves(A_NE: Any, first: int, size: int, A_NX: Any) -> None:
    """A of one block of channels, in octaves."""
    for n in range(A_NE.shape[0]):
        for d in range(size):
            A_NX[n, d] = _octaves(A_NE[n, first + d])


@_jit
def scan(
    u_BLE: Any,
    raw_BLE: Any,
    bias_E: Any,
    softplus: bool,
    A_NE: Any,
    B_BLN: Any,
    C_BLN: Any,
    y_BLE: Any,
    skip_E: Any,
    z_BLE: Any,
    end: int,
    walk: int,
    height: int,
    width: int,
    block: int,
    first: int,
    last: int,
) -> None:
    """Add ``C h`` to ``y``, for jobs ``first`` to ``last`` (without), or write the whole op to it.

    The step size is ``raw + bias``, through softplus or not. Walks: 0 row by row, 1 column by column, 2 and 3
    the same backwards; a plain sequence is walk 0 over one row. Ends: see ``ADDED``, ``SKIPPED``, ``GATED``.
    """
    length, channels = u_BLE.shape[1], u_BLE.shape[2]
    blocks = (channels + block - 1) // block
    state = A_NE.shape[0]
    h_NX, A_NX = np.empty((state, block), u_BLE.dtype), np.empty((state, block), u_BLE.dtype)
    delta, write = np.empty(block, u_BLE.dtype), np.empty(block, u_BLE.dtype)
    read = np.empty(block, u_BLE.dtype)
    for job in range(first, last):
        b, d0 = job // blocks, (job % blocks) * block
        size = min(block, channels - d0)
        h_NX[:] = 0
        in_octaves(A_NE, d0, size, A_NX)
        for step in range(length):
            p = place(step, walk, height, width)
            for d in range(size):
                value = raw_BLE[b, p, d0 + d] + bias_E[d0 + d]
                delta[d] = _softplus(value) if softplus else value
                write[d] = delta[d] * u_BLE[b, p, d0 + d]
                read[d] = 0
            for n in range(state):
                into, out_of = B_BLN[b, p, n], C_BLN[b, p, n]
                for d in range(size):
                    h = _power(delta[d] * A_NX[n, d]) * h_NX[n, d] + write[d] * into
                    h_NX[n, d] = h
                    read[d] += out_of * h
            if end == ADDED:
                for d in range(size):
                    y_BLE[b, p, d0 + d] += read[d]
            elif end == SKIPPED:
                for d in range(size):
                    y_BLE[b, p, d0 + d] = read[d] + skip_E[d0 + d] * u_BLE[b, p, d0 + d]
            else:
                for d in range(size):
                    z = z_BLE[b, p, d0 + d]
                    y = read[d] + skip_E[d0 + d] * u_BLE[b, p, d0 + d]
                    y_BLE[b, p, d0 + d] = y * z / (_power(_octaves(-z)) + _f(1.0))


@_jit
def scan_backward(
    grad_BLE: Any,
    u_BLE: Any,
    raw_BLE: Any,
    bias_E: Any,
    softplus: bool,
    A_NE: Any,
    B_BLN: Any,
    C_BLN: Any,
    grad_u_BLE: Any,
    grad_raw_BLE: Any,
    grad_A_BNE: Any,
    grad_B_XBLN: Any,
    grad_C_XBLN: Any,
    walk: int,
    height: int,
    width: int,
    block: int,
    first: int,
    last: int,
) -> None:
    """Gradients of ``scan``: states are made again, kept for one job at a time, and walked backwards.

    Adds to ``grad_u``; writes ``grad_raw``, and ``grad_A``, ``grad_B`` and ``grad_C`` in parts (of one batch
    entry, of one block of channels) for the caller to sum.
    """
    length, channels = u_BLE.shape[1], u_BLE.shape[2]
    blocks = (channels + block - 1) // block
    state = A_NE.shape[0]
    kind = u_BLE.dtype
    h_LNX = np.empty((length + 1, state, block), kind)
    delta_LX = np.empty((length, block), kind)
    carry_NX, A_NX = np.empty((state, block), kind), np.empty((state, block), kind)
    grad_delta, grad_write = np.empty(block, kind), np.empty(block, kind)
    zero = np.zeros(1, kind)[0]
    for job in range(first, last):
        b, d0 = job // blocks, (job % blocks) * block
        part = job % blocks
        size = min(block, channels - d0)
        h_LNX[0] = 0
        in_octaves(A_NE, d0, size, A_NX)
        for step in range(length):
            p = place(step, walk, height, width)
            for d in range(size):
                value = raw_BLE[b, p, d0 + d] + bias_E[d0 + d]
                delta_LX[step, d] = _softplus(value) if softplus else value
            for n in range(state):
                into = B_BLN[b, p, n]
                for d in range(size):
                    delta = delta_LX[step, d]
                    kept = _power(delta * A_NX[n, d]) * h_LNX[step, n, d]
                    h_LNX[step + 1, n, d] = kept + delta * u_BLE[b, p, d0 + d] * into
        carry_NX[:] = 0
        for n in range(state):
            for d in range(size):
                grad_A_BNE[b, n, d0 + d] = 0
        for back in range(length):
            step = length - 1 - back
            p = place(step, walk, height, width)
            for d in range(size):
                grad_delta[d] = 0
                grad_write[d] = 0
            for n in range(state):
                into, out_of = B_BLN[b, p, n], C_BLN[b, p, n]
                grad_B, grad_C = zero, zero
                for d in range(size):
                    grad, delta = grad_BLE[b, p, d0 + d], delta_LX[step, d]
                    g = carry_NX[n, d] + grad * out_of
                    decay = _power(delta * A_NX[n, d])
                    grad_C += grad * h_LNX[step + 1, n, d]
                    grad_B += g * delta * u_BLE[b, p, d0 + d]
                    of_exponent = g * decay * h_LNX[step, n, d]
                    grad_delta[d] += of_exponent * A_NE[n, d0 + d]
                    grad_A_BNE[b, n, d0 + d] += of_exponent * delta
                    grad_write[d] += g * into
                    carry_NX[n, d] = decay * g
                grad_B_XBLN[part, b, p, n] = grad_B
                grad_C_XBLN[part, b, p, n] = grad_C
            for d in range(size):
                total = grad_delta[d] + grad_write[d] * u_BLE[b, p, d0 + d]
                if softplus:
                    total *= 1 - _power(_octaves(-delta_LX[step, d]))  # the logistic function of raw + bias
                grad_raw_BLE[b, p, d0 + d] = total
                grad_u_BLE[b, p, d0 + d] += grad_write[d] * delta_LX[step, d]
