"""Every backend of every op against its float64 reference: values, and gradients of every argument."""

from __future__ import annotations

from collections.abc import Callable
from unittest.mock import patch

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from climp_bench.ops import backends, selective_scan, ss2d, ssd, torch_backend_scan
from climp_bench.ops.tolerances import TOLERANCES

TOLERANCE = {dtype: tolerance.values for dtype, tolerance in TOLERANCES.items()}
GRADIENT_TOLERANCE = {dtype: tolerance.gradients for dtype, tolerance in TOLERANCES.items()}

OPS: dict[str, Callable[..., Tensor]] = {"selective_scan": selective_scan, "ss2d": ss2d, "ssd": ssd}
TESTED = [(op, b.name) for op in OPS for b in backends(op, "cpu") if b.available and b.name != "reference"]

few = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
dtypes = st.sampled_from([torch.float64, torch.float32])
states = st.sampled_from([1, 3, 16])
# States in a piece of the torch backend: one position at a time, a few, all at once.
budgets = st.sampled_from([1, 300, 1 << 20])


def error(got: Tensor, expected: Tensor) -> float:
    assert got.shape == expected.shape
    got, expected = got.detach().double(), expected.detach().double()
    return float((got - expected).abs().max() / expected.abs().max().clamp(min=1e-3))


def compare(op: str, backend: str, inputs: dict[str, Tensor], **options: object) -> None:
    """Values with and without gradients, and gradients, of ``backend`` against the reference."""
    dtype = next(iter(inputs.values())).dtype
    exact = {name: t.detach().double().requires_grad_() for name, t in inputs.items()}
    given_ = {name: t.detach().clone().requires_grad_() for name, t in inputs.items()}
    expected = OPS[op](**exact, **options, backend="reference")
    got = OPS[op](**given_, **options, backend=backend)
    with torch.no_grad():
        without_grad = OPS[op](**given_, **options, backend=backend)
    assert got.dtype == dtype
    assert error(got, expected) < TOLERANCE[dtype]
    assert error(without_grad, expected) < TOLERANCE[dtype]

    weights = torch.randn(expected.shape, dtype=torch.float64)
    wanted = torch.autograd.grad((expected * weights).sum(), list(exact.values()))
    grads = torch.autograd.grad((got * weights.to(dtype)).sum(), list(given_.values()))
    for name, grad, want in zip(inputs, grads, wanted, strict=True):
        assert error(grad, want) < GRADIENT_TOLERANCE[dtype], name


