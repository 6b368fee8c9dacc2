"""The scans of the text towers beside mamba-ssm's kernels on one GPU: equal first, then timed by turns.

``python -m tests.scale.against_mamba_ssm [--batch 64] [--channels 4096] [--length 77 --length 512]``

mamba-ssm must be installed (``pip install mamba-ssm --no-build-isolation``; it needs nvcc). Inputs are
bfloat16, and each side has them in its own layout: Mamba-1's scan of theirs wants (B, D, L), so what
``bench-kernels`` counts against it, changes of layout, is left out here. Values and gradients of both are
held against the reference in float64; where ours are farther from it than ``bench-kernels`` allows, nothing
is timed. Times are medians of rounds, by CUDA events.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import torch
from torch import Tensor

from climp_bench.eval.kernel_cases import Case
from climp_bench.eval.kernel_inputs import OPS, make_inputs
from climp_bench.eval.kernel_timing import by_turns, warm_up
from climp_bench.ops import reference
from climp_bench.ops.tolerances import relative_error, tolerance_of

Op = Callable[..., Tensor]
HALF = torch.bfloat16
ROUNDS = 9
LENGTHS = (77, 256, 512)
CHUNK = 256


def their_scan(tensors: Mapping[str, Tensor]) -> tuple[Op, dict[str, Tensor]]:
    """mamba-ssm's Mamba-1, result (B, D, L), and the arguments in its layout."""
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    swapped = {name: t.transpose(1, 2).contiguous() if t.ndim == 3 else t for name, t in tensors.items()}
    names = {
        "u_BLD": "u", "delta_BLD": "delta", "A_DN": "A", "B_BLN": "B", "C_BLN": "C", "D_D": "D", "z_BLD": "z",
        "delta_bias_D": "delta_bias",
    }  # fmt: skip
    given = {names[name]: t for name, t in swapped.items()}
    return lambda **more: selective_scan_fn(**more, delta_softplus=True), given


def their_ssd(tensors: Mapping[str, Tensor]) -> tuple[Op, dict[str, Tensor]]:
    """mamba-ssm's Mamba-2, result (B, L, H, P), and the arguments."""
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

    names = {"x_BLHP": "x", "dt_BLH": "dt", "A_H": "A", "B_BLGN": "B", "C_BLGN": "C", "D_H": "D"}
    given = {names[name]: t for name, t in tensors.items()}
    return lambda **more: mamba_chunk_scan_combined(**more, chunk_size=CHUNK), given


THEIRS = {"selective_scan": their_scan, "ssd": their_ssd}


def sides(case: Case) -> dict[str, tuple[Op, dict[str, Tensor]]]:
    """Ours and theirs, with the arguments of each."""
    inputs = make_inputs(case, "cuda", HALF, seed=0)

    def ours(**tensors: Tensor) -> Tensor:
        return OPS[case.op](**tensors, **inputs.options, backend="triton")

    return {"climp-bench": (ours, inputs.tensors), "mamba-ssm": THEIRS[case.op](inputs.tensors)}


def with_gradients(op: Op, tensors: Mapping[str, Tensor], weights: Tensor) -> list[Tensor]:
    """The result and the gradient of every argument."""
    leaves = {name: t.detach().requires_grad_() for name, t in tensors.items()}
    result = op(**leaves)
    return [result, *torch.autograd.grad(result, list(leaves.values()), weights.to(result.dtype))]


def distances(case: Case) -> dict[str, tuple[float, float]]:
    """How far values and gradients of each side are from the reference."""
    inputs = make_inputs(case, "cuda", HALF, seed=0)
    exact_op: Op = getattr(reference, case.op)
    weights = torch.randn_like(next(iter(inputs.tensors.values())))
    doubles = {name: t.double() for name, t in inputs.tensors.items()}
    exact = with_gradients(lambda **more: exact_op(**more, **inputs.options), doubles, weights)
    found = {}
    for name, (op, tensors) in sides(case).items():
        swap = name == "mamba-ssm" and case.op == "selective_scan"
        got = with_gradients(op, tensors, weights.transpose(1, 2).contiguous() if swap else weights)
        got = [t.transpose(1, 2) if swap and t.ndim == 3 else t for t in got]
        far = [relative_error(one, other) for one, other in zip(got, exact, strict=True)]
        found[name] = far[0], max(far[1:])
    return found


def check(case: Case) -> None:
    """Print the distances; end if ours are larger than allowed."""
    allowed = tolerance_of(case.op, HALF)
    for name, (values, gradients) in distances(case).items():
        right = values <= allowed.values and gradients <= allowed.gradients
        limits = "within" if right else "outside"
        limits += f" {allowed.values:.1e} and {allowed.gradients:.1e}"
        print(f"{case.op}, {name}: values off by {values:.1e}, gradients by {gradients:.1e}, {limits}")
        if not right and name == "climp-bench":
            raise SystemExit("our kernel is not right: nothing is timed")


def compare(case: Case) -> None:
    """Print a row a direction: ours, theirs, and how many times as fast ours is."""
    calls: dict[str, dict[str, Callable[[], Any]]] = {"forward": {}, "forward and backward": {}}
    for name, (op, tensors) in sides(case).items():
        with torch.no_grad():
            weights = torch.ones_like(op(**tensors))

        def forward(op: Op = op, tensors: Mapping[str, Tensor] = tensors) -> None:
            with torch.no_grad():
                op(**tensors)

        def both(
            op: Op = op, tensors: Mapping[str, Tensor] = tensors, weights: Tensor = weights
        ) -> list[Tensor]:
            return with_gradients(op, tensors, weights)

        calls["forward"][name], calls["forward and backward"][name] = forward, both
    for direction, by_side in calls.items():
        warm = {name: warm_up(call, "cuda")[0] for name, call in by_side.items()}
        times = by_turns(warm, "cuda", ROUNDS)
        ours, theirs = (median(times[name]) for name in ("climp-bench", "mamba-ssm"))
        spread = max((max(each) - min(each)) / median(each) for each in times.values())
        print(
            f"| {case.op} | {case.shape} | {direction} | {ours:.2f} | {theirs:.2f} | {theirs / ours:.2f} | "
            f"{spread:.0%} |",
            flush=True,
        )


def main() -> None:
    """Check, then time, as a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--channels", type=int, default=4096)
    parser.add_argument("--length", type=int, action="append", help="repeat for more; default: 77, 256, 512")
    asked = parser.parse_args()
    import mamba_ssm

    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, mamba-ssm {mamba_ssm.__version__}")
    heads = {"heads": asked.channels // 64, "channels": 64, "state": 128}
    more = {"selective_scan": {"channels": asked.channels, "state": 16}, "ssd": heads}
    small = {
        "selective_scan": {"channels": 128, "state": 16},
        "ssd": {"heads": 4, "channels": 64, "state": 128},
    }
    for op in THEIRS:
        for length in (37, 300):
            check(Case(op, "", {"batch": 2, "length": length, **small[op]}))
    print("\n| op | size | direction | climp-bench, ms | mamba-ssm, ms | theirs over ours | spread |")
    print("|---|---|---|--:|--:|--:|--:|")
    for op in THEIRS:
        for length in asked.length or LENGTHS:
            compare(Case(op, "", {"batch": asked.batch, "length": length, **more[op]}))
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
