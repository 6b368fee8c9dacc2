"""``ssd`` for bfloat16 in Triton: how the kernels that walk over chunks are launched.

Kernels and Triton itself are imported at the first call.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from climp_bench.ops.triton_scan import rows

CHANNELS, STATES = 64, 128
"""Most channels of a head and most states of a channel: a head's state has to fit into registers."""
_CAPABILITIES = (9, 10)
"""Major ones, of Hopper and of data centre Blackwell. On others products take their operands from registers,
and the compiler spills most of the state: 20,000 instructions in the gradient where there are 7,000."""
_POSITIONS = 64
"""Most positions of a chunk."""
_LAUNCH = {"num_warps": 4, "num_stages": 1}
"""Of both kernels. Measured in design/kernels.md."""


def suits(x: Tensor, B: Tensor, C: Tensor) -> bool:
    """Whether these kernels take such inputs of ``ssd``."""
    half = all(t.dtype == torch.bfloat16 for t in (x, B, C))
    fit = x.shape[3] <= CHANNELS and B.shape[3] <= STATES
    interpreted = x.device.type == "cpu"
    return half and fit and (interpreted or torch.cuda.get_device_capability(x.device)[0] in _CAPABILITIES)


def _arguments(inputs: tuple[Tensor, ...], chunk_size: int) -> dict[str, Any]:
    """What both kernels are given, by name."""
    from triton import next_power_of_2

    x, dt, A, B, C, D = inputs
    size = min(chunk_size, _POSITIONS, x.shape[1])
    sequences = {"x": rows(x), "dt": rows(dt), "B": rows(B), "C": rows(C)}
    return {
        **sequences,
        **{f"{name}_row": t.stride(0) for name, t in sequences.items()},
        "A_H": A.float().contiguous(),
        "D_H": D.float().contiguous(),
        "length": x.shape[1],
        "size": size,
        "chunks": -(-x.shape[1] // size),
        "CHUNKED": x.shape[1] > size,
        "heads": x.shape[2],
        "channels": x.shape[3],
        "state": B.shape[3],
        "heads_of_group": x.shape[2] // B.shape[2],
        "Q_BLOCK": max(16, next_power_of_2(size)),
        "P_BLOCK": max(16, next_power_of_2(x.shape[3])),
        "N_BLOCK": max(16, next_power_of_2(B.shape[3])),
    }


def forward(inputs: tuple[Tensor, ...], chunk_size: int) -> Tensor:
    """The output of ``ssd``."""
    from climp_bench.ops import triton_ssd_walk_kernels as kernels

    x = inputs[0]
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    with torch.cuda.device_of(x):
        kernels.walk[(x.shape[0] * x.shape[2],)](
            **_arguments(inputs, chunk_size), y=y, entering_BHKNP=y, KEEP=False, **_LAUNCH
        )
    return y


def over_heads(by_head_BLHN: Tensor, like_BLGN: Tensor) -> Tensor:
    """A gradient summed over the heads of each group, in the dtype of what it is of."""
    return torch.unflatten(by_head_BLHN, 2, (like_BLGN.shape[2], -1)).sum(3).to(like_BLGN.dtype)


def gradients(inputs: tuple[Tensor, ...], grad: Tensor, chunk_size: int) -> tuple[Tensor, ...]:
    """Gradients of all inputs; the states that enter the chunks are made again."""
    from climp_bench.ops import triton_ssd_walk_kernels as kernels

    x, dt, A, B, C, D = inputs
    batch, length, heads, _ = x.shape
    grid = (batch * heads,)
    arguments = _arguments(inputs, chunk_size)
    grad_rows = rows(grad)

    def buffer(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=x.device)

    kept = arguments["chunks"] if arguments["CHUNKED"] else 0
    states = buffer(batch, heads, kept, arguments["N_BLOCK"], arguments["P_BLOCK"])
    made = {
        "grad_x": buffer(*x.shape, dtype=x.dtype),
        "grad_dt": buffer(*dt.shape, dtype=dt.dtype),
        "grad_A_BH": buffer(batch, heads),
        "grad_B_BLHN": buffer(batch, length, heads, B.shape[3]),
        "grad_C_BLHN": buffer(batch, length, heads, B.shape[3]),
        "grad_D_BH": buffer(batch, heads),
    }
    with torch.cuda.device_of(x):
        if kept:
            kernels.walk[grid](**arguments, y=states, entering_BHKNP=states, KEEP=True, **_LAUNCH)
        kernels.walk_back[grid](
            **arguments,
            **made,
            grad=grad_rows,
            grad_row=grad_rows.stride(0),
            entering_BHKNP=states,
            **_LAUNCH,
        )
    return (
        made["grad_x"],
        made["grad_dt"],
        made["grad_A_BH"].sum(0).to(A.dtype),
        over_heads(made["grad_B_BLHN"], B),
        over_heads(made["grad_C_BLHN"], C),
        made["grad_D_BH"].sum(0).to(D.dtype),
    )
