"""Whether the kernels of ``ss2d`` compile for a Hopper GPU; that needs none, and interpreters cannot tell."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest

SIZES = {"E": 256, "R": 8, "N": 1, "P": 16, "AXIS": 1, "PRECISION": "tf32x3", "T": 16, "X": 32}
KERNELS = {
    "carry": {"NE": 256, "ADJOINT": 1},
    "aggregate": SIZES | {"ADJOINT": 0},
    "scan": SIZES | {"ENTERED": True},
    "gradient": SIZES | {"ENTERED": True, "GRAD_PRECISION": "tf32x3"},
}


def assembly(kernel: Any, constants: dict[str, object]) -> str:
    """PTX for one warp a program and half-precision images, with the alignment that a launch would tell."""
    from triton import compile
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kinds = {"height": "i32", "width": "i32", "tiles": "i32", "images": "i32"}
    kinds |= {"x": "*bf16", "x_dbl": "*bf16", "source": "*bf16"}
    names = kernel.arg_names
    signature = {n: "constexpr" if n in constants else kinds.get(n, "*fp32") for n in names}
    values = {(names.index(n),): value for n, value in constants.items()}
    aligned = [
        p.num for p in kernel.params if signature[p.name][0] == "*" and not p.do_not_specialize_on_alignment
    ]
    source = ASTSource(kernel, signature, values, {(n,): [["tt.divisibility", 16]] for n in aligned})
    return str(compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 1}).asm["ptx"])


@pytest.mark.parametrize("name", KERNELS)
def test_it_compiles(name: str) -> None:
    if find_spec("triton") is None:
        return
    from climp_bench.ops import triton_ss2d_backward, triton_ss2d_kernels

    kernel = getattr(triton_ss2d_backward if name == "gradient" else triton_ss2d_kernels, name)
    constants = KERNELS[name] | {"T": 16, "X": 32}
    text = assembly(kernel, constants)
    assert "ex2.approx" in text or name == "carry"
    assert name != "carry" or "shfl" not in text, "threads exchange states"
