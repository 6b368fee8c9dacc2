"""``selective_scan`` and ``ssd`` by the kernels of the package mamba-ssm, where it is installed beside a GPU.

Source: ``selective_scan_fn`` and ``mamba_chunk_scan_combined`` of github.com/state-spaces/mamba (Apache-2.0).
The package is imported at the first call, for its ``__init__`` imports everything, compiled extension
included.
"""

from __future__ import annotations

from functools import reduce
from importlib import import_module

import torch
from torch import Tensor

from climp_bench.errors import BackendError
from climp_bench.ops.dispatch import Kernel
from climp_bench.ops.torch_backend_scan import no_autocast

_MOST_ELEMENTS = 2**31 - 1
_SHORTEST_CHUNK = 8
"""In chunks of one its gradient of A was 9% off in bfloat16, 2.3.2 on an H200; those of 8 and more agree."""


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
) -> Tensor:
    """See ``climp_bench.ops.selective_scan``.

    Raises:
        BackendError: an input is float64, or mamba-ssm cannot be imported.
    """
    sequences = (u_BLD, delta_BLD, B_BLN, C_BLN, *(() if z_BLD is None else (z_BLD,)))
    dtype = _shared_dtype("selective_scan", *sequences)
    kernel = _function("selective_scan", "mamba_ssm.ops.selective_scan_interface", "selective_scan_fn")
    u, delta, B, C, *gate = (t.to(dtype).transpose(1, 2).contiguous() for t in sequences)
    with no_autocast(u_BLD.device):
        y_BDL: Tensor = kernel(
            u,
            delta,
            A_DN.float().contiguous(),
            B,
            C,
            D=D_D.float().contiguous(),
            z=gate[0] if gate else None,
            delta_bias=None if delta_bias_D is None else delta_bias_D.float().contiguous(),
            delta_softplus=delta_softplus,
        )
    return y_BDL.transpose(1, 2).to(u_BLD.dtype)


def ssd(
    x_BLHP: Tensor,
    dt_BLH: Tensor,
    A_H: Tensor,
    B_BLGN: Tensor,
    C_BLGN: Tensor,
    D_H: Tensor,
    *,
    chunk_size: int,
) -> Tensor:
    """See ``climp_bench.ops.ssd``. For half inputs; its products take float32 as TF32.

    Raises:
        BackendError: its kernels are not accurate for these inputs, or mamba-ssm cannot be imported.
    """
    dtype = _shared_dtype("ssd", x_BLHP, B_BLGN, C_BLGN)
    if x_BLHP.numel() > _MOST_ELEMENTS:
        raise _unfit(f"count in 32 bits and an input has {x_BLHP.numel():,} elements", "smaller batches")
    if dtype == torch.float32:
        raise _unfit("round float32 inputs to TF32, which was up to 0.3% off", "--dtype bfloat16")
    if chunk_size < min(_SHORTEST_CHUNK, x_BLHP.shape[1]):
        raise _unfit(f"lose accuracy in chunks as short as {chunk_size}", f"chunks of {_SHORTEST_CHUNK}")
    kernel = _function("ssd", "mamba_ssm.ops.triton.ssd_combined", "mamba_chunk_scan_combined")
    x, B, C = (t.to(dtype) for t in (x_BLHP, B_BLGN, C_BLGN))
    with no_autocast(x_BLHP.device):
        y_BLHP: Tensor = kernel(x, dt_BLH.float(), A_H.float(), B, C, chunk_size, D=D_H.float())
    return y_BLHP.to(x_BLHP.dtype)


def _unfit(why: str, instead: str) -> BackendError:
    return BackendError(
        f"its kernels {why}",
        where="ssd, backend 'mamba-ssm'",
        remedy=f"Use backend 'triton', or {instead}.",
    )


def _shared_dtype(op: str, *tensors: Tensor) -> torch.dtype:
    """The one dtype that the kernels want of all sequences: the widest among them."""
    dtype = reduce(torch.promote_types, (t.dtype for t in tensors))
    if dtype == torch.float64:
        raise BackendError(
            "its kernels compute in float32 and an input is float64",
            where=f"{op}, backend 'mamba-ssm'",
            remedy="Use backend 'torch' for float64.",
        )
    return dtype


def _function(op: str, module: str, name: str) -> Kernel:
    """A function of mamba-ssm, imported now."""
    try:
        kernel: Kernel = getattr(import_module(module), name)
    except ImportError as error:
        raise BackendError(
            f"mamba-ssm is installed and cannot be imported: {error}",
            where=f"{op}, backend 'mamba-ssm'",
            remedy="Reinstall mamba-ssm for this version of PyTorch, or use backend 'torch'.",
        ) from error
    return kernel
