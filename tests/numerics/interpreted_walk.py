"""The fused kernels of VMamba's inference against the reference: on a GPU, or interpreted by Triton."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from climp_bench.models.vmamba import VMamba, VMambaConfig
from climp_bench.ops import pixelwise, reference, ss2d, triton_pixels, triton_ss2d_infer
from climp_bench.ops.dispatch import preferred
from climp_bench.ops.fusing import is_fused
from climp_bench.ops.tolerances import relative_error, tolerance_of
from climp_bench.ops.triton_ss2d_infer import Norm, Shares, infer, share_out

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
INTERPRETED = DEVICE == "cpu"
LIMIT = tolerance_of("ss2d", torch.float32).values


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that images of a few pixels have several; the interpreter takes ten milliseconds a tile."""
    monkeypatch.setattr(triton_ss2d_infer, "SHORTEST_SEGMENT", 1)
    if INTERPRETED:
        monkeypatch.setattr(triton_ss2d_infer, "POSITIONS", 4)
        monkeypatch.setattr(triton_ss2d_infer, "CHANNELS", 8)
        monkeypatch.setattr(triton_pixels, "CONV_COLUMNS", 4)
        monkeypatch.setattr(triton_pixels, "CONV_CHANNELS", 8)
        monkeypatch.setattr(triton_pixels, "NORM_ELEMENTS", 32)


