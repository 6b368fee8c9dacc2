"""Whether the kernels around matrix products compile for a Hopper GPU: it need not be there."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest

SIZES = {"E": 256, "R": 8, "N": 1, "P": 16, "AXIS": 1, "PRECISION": "tf32x3", "T": 16, "X": 32}
WALK = {"E": 1024, "R": 32, "P": 32, "SHORT": False, "MASKED": False, "W": 4, "T": 16, "X": 64}
MODULES = {
    **dict.fromkeys(("summarise", "follow", "merge"), "triton_ss2d_walk_kernels"),
    **dict.fromkeys(("add_norm", "conv_silu"), "triton_pixels_kernels"),
    "causal_conv_silu": "triton_tokens_kernels",
    "gradient": "triton_ss2d_backward",
}
KERNELS = {
    "summarise": WALK,
    "follow": WALK | {"ADD": False},
    "merge": {"E": 256, "W": 4, "NORM": True, "ROWS": 16, "X": 256},
    "add_norm": {"C": 128, "ADD": True, "CENTRED": True, "T": 16, "X": 128},
    "causal_conv_silu": {"D": 4096, "K": 4, "T": 16, "X": 128},
    "conv_silu": {"E": 256, "T": 16, "X": 64},
    "carry": {"NE": 256, "ADJOINT": 1, "T": 16, "X": 32},
    "aggregate": SIZES | {"ADJOINT": 0},
    "scan": SIZES | {"ENTERED": True},
    "gradient": SIZES | {"ENTERED": True, "GRAD_PRECISION": "tf32x3"},
}


def assembly(kernel: Any, constants: dict[str, object]) -> str:
    """PTX for one warp a program and half-precision images, with the alignment that a launch would tell."""
    from triton import compile
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    numbers = ("height", "width", "tiles", "images", "axis", "segments", "pixels", "rows", "length", "x_row")
    kinds = {**dict.fromkeys(numbers, "i32"), "eps": "fp32"}
    kinds |= dict.fromkeys(("x", "x_dbl", "source", "y_WBLE", "y_WME", "x_BHWE", "y_BHWE", "y_MD"), "*bf16")
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
    module = import_module(f"climp_bench.ops.{MODULES.get(name, 'triton_ss2d_kernels')}")
    text = assembly(getattr(module, name), KERNELS[name])
    assert "ex2.approx" in text or name in ("carry", "merge", "add_norm")
    assert name not in ("carry", "follow") or "shfl" not in text, "threads exchange states"
    assert name != "follow" or "lg2.approx" in text
