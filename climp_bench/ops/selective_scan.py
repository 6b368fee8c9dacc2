"""The selective scan of Mamba-1.

Source: Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces" (2023), eq. 2a and
algorithm 2, discretised as the reference implementation does: A by zero-order hold, B by Euler's rule.
Axis letters: see ``climp_bench.specs``.
"""

from __future__ import annotations

from torch import Tensor

from climp_bench.ops.dispatch import check_shapes, resolve


def selective_scan(
    u_BLD: Tensor,
    delta_BLD: Tensor,
    A_DN: Tensor,
    B_BLN: Tensor,
    C_BLN: Tensor,
    D_D: Tensor,
    *,
    delta_bias_D: Tensor | None = None,
    z_BLD: Tensor | None = None,
    delta_softplus: bool = True,
    backend: str = "auto",
) -> Tensor:
    """``h_t = exp(d_t A) h_{t-1} + d_t B_t u_t``, ``y_t = C_t h_t + D u_t``, gated by ``silu(z_t)``.

    The step size is ``d = softplus(delta + delta_bias)``. State and arithmetic are float32 whatever the
    inputs and whatever autocast says (float64 for float64 inputs).

    Args:
        u_BLD: the input.
        delta_BLD: step sizes before bias and softplus.
        A_DN: the state matrix's diagonal, negative for a stable system.
        B_BLN: input to state.
        C_BLN: state to output.
        D_D: the skip connection.
        delta_bias_D: added to ``delta_BLD``; none is zero.
        z_BLD: the gate; none leaves the output ungated.
        delta_softplus: whether to apply softplus to the step sizes.
        backend: see ``climp_bench.ops.backends("selective_scan")``.

    Returns:
        y_BLD, in the dtype of ``u_BLD``.

    Raises:
        ValueError: the shapes do not fit together.
        BackendError: the requested backend cannot run on this device.
    """
    batch, length, channels = u_BLD.shape
    state = A_DN.shape[-1]
    expected = {
        "delta_BLD": (delta_BLD, (batch, length, channels)),
        "A_DN": (A_DN, (channels, state)),
        "B_BLN": (B_BLN, (batch, length, state)),
        "C_BLN": (C_BLN, (batch, length, state)),
        "D_D": (D_D, (channels,)),
    }
    if delta_bias_D is not None:
        expected["delta_bias_D"] = (delta_bias_D, (channels,))
    if z_BLD is not None:
        expected["z_BLD"] = (z_BLD, (batch, length, channels))
    check_shapes("selective_scan", expected)
    kernel, _, _ = resolve("selective_scan", u_BLD.device, backend)
    inputs = (u_BLD, delta_BLD, A_DN, B_BLN, C_BLN, D_D)
    return kernel(*inputs, delta_bias_D=delta_bias_D, z_BLD=z_BLD, delta_softplus=delta_softplus)
