"""The Triton kernels of ``ss2d`` and its gradient against the reference: on a GPU, or interpreted on a CPU.

The interpreter takes ten milliseconds a tile, so there are few.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from climp_bench.errors import BackendError
from climp_bench.ops import reference, triton_ss2d
from climp_bench.ops.triton_ss2d import TILINGS, Tiling

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SMALLEST = 16 if DEVICE == "cuda" else 8
POSITIONS = 16 if DEVICE == "cuda" else 4

NAMES = ("x_BHWE", "x_dbl_BHWKC", "dt_weight_KER", "dt_bias_KE", "A_logs_KEN", "D_KE")
# Of the largest reference value.
TOLERANCE, GRADIENT_TOLERANCE = 1e-5, 5e-5


@pytest.fixture(autouse=True)
def tiny_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    set_tiling(monkeypatch)


def set_tiling(monkeypatch: pytest.MonkeyPatch, **changes: int) -> None:
    """The smallest tiles, so that images of a few pixels have several."""
    tiling = Tiling(POSITIONS, SMALLEST, 1, SMALLEST, 1, carry_tiles=2, carry_channels=SMALLEST)
    monkeypatch.setattr(triton_ss2d, "_FEWEST_POSITIONS", POSITIONS)
    monkeypatch.setattr(triton_ss2d, "TILINGS", ((1 << 31, replace(tiling, **changes)),))


def inputs_of(batch: int, height: int, width: int, channels: int, rank: int, state: int) -> list[Tensor]:
    torch.manual_seed(height * width + channels)
    shapes = [
        (batch, height, width, channels),
        (batch, height, width, 4, rank + 2 * state),
        (4, channels, rank),
        (4, channels),
        (4, channels, state),
        (4, channels),
    ]
    tensors = [torch.randn(shape) for shape in shapes]
    tensors[2] *= rank**-0.5
    tensors[3] -= 3.0  # step sizes from a thousandth to a few, so that both memory and forgetting matter
    return [t.to(DEVICE) for t in tensors]


def ss2d(*inputs: Tensor) -> Tensor:
    """The kernels that gradients need; without them others run, see ``interpreted_walk.py``."""
    x = inputs[0] if inputs[0].requires_grad else inputs[0].detach().requires_grad_()
    return triton_ss2d.ss2d(x, *inputs[1:])


def error(got: Tensor, expected: Tensor) -> float:
    assert got.shape == expected.shape
    got, expected = got.detach().double(), expected.detach().double()
    return float((got - expected).abs().max() / expected.abs().max().clamp(min=1e-3))


def compare(inputs: list[Tensor]) -> None:
    """Values with and without gradients, and gradients, against the reference."""
    exact = [t.double().requires_grad_() for t in inputs]
    given = [t.clone().requires_grad_() for t in inputs]
    expected, got = reference.ss2d(*exact), ss2d(*given)
    assert got.dtype == torch.float32
    assert error(got, expected) < TOLERANCE
    weights = torch.randn(expected.shape, dtype=torch.float64).to(DEVICE)
    wanted = torch.autograd.grad((expected * weights).sum(), exact)
    grads = torch.autograd.grad((got * weights.float()).sum(), given)
    for name, tensor, grad, want in zip(NAMES, inputs, grads, wanted, strict=True):
        assert grad.dtype == tensor.dtype
        assert error(grad, want) < (2**-8 if tensor.dtype == torch.bfloat16 else GRADIENT_TOLERANCE), name


@pytest.mark.parametrize(
    ("batch", "height", "width", "channels", "rank", "state"),
    [
        pytest.param(1, 1, 1, 1, 1, 1, id="one pixel, one channel"),
        pytest.param(1, 1, 7, 3, 3, 1, id="one row"),
        pytest.param(1, 6, 1, 11, 3, 1, id="one column, two blocks of channels"),
        pytest.param(3, 2, 3, 5, 4, 1, id="a batch, a block of channels not full"),
        pytest.param(1, 3, 7, 4, 20, 1, id="six tiles, scanned in three steps"),
        pytest.param(1, 2, 3, 5, 5, 2, id="two states"),
        pytest.param(1, 1, 5, 2, 4, 16, id="sixteen states"),
    ],
)
def test_values_and_gradients(
    batch: int, height: int, width: int, channels: int, rank: int, state: int
) -> None:
    compare(inputs_of(batch, height, width, channels, rank, state))


def test_one_tile_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    set_tiling(monkeypatch, positions=16)
    compare(inputs_of(2, 2, 4, 4, 3, 2))


def test_the_sizes_of_a_tile_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = inputs_of(1, 3, 4, 6, 3, 1)
    small = ss2d(*inputs)
    set_tiling(monkeypatch, positions=POSITIONS * 2, channels=SMALLEST * 2)
    assert error(small, ss2d(*inputs)) < 1e-6


def test_half_images_with_parameters_in_float32() -> None:
    inputs = inputs_of(1, 2, 3, 4, 4, 1)
    compare([t.bfloat16() if i < 2 else t for i, t in enumerate(inputs)])


def test_everything_in_half_precision() -> None:
    inputs = [t.half() for t in inputs_of(1, 3, 3, 3, 4, 1)]
    assert error(ss2d(*inputs), reference.ss2d(*(t.double() for t in inputs))) < TOLERANCE


def test_views_are_read_as_they_are() -> None:
    inputs = inputs_of(1, 3, 4, 4, 3, 1)
    turned = [inputs[0].transpose(1, 2), inputs[1].transpose(1, 2), *inputs[2:]]
    assert not turned[0].is_contiguous()
    assert error(ss2d(*turned), reference.ss2d(*(t.double() for t in turned))) < TOLERANCE


def test_tiny_and_huge_step_sizes() -> None:
    inputs = inputs_of(1, 3, 3, 4, 3, 1)
    inputs[3] = torch.linspace(-30, 20, 16, device=DEVICE).view(4, 4)
    compare(inputs)
    inputs[3] = torch.full_like(inputs[3], -14.0)  # where log(1 + exp(.)) in float32 is wrong by percents
    inputs[5] = torch.zeros_like(inputs[5])
    inputs[0] *= 1e6
    assert error(ss2d(*inputs), reference.ss2d(*(t.double() for t in inputs))) < TOLERANCE


def test_an_image_does_not_see_its_neighbours_in_the_batch() -> None:
    inputs = inputs_of(2, 1, 5, 3, 3, 1)
    first = [t[:1] if i < 2 else t for i, t in enumerate(inputs)]
    assert torch.equal(ss2d(*inputs)[:1], ss2d(*first))


def test_mixed_precision_leaves_it_alone() -> None:
    inputs = inputs_of(1, 3, 2, 3, 3, 1)
    outside = ss2d(*inputs)
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        assert torch.equal(ss2d(*inputs), outside)


def test_what_it_cannot_do_is_refused() -> None:
    inputs = inputs_of(1, 2, 2, 3, 3, 1)
    with pytest.raises(BackendError, match=r"float64.*--backend torch"):
        ss2d(*(t.double() for t in inputs))
    inputs[0] = torch.empty(1, 1, 1, 1, device=DEVICE).expand(1, 1 << 16, 1 << 15, 1)
    with pytest.raises(BackendError, match="beyond 32 bits"):
        ss2d(*inputs)


def test_products_keep_all_digits_of_their_factors() -> None:
    half, single = torch.bfloat16, torch.float32
    assert triton_ss2d._precision(single, single) == triton_ss2d._precision(single, half) == "ieee"
    assert triton_ss2d._precision(half, single) == "tf32x3"
    assert triton_ss2d._precision(half, half) == "tf32"


def test_every_length_has_tiles_of_powers_of_two() -> None:
    assert [most for most, _ in TILINGS] == sorted(most for most, _ in TILINGS)
    for _, tiling in TILINGS:
        sizes = vars(tiling).values()
        assert all(size & (size - 1) == 0 for size in sizes)
        assert min(tiling.positions, tiling.channels, tiling.backward_channels) >= 16
