"""``ssd`` in Triton, forward and backward: matrix products within chunks, a short recurrence across them.

bfloat16 of the released widths goes to ``triton_ssd_walk`` on Hopper and its like; the kernels here take all
else. With float32 inputs products are float32's own. TF32 holds half inputs exactly; a weight or a state that
they meet is rounded by 2^-11, an eighth of what bfloat16 does to the result. Where that is too much, for
float16 and for gradients, whose terms cancel, three products of TF32 make one nearly of float32. Kernels and
Triton itself are imported at the first call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from climp_bench.ops import triton_ssd_walk
from climp_bench.ops.torch_backend_scan import records_gradient
from climp_bench.ops.triton_scan import refuse_float64, rows


@dataclass(frozen=True)
class _Launch:
    """How the kernels of one pass are launched.

    Attributes:
        positions: most positions of a chunk, a power of two.
        states: states of a block, a power of two of at least 16.
        warps: warps of a program.
        inputs: precision of products of two inputs.
        mixed: precision of all other products.
    """

    positions: int
    states: int
    warps: int
    inputs: str = "ieee"
    mixed: str = "ieee"


@dataclass(frozen=True)
class _Plan:
    """The launches for one kind of inputs."""

    forward: _Launch
    backward: _Launch


_HALF_GRADIENT = _Launch(64, 32, 8, "tf32", "tf32x3")
_PLANS = {
    torch.bfloat16: _Plan(_Launch(128, 32, 4, "tf32", "tf32"), _HALF_GRADIENT),
    torch.float16: _Plan(_Launch(128, 32, 4, "tf32", "tf32x3"), _HALF_GRADIENT),
}
"""For half inputs, all of one type; text of up to 128 tokens is one chunk, without states."""
_SINGLE = _Plan(forward=_Launch(32, 32, 8), backward=_Launch(32, 16, 8))
"""For float32, whose products run outside the tensor cores."""
_SHORT, _MANY = 128, 2048
"""Up to so many positions, with as many programs or more, PyTorch's gradient is the faster: in bfloat16 on an
H200 by 2.4 times at 77 positions, batch 64 and 64 heads, where its matrix products fill the GPU."""
_CELLS, _CELL_WARPS = 1024, 4
"""State entries of a program that passes states from chunk to chunk."""


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
    """See ``climp_bench.ops.ssd``. Chunks are no longer than ``chunk_size``; kernels may want shorter ones.

    Raises:
        BackendError: an input is float64; these kernels compute in float32.
    """
    inputs = (x_BLHP, dt_BLH, A_H, B_BLGN, C_BLGN, D_H)
    refuse_float64("ssd", *inputs)
    if records_gradient(*inputs):
        y: Tensor = _Ssd.apply(*inputs, chunk_size)
        return y
    return _forward(inputs, chunk_size)


class _Chunks:
    """The inputs as the kernels take them, cut into chunks.

    Args:
        inputs: x, dt, A, B, C and D of ``ssd``.
        chunk_size: most positions of a chunk.
        backward: whether they are for the backward pass.
    """

    def __init__(self, inputs: tuple[Tensor, ...], chunk_size: int, *, backward: bool = False) -> None:
        from triton import next_power_of_2

        x, dt, A, B, C, D = inputs
        types = {t.dtype for t in (x, B, C)}
        plan = _PLANS.get(types.pop(), _SINGLE) if len(types) == 1 else _SINGLE
        launch = plan.backward if backward else plan.forward
        self.batch, self.length, self.heads, self.channels = x.shape
        groups, self.state = B.shape[2:]
        size = min(chunk_size, launch.positions, self.length)
        self.count = -(-self.length // size)
        self.grid = (self.batch * self.count * self.heads,)
        self.sequences = {"x": rows(x), "dt": rows(dt), "B": rows(B), "C": rows(C)}
        self.A, self.D = A.float().contiguous(), D.float().contiguous()
        self.options = {
            "length": self.length,
            "size": size,
            "chunks": self.count,
            "heads": self.heads,
            "channels": self.channels,
            "state": self.state,
            "heads_of_group": self.heads // groups,
            "INPUTS": launch.inputs,
            "MIXED": launch.mixed,
            "Q_BLOCK": max(16, next_power_of_2(size)),
            "P_BLOCK": max(16, next_power_of_2(self.channels)),
            "N_BLOCK": max(16, min(launch.states, next_power_of_2(self.state))),
            "num_warps": launch.warps,
            "num_stages": 1,
        }

    def given(self, *names: str) -> dict[str, Any]:
        """The named sequences and their strides between rows, as arguments of a kernel."""
        strides = {f"{name}_row": self.sequences[name].stride(0) for name in names}
        return {**{name: self.sequences[name] for name in names}, **strides}

    def states(self, x: Tensor, B: Tensor, reverse: bool = False) -> Tensor:
        """The state (B, K, H, P, N) that enters each chunk, or the gradient of the one that leaves it."""
        from climp_bench.ops import triton_ssd_kernels as kernels

        shape = (self.batch, self.count, self.heads)
        if self.count == 1:
            return x.new_empty(0)
        states = torch.empty(*shape, self.channels, self.state, device=x.device)
        decay = torch.empty(shape, device=x.device)
        kernels.chunk_states[self.grid](
            **self.given("dt"),
            **self.options,
            x=x,
            x_row=x.stride(0),
            B=B,
            B_row=B.stride(0),
            A_H=self.A,
            states_BKHPN=states,
            decay_BKH=decay,
            REVERSE=reverse,
        )
        cells = self.channels * self.state
        kernels.pass_states[(self.batch * self.heads * -(-cells // _CELLS),)](
            states_BKHX=states,
            decay_BKH=decay,
            chunks=self.count,
            heads=self.heads,
            cells=cells,
            REVERSE=reverse,
            X_BLOCK=_CELLS,
            num_warps=_CELL_WARPS,
        )
        return states


def _forward(inputs: tuple[Tensor, ...], chunk_size: int) -> Tensor:
    if triton_ssd_walk.suits(inputs[0], inputs[3], inputs[4]):
        return triton_ssd_walk.forward(inputs, chunk_size)
    from climp_bench.ops import triton_ssd_kernels as kernels

    x = inputs[0]
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    with torch.cuda.device_of(x):
        chunks = _Chunks(inputs, chunk_size)
        kernels.chunk_outputs[chunks.grid](
            **chunks.given("x", "dt", "B", "C"),
            **chunks.options,
            A_H=chunks.A,
            D_H=chunks.D,
            entering_BKHPN=chunks.states(chunks.sequences["x"], chunks.sequences["B"]),
            y=y,
            CHUNKED=chunks.count > 1,
        )
    return y


class _Ssd(torch.autograd.Function):
    """The op with its gradient: only the inputs are kept, states are made again."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        *inputs, chunk_size = arguments
        ctx.save_for_backward(*inputs)
        ctx.chunk_size = chunk_size
        return _forward(tuple(inputs), chunk_size)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, dt, A, B, C, D = inputs = ctx.saved_tensors
        if triton_ssd_walk.suits(x, B, C):
            return (*triton_ssd_walk.gradients(inputs, grad, ctx.chunk_size), None)
        if x.shape[1] <= _SHORT and x.shape[0] * x.shape[2] >= _MANY:
            return (*_plain_gradients(inputs, grad, ctx.chunk_size), None)
        with torch.cuda.device_of(x):
            chunks = _Chunks(inputs, ctx.chunk_size, backward=True)
            made = _gradients(chunks, rows(grad), x, dt)

        return (
            made["grad_x"],
            made["grad_dt"],
            made["grad_A_BKH"].sum((0, 1)).to(A.dtype),
            triton_ssd_walk.over_heads(made["grad_B_BLHN"], B),
            triton_ssd_walk.over_heads(made["grad_C_BLHN"], C),
            made["grad_D_BKH"].sum((0, 1)).to(D.dtype),
            None,
        )