def backends_of(op: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("backend", [name for tested, name in TESTED if tested == op])


@backends_of("selective_scan")
@few
@given(
    batch=st.integers(1, 3),
    length=st.integers(1, 9),
    channels=st.integers(1, 5),
    state=states,
    gated=st.booleans(),
    biased=st.booleans(),
    softplus=st.booleans(),
    dtype=dtypes,
    budget=budgets,
    seed=st.integers(0, 1000),
)
def test_selective_scan(
    backend: str,
    batch: int,
    length: int,
    channels: int,
    state: int,
    gated: bool,
    biased: bool,
    softplus: bool,
    dtype: torch.dtype,
    budget: int,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    inputs = {
        "u_BLD": torch.randn(batch, length, channels),
        "delta_BLD": torch.rand(batch, length, channels) - (0.5 if softplus else 0.0),
        "A_DN": -torch.rand(channels, state) * 4,
        "B_BLN": torch.randn(batch, length, state),
        "C_BLN": torch.randn(batch, length, state),
        "D_D": torch.randn(channels),
    }
    if biased:
        inputs["delta_bias_D"] = torch.rand(channels)
    if gated:
        inputs["z_BLD"] = torch.randn(batch, length, channels)
    with patch.object(torch_backend_scan, "_CPU_STATES", budget):
        compare(
            "selective_scan",
            backend,
            {name: t.to(dtype) for name, t in inputs.items()},
            delta_softplus=softplus,
        )


def image_inputs(
    batch: int, height: int, width: int, channels: int, rank: int, state: int
) -> dict[str, Tensor]:
    return {
        "x_BHWE": torch.randn(batch, height, width, channels),
        "x_dbl_BHWKC": torch.randn(batch, height, width, 4, rank + 2 * state),
        "dt_weight_KER": torch.randn(4, channels, rank),
        "dt_bias_KE": torch.randn(4, channels),
        "A_logs_KEN": torch.randn(4, channels, state),
        "D_KE": torch.randn(4, channels),
    }


@backends_of("ss2d")
@few
@given(
    batch=st.integers(1, 3),
    height=st.integers(1, 4),
    width=st.integers(1, 5),
    channels=st.integers(1, 5),
    rank=st.integers(1, 3),
    state=states,
    dtype=dtypes,
    budget=budgets,
    seed=st.integers(0, 1000),
)
def test_ss2d(
    backend: str,
    batch: int,
    height: int,
    width: int,
    channels: int,
    rank: int,
    state: int,
    dtype: torch.dtype,
    budget: int,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    inputs = image_inputs(batch, height, width, channels, rank, state)
    with patch.object(torch_backend_scan, "_CPU_STATES", budget):
        compare("ss2d", backend, {name: t.to(dtype) for name, t in inputs.items()})


@backends_of("ssd")
@few
@given(
    batch=st.integers(1, 3),
    length=st.integers(1, 11),
    heads=st.sampled_from([2, 4]),
    channels=st.integers(1, 4),
    groups=st.sampled_from([1, 2]),
    state=states,
    chunk_size=st.sampled_from([1, 3, 4, 64]),
    dtype=dtypes,
    seed=st.integers(0, 1000),
)
def test_ssd(
    backend: str,
    batch: int,
    length: int,
    heads: int,
    channels: int,
    groups: int,
    state: int,
    chunk_size: int,
    dtype: torch.dtype,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    inputs = {
        "x_BLHP": torch.randn(batch, length, heads, channels),
        "dt_BLH": torch.rand(batch, length, heads),
        "A_H": -torch.rand(heads) * 4,
        "B_BLGN": torch.randn(batch, length, groups, state),
        "C_BLGN": torch.randn(batch, length, groups, state),
        "D_H": torch.randn(heads),
    }
    compare("ssd", backend, {name: t.to(dtype) for name, t in inputs.items()}, chunk_size=chunk_size)


def scan_inputs(length: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {
        "u_BLD": torch.randn(2, length, 6).to(dtype),
        "delta_BLD": torch.randn(2, length, 6).to(dtype),
        "A_DN": -torch.arange(1.0, 17).repeat(6, 1),
        "B_BLN": torch.randn(2, length, 16).to(dtype),
        "C_BLN": torch.randn(2, length, 16).to(dtype),
        "D_D": torch.ones(6),
    }


@pytest.mark.parametrize(("op", "backend"), TESTED)
def test_mixed_precision_keeps_the_scan_in_float32(op: str, backend: str) -> None:
    torch.manual_seed(0)
    if op == "selective_scan":
        inputs, options = scan_inputs(12), {}
    elif op == "ss2d":
        inputs, options = image_inputs(2, 4, 3, 8, 3, 2), {}
    else:
        inputs, options = heads_inputs(24), {"chunk_size": 8}
    inputs = {name: t.requires_grad_() for name, t in inputs.items()}
    outside = OPS[op](**inputs, **options, backend=backend)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = OPS[op](**inputs, **options, backend=backend)
    grads = torch.autograd.grad(inside.sum(), list(inputs.values()))
    wanted = torch.autograd.grad(outside.sum(), list(inputs.values()))
    assert torch.equal(inside, outside)
    assert all(torch.equal(grad, want) for grad, want in zip(grads, wanted, strict=True))


@backends_of("selective_scan")
def test_half_inputs_lose_only_their_own_rounding(backend: str) -> None:
    inputs = scan_inputs(40, torch.bfloat16)
    got = selective_scan(**inputs, backend=backend)
    expected = selective_scan(**{n: t.double() for n, t in inputs.items()}, backend="reference")
    assert got.dtype == torch.bfloat16
    assert error(got, expected) < 2**-8


@backends_of("ss2d")
def test_half_images_are_scanned_in_float32(backend: str) -> None:
    torch.manual_seed(0)
    inputs = image_inputs(1, 5, 4, 3, 2, 1)
    inputs |= {name: inputs[name].bfloat16() for name in ("x_BHWE", "x_dbl_BHWKC")}
    got = ss2d(**inputs, backend=backend)
    expected = ss2d(**{n: t.double() for n, t in inputs.items()}, backend="reference")
    assert got.dtype == torch.bfloat16
    rounded = expected.bfloat16()
    # The same but for ties and near ones, which the last bit of float32 decides.
    assert int((got != rounded).sum()) <= 2
    assert error(got, expected) < TOLERANCE[torch.bfloat16]


def heads_inputs(length: int) -> dict[str, Tensor]:
    return {
        "x_BLHP": torch.randn(2, length, 4, 8),
        "dt_BLH": torch.rand(2, length, 4) * 0.1,
        "A_H": torch.linspace(-16, -1, 4),
        "B_BLGN": torch.randn(2, length, 1, 16),
        "C_BLGN": torch.randn(2, length, 1, 16),
        "D_H": torch.ones(4),
    }


@backends_of("ssd")
@pytest.mark.parametrize("chunk_size", [64, 256])
def test_ssd_stays_accurate_over_long_sequences(backend: str, chunk_size: int) -> None:
    torch.manual_seed(0)
    compare("ssd", backend, heads_inputs(256), chunk_size=chunk_size)


@backends_of("ssd")
def test_ssd_with_decays_beyond_float32_has_finite_gradients(backend: str) -> None:
    torch.manual_seed(0)
    inputs = heads_inputs(48)
    inputs["dt_BLH"] = inputs["dt_BLH"] * 1000  # exp of minus the sum would overflow above the diagonal
    compare("ssd", backend, inputs, chunk_size=16)


@pytest.mark.parametrize("threads", [2, 3])
def test_several_threads_share_the_jobs_of_a_scan(threads: int) -> None:
    torch.manual_seed(0)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        compare("ss2d", "numba", image_inputs(2, 5, 4, 300, 2, 1))
        compare("ss2d", "numba", image_inputs(1, 3, 4, 5, 2, 1))
    finally:
        torch.set_num_threads(before)
