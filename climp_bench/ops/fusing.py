"""When kernels take the place of PyTorch around a scan: in inference, where the scan runs in Triton.

So the backend of the scan decides for its block, and what is recorded for it holds for all of it.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from climp_bench.ops.dispatch import resolve
from climp_bench.ops.torch_backend_scan import records_gradient


def is_fused(scan: str, x: Tensor, parameters: Iterable[Tensor]) -> bool:
    """Whether the kernels around a scan run on ``x``.

    Args:
        scan: the operator that the block scans with.
        x: the block's input.
        parameters: of the block; gradients of one of them or of ``x`` speak against.
    """
    if torch.compiler.is_compiling() or records_gradient(x, *parameters) or x.dtype == torch.float64:
        return False
    return resolve(scan, x.device)[1] == "triton"


def working_dtype(x: Tensor) -> torch.dtype:
    """What a matrix product of ``x`` is computed in: autocast's dtype, or that of ``x``."""
    if torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype
