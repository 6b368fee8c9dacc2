"""Costs of the ops against numbers worked out by hand, and against what torch counts in the real kernels."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from climp_bench.errors import BackendError
from climp_bench.ops import resolve, selective_scan, ss2d, ssd
from climp_bench.ops.flops import Cost, counting, report, selective_scan_cost, ss2d_cost, ssd_cost

OPS: dict[str, Callable[..., Tensor]] = {"selective_scan": selective_scan, "ss2d": ss2d, "ssd": ssd}


def inputs_of(op: str, device: str, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Small inputs: B 2, L 6 (a 2 x 3 image), D = E 8 (2 heads of 4), N 5, R 3, 1 group."""
    shapes = {
        "selective_scan": {
            "u_BLD": (2, 6, 8),
            "delta_BLD": (2, 6, 8),
            "A_DN": (8, 5),
            "B_BLN": (2, 6, 5),
            "C_BLN": (2, 6, 5),
            "D_D": (8,),
        },
        "ss2d": {
            "x_BHWE": (2, 2, 3, 8),
            "x_dbl_BHWKC": (2, 2, 3, 4, 13),
            "dt_weight_KER": (4, 8, 3),
            "dt_bias_KE": (4, 8),
            "A_logs_KEN": (4, 8, 5),
            "D_KE": (4, 8),
        },
        "ssd": {
            "x_BLHP": (2, 6, 2, 4),
            "dt_BLH": (2, 6, 2),
            "A_H": (2,),
            "B_BLGN": (2, 6, 1, 5),
            "C_BLGN": (2, 6, 1, 5),
            "D_H": (2,),
        },
    }
    return {name: torch.zeros(shape, dtype=dtype, device=device) for name, shape in shapes[op].items()}


def options_of(op: str, chunk_size: int = 4) -> dict[str, int]:
    return {"chunk_size": chunk_size} if op == "ssd" else {}


def counted(op: str, **options: object) -> Cost:
    with counting() as collected:
        OPS[op](**inputs_of(op, "meta"), **options)
    assert set(collected) == {op}
    return collected[op]


def products_on_cpu(op: str, inputs: dict[str, Tensor], **options: object) -> int:
    """Multiply-adds of the matrix products that the torch backend really runs, by torch's own counter."""
    with FlopCounterMode(display=False) as counter:
        OPS[op](**inputs, **options, backend="torch")
    return counter.get_total_flops() // 2


def test_a_selective_scan_by_hand() -> None:
    # 2 x 6 positions x 8 channels = 96 elements; 9 operations for each of 5 states, one multiply-add for D u.
    assert counted("selective_scan") == Cost(macs=9 * 480 + 96, flops=9 * 480 + 2 * 96) == Cost(4416, 4512)
    with counting() as collected:
        inputs = inputs_of("selective_scan", "meta")
        selective_scan(**inputs, z_BLD=inputs["u_BLD"])
    assert collected["selective_scan"] == Cost(4416 + 96, 4512 + 96)


def test_ss2d_by_hand() -> None:
    # Four scans of the same 96 elements, and 3 multiply-adds an element and direction for the step sizes.
    assert counted("ss2d") == Cost(macs=4 * (4416 + 3 * 96), flops=4 * (4512 + 6 * 96)) == Cost(18816, 20352)


def test_ssd_by_hand() -> None:
    # One chunk, an entry: scores 6 x 6 x 5, their product with x 6 x 6 x 8, D x 6 x 8; two entries.
    assert counted("ssd", chunk_size=64) == Cost(2 * (180 + 288 + 48), 4 * (180 + 288 + 48))
    # Chunks of 4, so two (the second padded): scores 2 x 16 x 5, product 2 x 16 x 8, written and read states
    # 2 x (2 x 4) x 8 x 5, one step between chunks 8 x 5, D x 6 x 8.
    macs = 2 * (160 + 256 + 640 + 40 + 48)
    assert counted("ssd", chunk_size=4) == Cost(macs, 2 * macs)


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 4, 6, 100])
def test_the_products_of_ssd_are_those_of_its_kernel(chunk_size: int) -> None:
    chunks = max(1, -(-6 // chunk_size))
    elementwise = 2 * 6 * 8 + 2 * (chunks - 1) * 8 * 5  # D x, and the recurrence between chunks
    cost = counted("ssd", chunk_size=chunk_size)
    assert cost.macs - elementwise == products_on_cpu("ssd", inputs_of("ssd", "cpu"), chunk_size=chunk_size)


def test_what_a_higher_rank_adds_to_ss2d_is_what_its_kernel_runs() -> None:
    found = []
    for rank in (3, 7):
        inputs = inputs_of("ss2d", "cpu")
        inputs["dt_weight_KER"] = torch.zeros(4, 8, rank)
        inputs["x_dbl_BHWKC"] = torch.zeros(2, 2, 3, 4, rank + 2 * 5)
        found.append(products_on_cpu("ss2d", inputs))
    shape = {"batch": 2, "pixels": 6, "channels": 8, "state": 5, "directions": 4}
    low, high = (ss2d_cost(rank=rank, **shape).macs for rank in (3, 7))
    assert high - low == found[1] - found[0] > 0


def test_groups_of_ssd_share_their_scores() -> None:
    shape = {"batch": 1, "length": 8, "heads": 4, "channels": 2, "state": 3, "chunk_size": 8}
    one, four = (ssd_cost(groups=groups, **shape).macs for groups in (1, 4))
    assert four - one == 3 * 8 * 8 * 3


def test_all_costs_grow_with_the_batch() -> None:
    scan = {"channels": 3, "state": 2}
    heads = {"length": 7, "heads": 2, "channels": 3, "groups": 1, "state": 2, "chunk_size": 4}
    image = {"pixels": 5, **scan, "rank": 1, "directions": 4}
    for cost in (
        lambda batch: selective_scan_cost(batch=batch, length=5, **scan, gated=True),
        lambda batch: ss2d_cost(batch=batch, **image),
        lambda batch: ssd_cost(batch=batch, **heads),
    ):
        assert cost(3) == cost(1) + cost(1) + cost(1) != cost(1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("op", OPS)
def test_the_meta_result_has_the_shape_and_dtype_of_the_real_one(op: str, dtype: torch.dtype) -> None:
    real = OPS[op](**inputs_of(op, "cpu", dtype), **options_of(op))
    shape = OPS[op](**inputs_of(op, "meta", dtype), **options_of(op))
    assert shape.device.type == "meta"
    assert (shape.shape, shape.dtype) == (real.shape, real.dtype)


@pytest.mark.parametrize("op", OPS)
def test_the_meta_backend_serves_the_meta_device_alone(op: str) -> None:
    assert resolve(op, "meta")[1] == "meta"
    with pytest.raises(BackendError, match="cannot run on cpu: it computes nothing"):
        OPS[op](**inputs_of(op, "cpu"), **options_of(op), backend="meta")


def test_costs_add_up_and_go_to_the_innermost_counter() -> None:
    with counting() as outer:
        report("ssd", Cost(1, 2))
        with counting() as inner:
            report("ssd", Cost(10, 20))
            report("ssd", Cost(10, 20))
        report("ss2d", Cost(3, 4))
    report("ssd", Cost(100, 200))
    assert inner == {"ssd": Cost(20, 40)}
    assert outer == {"ssd": Cost(1, 2), "ss2d": Cost(3, 4)}


def test_a_counter_ends_with_its_context_even_if_that_fails() -> None:
    with pytest.raises(RuntimeError, match="inside"), counting() as collected:
        raise RuntimeError("inside")
    report("ssd", Cost(1, 1))
    assert collected == {}