@pytest.fixture(params=[1, 40], ids=["a small GPU", "a large GPU"])
def processors(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Multiprocessors to keep busy: few leave walks whole and side by side, many cut them, axis by axis."""
    monkeypatch.setattr(triton_ss2d_infer, "_processors", lambda device: request.param)
    return int(request.param)


def inputs_of(batch: int, height: int, width: int, channels: int, rank: int) -> tuple[Tensor, ...]:
    torch.manual_seed(height * width + channels)
    shapes = [(batch, height, width, channels), (batch, height, width, 4, rank + 2), (4, channels, rank)]
    tensors = [torch.randn(shape) for shape in (*shapes, (4, channels), (4, channels, 1), (4, channels))]
    tensors[2] *= rank**-0.5
    tensors[3] -= 3.0  # step sizes from a thousandth to a few
    return tuple(t.to(DEVICE) for t in tensors)


def exact(inputs: tuple[Tensor, ...]) -> Tensor:
    return reference.ss2d(*(t.double() for t in inputs))


@pytest.mark.usefixtures("processors")
@pytest.mark.parametrize(
    ("batch", "height", "width", "channels", "rank"),
    [
        pytest.param(1, 1, 1, 1, 1, id="one pixel, one channel"),
        pytest.param(1, 1, 11, 3, 3, id="one row"),
        pytest.param(2, 11, 1, 3, 2, id="one column"),
        pytest.param(2, 3, 5, 9, 4, id="columns shorter than a tile"),
        pytest.param(1, 8, 2, 8, 4, id="columns of whole tiles"),
        pytest.param(1, 7, 4, 8, 20, id="columns across tiles"),
    ],
)
def test_each_image_is_walked_in_four_directions(
    batch: int, height: int, width: int, channels: int, rank: int
) -> None:
    inputs = inputs_of(batch, height, width, channels, rank)
    expected = exact(inputs)
    assert relative_error(infer(inputs, None), expected) < LIMIT
    norm = Norm(torch.randn(channels, device=DEVICE), torch.randn(channels, device=DEVICE), 1e-5)
    normed = F.layer_norm(expected, (channels,), norm.weight.double(), norm.bias.double(), norm.eps)
    if channels > 1:  # of one channel nothing but the bias is left
        assert relative_error(infer(inputs, norm), normed) < 2 * LIMIT


@pytest.mark.usefixtures("processors")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("parameters", ["half", "float32"])
def test_half_precision(dtype: torch.dtype, parameters: str) -> None:
    inputs = inputs_of(2, 3, 6, 8, 4)
    inputs = tuple(t.to(dtype) if i < 2 or parameters == "half" else t for i, t in enumerate(inputs))
    got = infer(inputs, None)
    assert got.dtype == dtype
    allowed = tolerance_of("ss2d", dtype).values
    # The interpreter cuts bfloat16 off, at four times.
    assert relative_error(got, exact(inputs)) < allowed * (2 if INTERPRETED else 1)


def test_tiny_and_huge_step_sizes() -> None:
    inputs = list(inputs_of(1, 3, 3, 4, 3))
    inputs[3] = torch.linspace(-30, 60, 16, device=DEVICE).view(4, 4)
    assert relative_error(infer(tuple(inputs), None), exact(tuple(inputs))) < LIMIT
    half = tuple(t.to(torch.float16) if i < 2 else t for i, t in enumerate(inputs))
    got, expected = infer(half, None), exact(half)
    assert relative_error(got, expected) < tolerance_of("ss2d", torch.float16).values


def test_an_image_does_not_see_its_neighbours_in_the_batch() -> None:
    inputs = inputs_of(2, 1, 5, 3, 3)
    first = tuple(t[:1] if i < 2 else t for i, t in enumerate(inputs))
    assert torch.equal(infer(inputs, None)[:1], infer(first, None))


def test_walks_are_cut_only_where_that_fills_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"POSITIONS": 16, "CHANNELS": 64, "SHORTEST_SEGMENT": 8}.items():
        monkeypatch.setattr(triton_ss2d_infer, name, value)
    assert share_out(256, 56 * 56, 256, 132) == Shares(walks=4, segments=1, tiles=196)
    assert share_out(16, 224 * 224, 256, 132).segments > 1
    assert share_out(1, 224 * 224, 256, 132).walks == 2, "memory counts where the GPU is idle anyway"
    for batch, side, channels in ((1, 224, 256), (3, 31, 512), (16, 7, 2048), (1, 1, 1)):
        shares = share_out(batch, side * side, channels, 132)
        tiles = -(-side * side // triton_ss2d_infer.POSITIONS)
        assert shares.tiles * shares.segments >= tiles > shares.tiles * (shares.segments - 1)


@pytest.mark.parametrize("shape", [(2, 5, 7, 20), (1, 1, 1, 3), (2, 8, 4, 8), (1, 9, 2, 5)])
def test_convolution_and_silu(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, device=DEVICE)
    weight = torch.randn(shape[-1], 1, 3, 3, device=DEVICE)
    convolved = F.conv2d(x.double().permute(0, 3, 1, 2), weight.double(), padding=1, groups=shape[-1])
    assert relative_error(pixelwise.conv_silu(x, weight), F.silu(convolved).permute(0, 2, 3, 1)) < 1e-6


@pytest.mark.parametrize("channels", [3, 8, 20])
def test_addition_and_norm(channels: int) -> None:
    x, branch = (torch.randn(2, 3, channels, device=DEVICE) for _ in range(2))
    norm = torch.nn.LayerNorm(channels, device=DEVICE)
    with torch.no_grad():
        norm.weight.normal_(), norm.bias.normal_()
        want, alone = norm.double()(x.double() + branch.double()), norm(x.double())
        norm.float()
        added = x + branch
        assert relative_error(pixelwise.add_norm_(x, None, norm, torch.float32), alone) < 1e-5
        assert relative_error(pixelwise.add_norm_(x, branch, norm, torch.float32), want) < 1e-5
    assert torch.equal(x, added)


@pytest.fixture
def tower() -> VMamba:
    torch.manual_seed(0)
    return VMamba(VMambaConfig((8, 16), (2, 1))).eval().to(DEVICE)


@pytest.fixture
def fused() -> Iterator[None]:
    with preferred({"ss2d": "triton"}):
        yield


@pytest.mark.usefixtures("fused")
@pytest.mark.parametrize("hidden", [1, 1 << 25], ids=["an MLP pixel by pixel", "an MLP at once"])
def test_a_tower_gives_the_same_features(hidden: int, tower: VMamba, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixelwise, "HIDDEN_BYTES", hidden)
    images = torch.randn(2, 3, 20, 12, device=DEVICE)
    with torch.inference_mode():
        got = tower.forward_features(images)
        with preferred({"ss2d": "torch"}):
            expected = tower.forward_features(images)
    assert relative_error(got, expected) < LIMIT


@pytest.mark.usefixtures("fused")
def test_gradients_go_by_the_formulas(tower: VMamba) -> None:
    images = torch.randn(1, 3, 8, 8, device=DEVICE)
    assert tower(images).requires_grad
    assert is_fused("ss2d", images, []) and not is_fused("ss2d", images, tower.parameters())
    assert not is_fused("ss2d", images.double(), [])
    with preferred({"ss2d": "torch"}):
        assert not is_fused("ss2d", images, [])


@pytest.mark.usefixtures("fused")
def test_several_states_a_channel_are_normed_apart() -> None:
    inputs = list(inputs_of(1, 2, 3, 8, 4))
    inputs[1] = torch.randn(1, 2, 3, 4, 4 + 4, device=DEVICE)
    inputs[4] = torch.randn(4, 8, 2, device=DEVICE)
    norm = torch.nn.LayerNorm(8, device=DEVICE)
    with torch.no_grad():
        got = pixelwise.ss2d_norm(*inputs, norm)
        expected = norm(ss2d(*inputs, backend="reference"))
    assert relative_error(got, expected) < 2 * LIMIT
