"""The Triton kernels of ``selective_scan`` and ``ssd`` against the reference: on a GPU, or interpreted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from climp_bench.errors import BackendError
from climp_bench.models.mamba1 import Mamba1, Mamba1Config
from climp_bench.models.mamba2 import Mamba2, Mamba2Config
from climp_bench.ops import reference, resolve, tokenwise, triton_scan, triton_ssd, triton_ssd_walk
from climp_bench.ops.dispatch import preferred
from climp_bench.ops.fusing import is_fused

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HALF = (torch.bfloat16, torch.float16)
# Largest error over the largest reference value, of results and of gradients: for half inputs one rounding to
# nearest and a little of float32's; the interpreter rounds to bfloat16 by cutting off.
_ROUNDING = 1.02 * (2**-8 if DEVICE == "cuda" else 2**-7)
TOLERANCE = {
    torch.float32: (1e-5, 5e-5),
    torch.bfloat16: (_ROUNDING, _ROUNDING),
    torch.float16: (2**-10, 2**-10),
}

TWICE = 1.5 if DEVICE == "cuda" else 1.0
"""How much further gradients of Mamba-2 in bfloat16 may be off: tensor cores take both factors rounded."""

Op = Callable[..., Tensor]


def error(got: Tensor, expected: Tensor) -> float:
    assert got.shape == expected.shape
    got, expected = got.detach().double(), expected.detach().double()
    found = float((got - expected).abs().max() / expected.abs().max().clamp(min=1e-3))
    assert found == found, "not a number"
    return found


def compare(op: Op, exact_op: Op, inputs: dict[str, Tensor], slack: float = 1.0, **options: object) -> None:
    """Values with and without gradients, and gradients, against the reference."""
    first = next(iter(inputs.values()))
    tolerance, gradient_tolerance = TOLERANCE[first.dtype]
    exact = {name: t.detach().double().requires_grad_() for name, t in inputs.items()}
    given = {name: t.detach().requires_grad_() for name, t in inputs.items()}
    expected, got = exact_op(**exact, **options), op(**given, **options)
    with torch.no_grad():
        without_grad = op(**given, **options)
    assert got.dtype == first.dtype
    assert error(got, expected) < tolerance
    assert torch.equal(without_grad, got)

    weights = torch.randn(expected.shape, device=DEVICE).to(first.dtype)
    wanted = torch.autograd.grad((expected * weights.double()).sum(), list(exact.values()))
    grads = torch.autograd.grad(got, list(given.values()), weights)
    for (name, t), grad, want in zip(inputs.items(), grads, wanted, strict=True):
        assert grad.dtype == t.dtype
        assert error(grad, want) < slack * gradient_tolerance, name


def scan_inputs(
    batch: int,
    length: int,
    channels: int,
    state: int,
    *,
    gated: bool = True,
    biased: bool = True,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    torch.manual_seed(length * channels)
    inputs = {
        "u_BLD": torch.randn(batch, length, channels).to(dtype),
        "delta_BLD": torch.rand(batch, length, channels).to(dtype),
        "A_DN": -torch.rand(channels, state) * 4,
        "B_BLN": torch.randn(batch, length, state).to(dtype),
        "C_BLN": torch.randn(batch, length, state).to(dtype),
        "D_D": torch.randn(channels),
    }
    if biased:
        inputs["delta_bias_D"] = torch.rand(channels) - 1
    if gated:
        inputs["z_BLD"] = torch.randn(batch, length, channels).to(dtype)
    return {name: t.to(DEVICE) for name, t in inputs.items()}


def compare_scan(inputs: dict[str, Tensor], **options: object) -> None:
    compare(triton_scan.selective_scan, reference.selective_scan, inputs, **options)


@pytest.mark.parametrize(
    ("shape", "gated", "biased", "softplus"),
    [
        pytest.param((1, 37, 70, 16), True, True, True, id="three pieces, a block of channels not full"),
        pytest.param((1, 1, 5, 1), False, False, False, id="one position, one state, nothing optional"),
        pytest.param((1, 18, 130, 3), True, False, True, id="three states, blocks of both kernels"),
        pytest.param((3, 9, 4, 5), False, True, False, id="bias without softplus"),
        pytest.param((1, 16, 64, 16), False, False, True, id="nothing to pad"),
    ],
)
def test_scan(shape: tuple[int, int, int, int], gated: bool, biased: bool, softplus: bool) -> None:
    compare_scan(scan_inputs(*shape, gated=gated, biased=biased), delta_softplus=softplus)


@pytest.mark.parametrize("group", [1, 2, 4])
def test_the_launch_of_a_scan_does_not_change_it(group: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(triton_scan._FORWARD, group, triton_scan._Launch(channels=32, warps=1))
    monkeypatch.setattr(triton_scan, "_BACKWARD", triton_scan._Launch(channels=16 * group, warps=1))
    monkeypatch.setattr(triton_scan, "_EVERY", 4)
    monkeypatch.setattr(triton_scan, "_GROUP", group)
    monkeypatch.setattr(triton_scan, "_VECTOR", group)
    compare_scan(scan_inputs(1, 11, 40, 4))


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_a_scan_of_half_inputs_loses_only_their_own_rounding(dtype: torch.dtype) -> None:
    compare_scan(scan_inputs(1, 20, 6, 16, dtype=dtype))


def test_a_scan_reads_views_as_they_are() -> None:
    inputs = scan_inputs(2, 6, 8, 3)
    wide = torch.randn(2, 6, 16, device=DEVICE)
    inputs["u_BLD"] = torch.randn(2, 8, 6, device=DEVICE).transpose(1, 2)
    inputs["delta_BLD"], inputs["z_BLD"] = wide.chunk(2, dim=-1)
    inputs["B_BLN"], inputs["C_BLN"] = wide[..., 1:4], wide[:1, :, 4:7].expand(2, -1, -1)
    inputs["D_D"] = torch.randn(1, device=DEVICE).expand(8)
    assert not any(inputs[name].is_contiguous() for name in ("u_BLD", "z_BLD", "B_BLN", "D_D"))
    compare_scan(inputs)


def test_tiny_and_huge_steps_of_a_scan() -> None:
    inputs = scan_inputs(1, 5, 4, 2, gated=False)
    inputs["delta_bias_D"] = torch.tensor([-30.0, -14.0, 5.0, 40.0], device=DEVICE)
    compare_scan(inputs)
    # The logarithm of 1 + exp(-14) is wrong in the second digit, which shows where nothing else is larger.
    inputs["delta_bias_D"], inputs["D_D"] = torch.full((4,), -14.0, device=DEVICE), inputs["D_D"] * 0
    inputs["u_BLD"] = inputs["u_BLD"] * 1e5
    compare_scan(inputs)


def ssd_inputs(
    batch: int,
    length: int,
    heads: int,
    channels: int,
    groups: int,
    state: int,
    *,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """Decays as in the released models: up to 1.6 in the exponent of a position."""
    torch.manual_seed(length * channels)
    inputs = {
        "x_BLHP": torch.randn(batch, length, heads, channels).to(dtype),
        "dt_BLH": torch.rand(batch, length, heads) * 0.1,
        "A_H": torch.linspace(-16, -1, heads),
        "B_BLGN": torch.randn(batch, length, groups, state).to(dtype),
        "C_BLGN": torch.randn(batch, length, groups, state).to(dtype),
        "D_H": torch.randn(heads),
    }
    return {name: t.to(DEVICE) for name, t in inputs.items()}


def compare_ssd(inputs: dict[str, Tensor], chunk_size: int) -> None:
    slack = TWICE if inputs["x_BLHP"].dtype == torch.bfloat16 else 1.0
    compare(triton_ssd.ssd, reference.ssd, inputs, slack, chunk_size=chunk_size)


@pytest.mark.parametrize(
    ("shape", "chunk_size"),
    [
        pytest.param((2, 11, 4, 3, 2, 16), 64, id="one chunk, two groups"),
        pytest.param((1, 1, 2, 4, 1, 1), 256, id="one position, one state"),
        pytest.param((2, 13, 2, 8, 1, 3), 3, id="five chunks, the last not full"),
        pytest.param((1, 70, 2, 20, 2, 128), 256, id="the kernels' own chunks, blocks of states"),
        pytest.param((1, 3, 2, 1, 1, 2), 1, id="a chunk a position"),
    ],
)
def test_ssd(shape: tuple[int, int, int, int, int, int], chunk_size: int) -> None:
    compare_ssd(ssd_inputs(*shape), chunk_size)


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_ssd_of_half_inputs_loses_only_their_own_rounding(dtype: torch.dtype) -> None:
    compare_ssd(ssd_inputs(1, 140, 2, 16, 1, 16, dtype=dtype), 256)


def test_long_chunks_of_ssd_at_released_widths_stay_accurate(monkeypatch: pytest.MonkeyPatch) -> None:
    long = triton_ssd._Launch(positions=128 if DEVICE == "cpu" else 64, states=32, warps=8)
    monkeypatch.setattr(triton_ssd, "_SINGLE", replace(triton_ssd._SINGLE, forward=long, backward=long))
    compare_ssd(ssd_inputs(1, 130, 2, 64, 1, 128), 256)


def test_gradients_of_many_short_ssd_by_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_ssd, "_MANY", 4)
    monkeypatch.setattr(triton_ssd, "_gradients", None)  # the kernel's own are not called
    compare_ssd(ssd_inputs(2, 9, 2, 4, 1, 3), 16)
    compare_ssd(ssd_inputs(2, 9, 2, 16, 1, 16, dtype=torch.float16), 16)


@pytest.mark.parametrize(
    ("shape", "chunk_size"),
    [
        pytest.param((1, 130, 2, 64, 1, 128), 256, id="released widths, three chunks"),
        pytest.param((2, 20, 2, 64, 1, 128), 256, id="released widths, one chunk"),
        pytest.param((2, 45, 4, 20, 2, 40), 16, id="two groups, widths that fill no block"),
        pytest.param((1, 5, 2, 3, 1, 2), 2, id="chunks smaller than a block"),
        pytest.param((1, 70, 2, 80, 1, 16), 256, id="too wide a head: the other kernels"),
    ],
)
def test_ssd_of_bfloat16(shape: tuple[int, int, int, int, int, int], chunk_size: int) -> None:
    inputs = ssd_inputs(*shape, dtype=torch.bfloat16)
    walked = triton_ssd_walk.suits(inputs["x_BLHP"], inputs["B_BLGN"], inputs["C_BLGN"])
    assert walked == (shape[3] <= 64)
    compare_ssd(inputs, chunk_size)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_ssd_with_decays_beyond_float32(dtype: torch.dtype) -> None:
    inputs = ssd_inputs(2, 32, 4, 8, 1, 16, dtype=dtype)
    inputs["dt_BLH"] = inputs["dt_BLH"] * 1000  # exp of minus the sum would overflow above the diagonal
    compare_ssd(inputs, 16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_ssd_reads_views_as_they_are(dtype: torch.dtype) -> None:
    inputs = ssd_inputs(2, 6, 2, 4, 1, 3, dtype=dtype)
    wide = torch.randn(2, 6, 2 * 4 + 3 + 3, device=DEVICE).to(dtype)
    x, B, C = torch.split(wide, [8, 3, 3], dim=-1)
    inputs |= {"x_BLHP": x.unflatten(-1, (2, 4)), "B_BLGN": B.unsqueeze(2), "C_BLGN": C.unsqueeze(2)}
    inputs["dt_BLH"] = inputs["dt_BLH"].transpose(1, 2).contiguous().transpose(1, 2)
    assert not any(inputs[name].is_contiguous() for name in ("x_BLHP", "B_BLGN", "dt_BLH"))
    compare_ssd(inputs, 4)


def test_mixed_precision_leaves_both_alone() -> None:
    scan, dual = scan_inputs(1, 4, 3, 2), ssd_inputs(1, 4, 2, 3, 1, 2)
    outside = triton_scan.selective_scan(**scan), triton_ssd.ssd(**dual, chunk_size=4)
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        assert torch.equal(triton_scan.selective_scan(**scan), outside[0])
        assert torch.equal(triton_ssd.ssd(**dual, chunk_size=4), outside[1])


def test_float64_is_refused() -> None:
    with pytest.raises(BackendError, match=r"selective_scan, backend 'triton': .*float64.*'torch'"):
        triton_scan.selective_scan(**{n: t.double() for n, t in scan_inputs(1, 2, 3, 2).items()})
    with pytest.raises(BackendError, match=r"ssd, backend 'triton': .*float64"):
        triton_ssd.ssd(**{n: t.double() for n, t in ssd_inputs(1, 2, 2, 3, 1, 2).items()}, chunk_size=2)


@pytest.mark.parametrize("op", ["selective_scan", "ssd"])
def test_it_runs_by_itself_on_gpus_only(op: str) -> None:
    kernel, _, _ = resolve(op, DEVICE, "triton")
    assert kernel.__module__ in (triton_scan.__name__, triton_ssd.__name__)
    assert (resolve(op, DEVICE)[1] == "triton") == (DEVICE == "cuda")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("taps", [1, 4])
@pytest.mark.parametrize("shape", [(2, 37, 20), (1, 1, 3), (3, 16, 130), (9, 2, 128), (7, 5, 6)])
def test_causal_convolution_and_silu(shape: tuple[int, int, int], taps: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.randn(*shape[:2], 2 * shape[2], device=DEVICE).to(dtype).chunk(2, dim=-1)[1]  # a view
    weight, bias = torch.randn(shape[2], taps, device=DEVICE), torch.randn(shape[2], device=DEVICE)
    padded = F.pad(x.double().transpose(1, 2), (taps - 1, 0))
    expected = F.silu(F.conv1d(padded, weight.double()[:, None], bias.double(), groups=shape[2]))
    with preferred({"ssd": "triton"}), torch.no_grad():
        assert is_fused("ssd", x, (weight, bias))
        got = tokenwise.causal_conv_silu(x, weight, bias, "ssd")
    assert got.dtype == dtype
    assert error(got, expected.transpose(1, 2)) < (TOLERANCE[dtype][0] if dtype != torch.float32 else 1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("channels", [3, 16, 20])
def test_addition_and_root_mean_square_norm(channels: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, branch = (
        torch.randn(2, 5, channels, device=DEVICE),
        torch.randn(2, 5, channels, device=DEVICE).to(dtype),
    )
    weight = torch.randn(channels, device=DEVICE)
    added = x + branch
    alone, want = (F.rms_norm(t.double(), (channels,), weight.double(), 1e-5) for t in (x, added))
    tolerance = 1e-6 if dtype == torch.float32 else _ROUNDING
    assert error(tokenwise.add_rms_norm_(x, None, weight, 1e-5, dtype), alone) < tolerance
    normed = tokenwise.add_rms_norm_(x, branch, weight, 1e-5, dtype)
    assert normed.dtype == dtype and error(normed, want) < tolerance
    assert torch.equal(x, added)


def mamba_towers() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    one = Mamba1(Mamba1Config(vocab_size=50, d_model=16, n_layer=2, d_state=4))
    two = Mamba2(Mamba2Config(vocab_size=50, d_model=16, n_layer=2, d_state=8, head_dim=8))
    return {"selective_scan": one.eval().to(DEVICE), "ssd": two.eval().to(DEVICE)}


@pytest.mark.parametrize("scan", ["selective_scan", "ssd"])
def test_a_text_tower_gives_the_same_features_fused(scan: str) -> None:
    tower, ids = mamba_towers()[scan], torch.randint(50, (3, 9), device=DEVICE)
    lengths = torch.tensor([9, 4, 1], device=DEVICE)
    weight = torch.ones(4, 1, device=DEVICE)
    with torch.inference_mode():
        with preferred({scan: "torch"}):
            expected = tower(ids, lengths)
            assert not is_fused(scan, weight, ())
        with preferred({scan: "triton"}):
            assert is_fused(scan, weight, ())
            assert error(tower(ids, lengths), expected) < 1e-5
    with preferred({scan: "triton"}):
        assert not is_fused(scan, weight.requires_grad_(), ())
        assert tower(ids, lengths).requires_grad
