"""The backend ``mamba-ssm`` against a stand-in of the package that computes in the package's own layout."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from climp_bench.errors import BackendError
from climp_bench.ops import mamba_ssm_backend, reference


def selective_scan_fn(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
) -> Tensor:
    """u, delta and z (B, D, L), B and C (B, N, L), all of one dtype; the rest float32."""
    length = u.shape[2]
    assert delta.shape == u.shape and B.shape == C.shape == (len(u), A.shape[1], length)
    assert {t.dtype for t in (u, delta, B, C, *([] if z is None else [z]))} == {u.dtype}
    assert D is not None and A.dtype == D.dtype == torch.float32
    step = delta.double()
    if delta_bias is not None:
        assert delta_bias.dtype == torch.float32
        step = step + delta_bias.double()[:, None]
    if delta_softplus:
        step = F.softplus(step)
    # Without a loop: what position s leaves at position l decays by the steps between them.
    sums = step.cumsum(2)
    between = sums[:, :, :, None] - sums[:, :, None, :]
    decay = torch.exp(A.double()[None, :, None, None] * between[..., None])
    decay = decay * torch.ones(length, length).tril()[:, :, None]
    y = torch.einsum("bdlsn,bnl,bns,bds->bdl", decay, C.double(), B.double(), step * u.double())
    y = y + D.double()[:, None] * u.double()
    return (y if z is None else y * F.silu(z.double())).to(u.dtype)


def mamba_chunk_scan_combined(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, chunk_size: int, D: Tensor | None = None
) -> Tensor:
    """x (B, L, H, P), dt (B, L, H), B and C (B, L, G, N); bias and softplus of dt off, as by default."""
    batch, length, heads, _ = x.shape
    assert dt.shape == (batch, length, heads) and A.shape == (heads,) and D is not None
    assert x.dtype == B.dtype == C.dtype and chunk_size == 16
    sums = (dt.double() * A.double()).cumsum(1)
    decay = torch.exp(sums[:, :, None] - sums[:, None]) * torch.ones(length, length).tril()[..., None]
    B, C = (t.double().repeat_interleave(heads // t.shape[2], dim=2) for t in (B, C))
    y = torch.einsum("blsh,blhn,bshn,bsh,bshp->blhp", decay, C, B, dt.double(), x.double())
    return (y + D.double()[:, None] * x.double()).to(x.dtype)


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, function in (
        ("mamba_ssm.ops.selective_scan_interface", selective_scan_fn),
        ("mamba_ssm.ops.triton.ssd_combined", mamba_chunk_scan_combined),
    ):
        module = ModuleType(name)
        setattr(module, function.__name__, function)
        monkeypatch.setitem(sys.modules, name, module)


def scan_inputs(optional: bool, dtype: torch.dtype) -> dict[str, Tensor]:
    torch.manual_seed(0)
    inputs = {
        "u_BLD": torch.randn(2, 5, 3).to(dtype),
        "delta_BLD": torch.rand(2, 5, 3).to(dtype),
        "A_DN": -torch.rand(3, 4),
        "B_BLN": torch.randn(2, 5, 4).to(dtype),
        "C_BLN": torch.randn(2, 5, 4).to(dtype),
        "D_D": torch.randn(3),
    }
    if optional:
        inputs |= {"delta_bias_D": torch.rand(3), "z_BLD": torch.randn(2, 5, 3).to(dtype)}
    return inputs


def ssd_inputs(dtype: torch.dtype) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {
        "x_BLHP": torch.randn(2, 7, 4, 3).to(dtype),
        "dt_BLH": torch.rand(2, 7, 4),
        "A_H": -torch.rand(4),
        "B_BLGN": torch.randn(2, 7, 2, 5).to(dtype),
        "C_BLGN": torch.randn(2, 7, 2, 5).to(dtype),
        "D_H": torch.randn(4),
    }


def compare(op: str, inputs: dict[str, Tensor], tolerance: float, **options: object) -> None:
    given = [{name: t.clone().requires_grad_() for name, t in inputs.items()} for _ in range(2)]
    got = getattr(mamba_ssm_backend, op)(**given[0], **options)
    expected = getattr(reference, op)(**given[1], **options)
    assert got.dtype == expected.dtype
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)
    got.float().square().sum().backward()
    expected.float().square().sum().backward()
    for name, t in given[0].items():
        torch.testing.assert_close(t.grad, given[1][name].grad, rtol=0.01, atol=100 * tolerance, msg=name)


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("softplus", [True, False])
@pytest.mark.parametrize("optional", [True, False])
def test_selective_scan_is_handed_over_in_its_layout(optional: bool, softplus: bool) -> None:
    compare("selective_scan", scan_inputs(optional, torch.float32), 1e-5, delta_softplus=softplus)


@pytest.mark.usefixtures("package")
def test_ssd_is_handed_over_in_its_layout() -> None:
    compare("ssd", ssd_inputs(torch.float16), 2**-10, chunk_size=16)


@pytest.mark.usefixtures("package")
def test_sequences_share_the_widest_dtype() -> None:
    scan, dual = scan_inputs(True, torch.bfloat16), ssd_inputs(torch.bfloat16)
    assert mamba_ssm_backend.selective_scan(**scan).dtype == torch.bfloat16
    scan["delta_BLD"] = scan["delta_BLD"].float()
    compare("selective_scan", scan, 2**-8)
    dual["dt_BLH"] = dual["dt_BLH"].bfloat16()
    compare("ssd", dual, 2**-7, chunk_size=16)


@pytest.mark.usefixtures("package")
def test_float64_is_refused() -> None:
    with pytest.raises(BackendError, match=r"ssd, backend 'mamba-ssm': .*float64.*'torch'"):
        mamba_ssm_backend.ssd(**ssd_inputs(torch.float64), chunk_size=16)


@pytest.mark.usefixtures("package")
def test_more_than_its_kernels_can_count_is_refused() -> None:
    inputs = ssd_inputs(torch.bfloat16)
    inputs["x_BLHP"] = torch.zeros(1).bfloat16().expand(2**10, 2**11, 2**5, 2**5)
    with pytest.raises(BackendError, match=r"32 bits and an input has 2,147,483,648 elements.*'triton'"):
        mamba_ssm_backend.ssd(**inputs, chunk_size=16)


@pytest.mark.usefixtures("package")
def test_what_its_kernels_compute_inaccurately_is_refused() -> None:
    with pytest.raises(
        BackendError, match=r"ssd, backend 'mamba-ssm': .*TF32.*'triton', or --dtype bfloat16"
    ):
        mamba_ssm_backend.ssd(**ssd_inputs(torch.float32), chunk_size=16)
    with pytest.raises(BackendError, match=r"chunks as short as 4.*'triton', or chunks of 8"):
        mamba_ssm_backend.ssd(**ssd_inputs(torch.bfloat16), chunk_size=4)


def test_a_package_that_cannot_be_imported_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mamba_ssm.ops.triton.ssd_combined", None)
    with pytest.raises(BackendError, match="cannot be imported"):
        mamba_ssm_backend.ssd(**ssd_inputs(torch.bfloat16), chunk_size=16)
