"""SS2D, the four-direction selective scan of VMamba.

Source: Liu et al., "VMamba: Visual State Space Model" (2024), section 4.2, and the released ``v05_noz``
blocks: the image is read row by row, column by column, and both backwards; each reading has its own
projections and its own scan; the four results are put back in image order and summed. The projections to
(dt, B, C) are pointwise, so the caller applies them to the image once, and nothing here asks for four copies
of it.
Axis letters: see ``climp_bench.specs``; E is the scan's channels, C = R + 2N the projected ones.
"""

from __future__ import annotations

from torch import Tensor

from climp_bench.ops.dispatch import check_shapes, resolve

DIRECTIONS = 4


def ss2d(
    x_BHWE: Tensor,
    x_dbl_BHWKC: Tensor,
    dt_weight_KER: Tensor,
    dt_bias_KE: Tensor,
    A_logs_KEN: Tensor,
    D_KE: Tensor,
    *,
    backend: str = "auto",
) -> Tensor:
    """Scan an image in four directions and sum the results in image order.

    With ``[r, B, C] = x_dbl`` of direction k at each pixel: ``d = softplus(dt_weight_k r + dt_bias_k)``,
    ``h = exp(-d exp(A_logs_k)) h_previous + d B x``, ``y_k = C h + D_k x``; the result is the sum over k.
    State and arithmetic are float32 whatever the inputs and whatever autocast says (float64 for float64).

    Args:
        x_BHWE: the image after the depthwise convolution, channels last.
        x_dbl_BHWKC: the projected image; the last axis holds R step-size factors, N of B and N of C.
            Directions: 0 row by row, 1 column by column, 2 and 3 the same backwards.
        dt_weight_KER: the step sizes' projections.
        dt_bias_KE: their biases.
        A_logs_KEN: logarithm of the negated state matrix's diagonal.
        D_KE: the skip connections.
        backend: see ``climp_bench.ops.backends("ss2d")``.

    Returns:
        y_BHWE in the dtype of x, before the output norm. In half precision the results of the directions may
        be rounded ahead of their sum.

    Raises:
        ValueError: the shapes do not fit together.
        BackendError: the requested backend cannot run on this device.
    """
    batch, height, width, channels = x_BHWE.shape
    rank, state = dt_weight_KER.shape[-1], A_logs_KEN.shape[-1]
    check_shapes(
        "ss2d",
        {
            "x_dbl_BHWKC": (x_dbl_BHWKC, (batch, height, width, DIRECTIONS, rank + 2 * state)),
            "dt_weight_KER": (dt_weight_KER, (DIRECTIONS, channels, rank)),
            "dt_bias_KE": (dt_bias_KE, (DIRECTIONS, channels)),
            "A_logs_KEN": (A_logs_KEN, (DIRECTIONS, channels, state)),
            "D_KE": (D_KE, (DIRECTIONS, channels)),
        },
    )
    kernel, _, _ = resolve("ss2d", x_BHWE.device, backend)
    return kernel(x_BHWE, x_dbl_BHWKC, dt_weight_KER, dt_bias_KE, A_logs_KEN, D_KE).to(x_BHWE.dtype)
