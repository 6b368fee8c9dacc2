"""The VMamba tower against a plain channels-first float64 model written from the equations."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from climp_bench.models.vmamba import (
    VMAMBA_BASE,
    VMAMBA_BASE_S1,
    VMAMBA_SMALL,
    VMAMBA_TINY,
    VMamba,
    VMambaConfig,
)

Weights = dict[str, Tensor]


def norm(x: Tensor, w: Weights, name: str) -> Tensor:
    """LayerNorm over the channels of (B, C, H, W), eps 1e-5."""
    centred = x - x.mean(1, keepdim=True)
    scaled = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()
    return scaled * w[name + ".weight"][:, None, None] + w[name + ".bias"][:, None, None]


def pointwise(x: Tensor, weight: Tensor) -> Tensor:
    return torch.einsum("oc,bchw->bohw", weight.flatten(1), x)


def ss2d(x: Tensor, w: Weights, name: str) -> Tensor:
    """Four explicit sequences, projected and scanned one after the other, put back and summed."""
    batch, channels, height, width = x.shape
    rank = w[name + "dt_projs_weight"].shape[-1]
    state = w[name + "A_logs"].shape[-1]
    A = -w[name + "A_logs"].exp().view(4, channels, state)
    D = w[name + "Ds"].view(4, channels)
    rows, columns = x.flatten(2), x.transpose(2, 3).flatten(2)
    outputs = []
    for k, sequence in enumerate((rows, columns, rows.flip(-1), columns.flip(-1))):
        low, B, C = (w[name + "x_proj_weight"][k] @ sequence).split([rank, state, state], dim=1)
        bias = w[name + "dt_projs_bias"][k][:, None]
        delta = torch.log1p(torch.exp(w[name + "dt_projs_weight"][k] @ low + bias))
        h = x.new_zeros(batch, channels, state)
        y = torch.empty_like(sequence)
        for t in range(height * width):
            step = delta[:, :, t, None]
            h = torch.exp(step * A[k]) * h + step * B[:, None, :, t] * sequence[:, :, t, None]
            y[:, :, t] = (h * C[:, None, :, t]).sum(-1) + D[k] * sequence[:, :, t]
        outputs.append(y)
    by_row = (outputs[0] + outputs[2].flip(-1)).view(batch, channels, height, width)
    by_column = (outputs[1] + outputs[3].flip(-1)).view(batch, channels, width, height)
    return by_row + by_column.transpose(2, 3)


def block(x: Tensor, w: Weights, name: str) -> Tensor:
    u = pointwise(norm(x, w, name + "norm"), w[name + "op.in_proj.weight"])
    u = F.conv2d(u, w[name + "op.conv2d.weight"], padding=1, groups=u.shape[1])
    y = norm(ss2d(u * torch.sigmoid(u), w, name + "op."), w, name + "op.out_norm")
    x = x + pointwise(y, w[name + "op.out_proj.weight"])
    hidden = norm(x, w, name + "norm2")
    for layer in ("mlp.fc1", "mlp.fc2"):
        hidden = pointwise(hidden, w[name + layer + ".weight"]) + w[name + layer + ".bias"][:, None, None]
        hidden = F.gelu(hidden) if layer == "mlp.fc1" else hidden
    return x + hidden


def strided(x: Tensor, w: Weights, name: str) -> Tensor:
    return F.conv2d(x, w[name + ".weight"], w[name + ".bias"], stride=2, padding=1)


def tower(images: Tensor, weights: Weights, depths: tuple[int, ...]) -> Tensor:
    w = {name: t.double() for name, t in weights.items()}
    x = F.gelu(norm(strided(images.double(), w, "patch_embed.0"), w, "patch_embed.2"))
    x = norm(strided(x, w, "patch_embed.5"), w, "patch_embed.7")
    for i, depth in enumerate(depths):
        for j in range(depth):
            x = block(x, w, f"layers.{i}.blocks.{j}.")
        if i < len(depths) - 1:
            x = norm(strided(x, w, f"layers.{i}.downsample.1"), w, f"layers.{i}.downsample.3")
    return norm(x, w, "classifier.norm")


def random_tower(config: VMambaConfig) -> VMamba:
    torch.manual_seed(0)
    model = VMamba(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def relative(got: Tensor, expected: Tensor) -> float:
    got, expected = got.detach().double(), expected.detach().double()
    return float((got - expected).norm() / expected.norm())


@pytest.mark.parametrize(
    ("ratio", "state", "size"), [(2.0, 1, (64, 64)), (1.0, 1, (33, 50)), (2.0, 3, (20, 7)), (1.0, 1, (1, 1))]
)
def test_features_and_gradients_are_those_of_the_equations(
    ratio: float, state: int, size: tuple[int, int]
) -> None:
    config = VMambaConfig((16, 24, 32), (1, 2, 1), ssm_ratio=ratio, d_state=state)
    model = random_tower(config)
    images = torch.randn(2, 3, *size)
    weights = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    expected = tower(images, weights, config.depths)
    got = model.forward_features(images)
    assert relative(got, expected.permute(0, 2, 3, 1)) < 1e-5
    pooled = model(images)
    assert pooled.shape == (2, model.out_dim)
    assert relative(pooled, expected.mean((2, 3))) < 1e-5

    probe = torch.randn(2, model.out_dim)
    (pooled * probe).sum().backward()
    (expected.mean((2, 3)) * probe).sum().backward()
    for name, parameter in model.named_parameters():
        floor = 1e-6 * weights[name].grad.numel() ** 0.5  # one pixel: step sizes have no one to tell
        wanted = weights[name].grad
        assert (parameter.grad - wanted).norm() < max(1e-4 * wanted.norm(), floor), name


@pytest.mark.parametrize("size", [(112, 160), (160, 48)])
def test_four_stages_on_an_oblong_image(size: tuple[int, int]) -> None:
    config = VMambaConfig((8, 12, 16, 24), (1, 1, 2, 1), ssm_ratio=1.0)
    model = random_tower(config).eval()
    images = torch.randn(1, 3, *size)
    with torch.no_grad():
        expected = tower(images, model.state_dict(), config.depths)
        assert relative(model.forward_features(images), expected.permute(0, 2, 3, 1)) < 1e-5


def test_the_features_are_laid_out_as_the_pixels() -> None:
    model = random_tower(VMambaConfig((16, 24, 32, 40), (1, 1, 1, 1))).eval()
    with torch.no_grad():
        assert model.forward_features(torch.randn(1, 3, 65, 96)).shape == (1, 3, 3, 40)


@pytest.mark.parametrize(
    ("config", "parameters", "tensors"),
    [
        pytest.param(VMAMBA_TINY, 29_480_064, 274, id="tiny"),
        pytest.param(VMAMBA_SMALL, 49_378_752, 400, id="small"),
        pytest.param(VMAMBA_BASE, 87_532_800, 400, id="base"),
        pytest.param(VMAMBA_BASE_S1, 85_589_504, 490, id="base-s1"),
    ],
)
def test_published_sizes(config: VMambaConfig, parameters: int, tensors: int) -> None:
    with torch.device("meta"):
        weights = VMamba(config).state_dict()
    assert (sum(t.numel() for t in weights.values()), len(weights)) == (parameters, tensors)


def test_names_and_shapes_are_those_of_the_release() -> None:
    with torch.device("meta"):
        shapes = {name: tuple(t.shape) for name, t in VMamba(VMAMBA_BASE).state_dict().items()}
    expected = {
        "patch_embed.0.weight": (64, 3, 3, 3),
        "patch_embed.2.weight": (64,),
        "patch_embed.5.weight": (128, 64, 3, 3),
        "patch_embed.7.bias": (128,),
        "layers.0.blocks.0.norm.weight": (128,),
        "layers.0.blocks.0.op.in_proj.weight": (256, 128),
        "layers.0.blocks.0.op.conv2d.weight": (256, 1, 3, 3),
        "layers.0.blocks.0.op.x_proj_weight": (4, 10, 256),
        "layers.0.blocks.0.op.dt_projs_weight": (4, 256, 8),
        "layers.0.blocks.0.op.dt_projs_bias": (4, 256),
        "layers.0.blocks.0.op.A_logs": (1024, 1),
        "layers.0.blocks.0.op.Ds": (1024,),
        "layers.0.blocks.0.op.out_norm.bias": (256,),
        "layers.0.blocks.0.op.out_proj.weight": (128, 256),
        "layers.0.blocks.0.norm2.weight": (128,),
        "layers.0.blocks.0.mlp.fc1.weight": (512, 128),
        "layers.0.blocks.0.mlp.fc2.bias": (128,),
        "layers.0.downsample.1.weight": (256, 128, 3, 3),
        "layers.0.downsample.3.bias": (256,),
        "layers.3.blocks.1.op.x_proj_weight": (4, 66, 2048),
        "classifier.norm.weight": (1024,),
    }
    assert {name: shapes.get(name) for name in expected} == expected
    assert not [name for name in shapes if "conv2d.bias" in name or name.startswith("layers.3.downsample")]


def test_weights_stored_as_1x1_convolutions_load() -> None:
    config = VMambaConfig((16, 32), (1, 1))
    source, target = random_tower(config), VMamba(config)
    projections = ("in_proj.weight", "out_proj.weight", "fc1.weight", "fc2.weight")
    stored = {
        name: t[:, :, None, None] if name.endswith(projections) else t
        for name, t in source.state_dict().items()
    }
    target.load_state_dict(stored, strict=True)
    assert stored["layers.0.blocks.0.op.in_proj.weight"].dim() == 4
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))
    stored["layers.0.blocks.0.op.in_proj.weight"] = torch.zeros(32, 16, 3, 3)
    with pytest.raises(RuntimeError, match="size mismatch"):
        target.load_state_dict(stored)


@pytest.mark.parametrize(("dtype", "limit"), [(torch.bfloat16, 0.03), (torch.float16, 0.004)])
def test_mixed_precision_stays_near_float32(dtype: torch.dtype, limit: float) -> None:
    torch.manual_seed(0)
    model, images = VMamba(VMambaConfig((32, 48), (2, 2))).eval(), torch.randn(2, 3, 32, 48)
    with torch.no_grad():
        exact = model(images)
        with torch.autocast("cpu", dtype=dtype):
            mixed = model(images)
        half = model.to(dtype)(images.to(dtype))
    assert relative(mixed, exact) < limit
    assert half.dtype == dtype
    assert relative(half, exact) < 2 * limit


@torch.no_grad()
def test_initialisation_schemes() -> None:
    torch.manual_seed(0)
    v2 = VMamba(VMambaConfig((64,), (1,), d_state=4)).layers[0].blocks[0].op
    assert not v2.A_logs.any()
    assert torch.equal(v2.Ds, torch.ones(512))
    for parameter in (v2.dt_projs_weight, v2.dt_projs_bias):
        assert 0 <= parameter.min() < 0.01 and 0.09 < parameter.max() <= 0.1
    assert v2.in_proj.weight.std() == pytest.approx(0.02, rel=0.05)
    v0 = VMamba(VMambaConfig((64,), (1,), d_state=4, dt_init="v0")).layers[0].blocks[0].op
    assert torch.allclose(v0.A_logs.exp(), torch.arange(1.0, 5).expand(512, 4))
    step = F.softplus(v0.dt_projs_bias)
    assert step.min() >= 1e-3 * 0.999 and step.max() <= 1e-1 * 1.001


def test_drop_path_grows_with_depth_drops_whole_samples_and_keeps_the_mean() -> None:
    model = VMamba(VMambaConfig((16, 32), (2, 1), drop_path=0.5))
    blocks = [block for stage in model.layers for block in stage.blocks]
    assert [block.drop_path.rate for block in blocks] == [0, 0.25, 0.5]
    torch.manual_seed(0)
    x = torch.ones(2000, 2, 3, 4)
    dropped = blocks[1].drop_path(x)
    factors = dropped[:, 0, 0, 0]
    assert torch.equal(dropped, x * factors[:, None, None, None])
    assert set(factors.tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert factors.mean() == pytest.approx(1, abs=0.05)
    assert blocks[1].drop_path.eval()(x) is x


def test_stages_must_match() -> None:
    with pytest.raises(ValueError, match="one entry a stage"):
        VMambaConfig((16, 32), (1,))
