"""The state-space dual of Mamba-2.

Source: Dao and Gu, "Transformers are SSMs" (2024), sections 5 and 6 (the block decomposition of section 6).
Axis letters, in this file and its backends only: H heads, P channels of a head, G groups that share B and C;
head i belongs to group i // (H / G).
"""

from __future__ import annotations

from torch import Tensor

from climp_bench.ops.dispatch import check_shapes, resolve


def ssd(
    x_BLHP: Tensor,
    dt_BLH: Tensor,
    A_H: Tensor,
    B_BLGN: Tensor,
    C_BLGN: Tensor,
    D_H: Tensor,
    *,
    chunk_size: int,
    backend: str = "auto",
) -> Tensor:
    """``h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t^T``, ``y_t = h_t C_t + D x_t``, with one scalar A a head.

    Arithmetic is float32 whatever the inputs and whatever autocast says (float64 for float64 inputs).

    Args:
        x_BLHP: the input, by head.
        dt_BLH: step sizes, bias and softplus already applied, not negative.
        A_H: the state matrix, a negative scalar a head.
        B_BLGN: input to state, by group.
        C_BLGN: state to output, by group.
        D_H: the skip connection.
        chunk_size: positions handled as one matrix product; it does not change the result.
        backend: see ``climp_bench.ops.backends("ssd")``.

    Returns:
        y_BLHP, in the dtype of ``x_BLHP``.

    Raises:
        ValueError: the shapes do not fit together, or ``chunk_size`` is not positive.
        BackendError: the requested backend cannot run on this device.
    """
    batch, length, heads, _ = x_BLHP.shape
    groups, state = B_BLGN.shape[-2:]
    if chunk_size < 1:
        raise ValueError(f"ssd: chunk_size is {chunk_size}; it must be at least 1")
    if heads % groups:
        raise ValueError(f"ssd: {heads} heads cannot be split into {groups} groups")
    check_shapes(
        "ssd",
        {
            "dt_BLH": (dt_BLH, (batch, length, heads)),
            "A_H": (A_H, (heads,)),
            "B_BLGN": (B_BLGN, (batch, length, groups, state)),
            "C_BLGN": (C_BLGN, (batch, length, groups, state)),
            "D_H": (D_H, (heads,)),
        },
    )
    kernel, _, _ = resolve("ssd", x_BLHP.device, backend)
    return kernel(x_BLHP, dt_BLH, A_H, B_BLGN, C_BLGN, D_H, chunk_size=chunk_size)