def _plain_gradients(inputs: tuple[Tensor, ...], grad: Tensor, chunk_size: int) -> tuple[Tensor, ...]:
    """Gradients of all inputs by PyTorch's operators, through the op computed again."""
    from climp_bench.ops import torch_backend_ssd

    with torch.enable_grad():
        again = [t.detach().requires_grad_() for t in inputs]
        x, dt, A, B, C, D = again
        y = torch_backend_ssd.ssd(x, dt, A, B, C, D, chunk_size=chunk_size)
        return torch.autograd.grad(y, again, grad)


def _gradients(chunks: _Chunks, grad: Tensor, x: Tensor, dt: Tensor) -> dict[str, Tensor]:
    """The gradients as the kernel leaves them, by the names of its arguments; ``grad`` comes as rows."""
    from climp_bench.ops import triton_ssd_kernels as kernels

    by_chunk = (chunks.batch, chunks.count, chunks.heads)
    by_head = (chunks.batch, chunks.length, chunks.heads, chunks.state)
    made = {
        "grad_x": torch.empty(x.shape, dtype=x.dtype, device=x.device),
        "grad_dt": torch.empty(dt.shape, dtype=dt.dtype, device=x.device),
        "grad_A_BKH": torch.empty(by_chunk, device=x.device),
        "grad_B_BLHN": torch.empty(by_head, device=x.device),
        "grad_C_BLHN": torch.empty(by_head, device=x.device),
        "grad_D_BKH": torch.empty(by_chunk, device=x.device),
    }
    kernels.chunk_gradients[chunks.grid](
        **chunks.given("x", "dt", "B", "C"),
        **chunks.options,
        **made,
        grad=grad,
        grad_row=grad.stride(0),
        A_H=chunks.A,
        D_H=chunks.D,
        entering_BKHPN=chunks.states(chunks.sequences["x"], chunks.sequences["B"]),
        leaving_BKHPN=chunks.states(grad, chunks.sequences["C"], reverse=True),
        CHUNKED=chunks.count > 1,
    )
    return made
