"""The ViT towers: against timm's own models of that name, and by the properties their papers claim."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers.patch_embed import resample_patch_embed
from torch import Tensor
from torch.nn import functional as F

from climp_bench.errors import UsageError
from climp_bench.models.vit import (
    FlexiVit,
    FlexiVitConfig,
    NaFlexVit,
    NaFlexVitConfig,
    RopeVit,
    RopeVitConfig,
    on_device,
    pack_images,
)

SHAPE: dict[str, Any] = {"embed_dim": 24, "depth": 2, "num_heads": 2, "patch_size": 8}
TIMM_MODELS: dict[str, Callable[[], Any]] = {
    "vit_small_patch16_rope_224": lambda: RopeVit(RopeVitConfig(24, 2, 2, 8, img_size=32)),
    "vit_small_patch16_rope_mixed_224": lambda: RopeVit(
        RopeVitConfig(24, 2, 2, 8, img_size=32, rope="mixed")
    ),
    "flexivit_small": lambda: FlexiVit(FlexiVitConfig(24, 2, 2, 8, img_size=32)),
    "naflexvit_base_patch16_gap": lambda: NaFlexVit(NaFlexVitConfig(24, 2, 2, 8, img_size=32)),
}


def rope() -> Any:
    return seeded(RopeVit, RopeVitConfig(24, 2, 2, 8, img_size=32, layer_scale=None))


def flexi() -> Any:
    return seeded(FlexiVit, FlexiVitConfig(24, 2, 2, 8, img_size=32, patch_sizes=(4, 8, 16)))


def naflex() -> Any:
    return seeded(NaFlexVit, NaFlexVitConfig(24, 2, 2, 8, img_size=32, layer_scale=None))


def seeded(tower: type, config: object) -> Any:
    torch.manual_seed(0)
    return tower(config).eval()


def images(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", TIMM_MODELS)
@pytest.mark.parametrize("size", [(32, 32), (48, 24)])
def test_the_tower_is_timms_model_of_that_name(name: str, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    tower = TIMM_MODELS[name]().eval()
    flags: dict[str, Any] = (
        {"pos_embed_grid_size": (4, 4)}
        if name.startswith("naflex")
        else {"img_size": 32, "dynamic_img_size": True}
    )
    reference = timm.create_model(name, num_classes=0, **SHAPE, **flags).eval()
    state = {key: torch.randn(value.shape) * 0.2 for key, value in reference.state_dict().items()}
    reference.load_state_dict(state)
    tower.trunk.load_state_dict(state)
    x = images(2, 3, *size)
    torch.testing.assert_close(tower(x), reference(x))


@pytest.mark.parametrize("make", [rope, flexi, naflex])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (32, 32), (24, 40), (64, 16)])
def test_any_size_that_the_patch_divides(make: Callable[[], Any], height: int, width: int) -> None:
    tower = make()
    x = images(2, 3, height, width)
    assert tower(x).shape == (2, tower.out_dim)
    assert tower.forward_features(x).shape == (2, height // 8, width // 8, 24)


@pytest.mark.parametrize("make", [rope, flexi, naflex])
@pytest.mark.parametrize("method", ["forward", "forward_features"])
@pytest.mark.parametrize("size", [(30, 32), (32, 36), (4, 8)])
def test_other_sizes_are_refused(make: Callable[[], Any], method: str, size: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match=rf"patch of 8 .* {size[0]}x{size[1]}.*multiples of 8"):
        getattr(make(), method)(images(1, 3, *size))


@pytest.mark.parametrize(
    "tower",
    [RopeVit(RopeVitConfig(24, 0, 2, 8, 32)), FlexiVit(FlexiVitConfig(24, 0, 2, 8, 32))],
    ids=["rope", "flexi"],
)
def test_the_feature_map_keeps_places(tower: Any) -> None:
    """Without blocks, a patch's feature depends on that patch alone."""
    x = images(1, 3, 24, 40)
    changed = x.clone()
    changed[:, :, 8:16, 24:32] += 1
    difference = (tower.forward_features(changed) - tower.forward_features(x)).abs().sum((0, 3))
    assert difference.nonzero().tolist() == [[1, 3]]


def test_naflex_output_is_the_norm_of_the_mean_patch_and_its_map_the_norm_of_each() -> None:
    tower = naflex()
    x = images(2, 3, 24, 40)
    patches = tower.trunk.forward_features(x)[:, tower.trunk.num_prefix_tokens :]

    def normed(features: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(features, (24,), eps=tower.trunk.fc_norm.eps)

    torch.testing.assert_close(tower(x), normed(patches.mean(1)))
    torch.testing.assert_close(tower.forward_features(x), normed(patches).reshape(2, 3, 5, 24))


@pytest.mark.parametrize("patch", [12, 16])
def test_enlarged_patches_give_the_same_output(patch: int) -> None:
    """Beyer et al. 2023, section 3.4: the pseudo-inverse undoes an enlargement of the patch exactly."""
    tower = flexi()
    small = images(2, 3, 32, 24)
    patches = small.reshape(2, 3, 4, 8, 3, 8).permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
    enlarged = F.interpolate(patches, size=(patch, patch), mode="bicubic", antialias=True)
    large = enlarged.reshape(2, 4, 3, 3, patch, patch).permute(0, 3, 1, 4, 2, 5)
    large = large.reshape(2, 3, 4 * patch, 3 * patch)
    torch.testing.assert_close(tower(large, patch_size=patch), tower(small), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        tower.forward_features(large, patch), tower.forward_features(small), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("patch", [4, 8, 16])
def test_every_patch_size_trains_the_stored_weights(patch: int) -> None:
    tower = flexi()
    x = images(1, 3, 32, 32)
    with torch.inference_mode():
        tower(x, patch_size=patch)  # fills the cache of matrices
    assert tower.forward_features(x, patch).shape == (1, 32 // patch, 32 // patch, 24)
    tower(x, patch_size=patch).square().sum().backward()
    gradient = tower.trunk.patch_embed.proj.weight.grad
    assert gradient is not None
    assert float(gradient.abs().sum()) > 0


@pytest.mark.parametrize("patch", [4, 12, 16])
def test_another_patch_size_is_timms_resampling_of_the_weights(patch: int) -> None:
    tower = flexi()
    resampled = seeded(FlexiVit, FlexiVitConfig(24, 2, 2, patch, img_size=4 * patch))
    state = tower.state_dict()
    kernel = "trunk.patch_embed.proj.weight"
    state[kernel] = resample_patch_embed(state[kernel], [patch, patch])
    resampled.load_state_dict(state)
    x = images(2, 3, 4 * patch, 3 * patch)
    torch.testing.assert_close(tower(x, patch_size=patch), resampled(x), atol=1e-5, rtol=1e-4)


def test_the_patch_size_must_divide_and_be_positive() -> None:
    tower = flexi()
    for patch in (0, -8, 12):
        with pytest.raises(UsageError, match="does not divide"):
            tower(images(1, 3, 32, 32), patch_size=patch)


def test_flexi_stores_no_matrices() -> None:
    tower = flexi()
    before = set(tower.state_dict())
    tower(images(1, 3, 32, 32), patch_size=4)
    assert set(tower.state_dict()) == before
    assert all(key.startswith("trunk.") for key in before)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=4), st.integers(0, 99))
def test_packing_does_not_change_an_embedding(grids: list[tuple[int, int]], seed: int) -> None:
    tower = naflex()
    batch = [images(3, 8 * h, 8 * w, seed=seed + i) for i, (h, w) in enumerate(grids)]
    with torch.no_grad():
        alone = torch.cat([tower(image[None]) for image in batch])
        packed = tower(pack_images(batch, 8))
    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=1e-4)


def test_padding_neither_shows_nor_learns() -> None:
    tower = naflex()
    packed = pack_images([images(3, 16, 16), images(3, 24, 32)], 8)
    packed["patches"].requires_grad_()
    before = tower(packed)
    before.square().sum().backward()
    gradient, valid = packed["patches"].grad, packed["patch_valid"]
    assert gradient is not None and not gradient[~valid].any()
    assert gradient[valid].abs().sum(-1).all()
    noisy = packed["patches"].detach() + 9 * (~valid)[..., None]
    torch.testing.assert_close(tower({**packed, "patches": noisy}), before, rtol=0, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=4),
    st.sampled_from([1, 4, 8]),
)
def test_packing_keeps_every_pixel(grids: list[tuple[int, int]], patch: int) -> None:
    batch = [images(3, patch * h, patch * w, seed=i) for i, (h, w) in enumerate(grids)]
    packed = pack_images(batch, patch)
    longest = max(h * w for h, w in grids)
    assert packed["patches"].shape == (len(batch), longest, 3 * patch * patch)
    assert packed["patch_valid"].sum(1).tolist() == [h * w for h, w in grids]
    assert packed["patch_valid"].dtype == torch.bool
    for i, image in enumerate(batch):
        rebuilt = torch.zeros_like(image)
        for cell, (y, x) in zip(packed["patches"][i], packed["patch_coord"][i].tolist(), strict=True):
            if (y, x) != (0, 0) or not rebuilt[:, :patch, :patch].any():
                block = cell.reshape(patch, patch, 3).permute(2, 0, 1)
                rebuilt[:, y * patch : (y + 1) * patch, x * patch : (x + 1) * patch] = block
        assert torch.equal(rebuilt, image)


@pytest.mark.parametrize("make", [rope, flexi, naflex])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_stays_close_to_float32(make: Callable[[], Any], dtype: torch.dtype) -> None:
    tower = make()
    x = images(2, 3, 32, 48)
    expected = tower(x)
    with torch.autocast("cpu", dtype=dtype):
        torch.testing.assert_close(tower(x).float(), expected, atol=0.06, rtol=0.06)


def test_autocast_takes_packed_images_and_any_patch_size() -> None:
    x = images(2, 3, 32, 48)
    batch = [x[0], x[1, :, :16]]
    packing, flexible = naflex(), flexi()
    packed, large = packing(pack_images(batch, 8)), flexible(x, patch_size=16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(packing(pack_images(batch, 8)).float(), packed, atol=0.06, rtol=0.06)
        torch.testing.assert_close(flexible(x, patch_size=16).float(), large, atol=0.06, rtol=0.06)


@pytest.mark.parametrize("make", [rope, flexi, naflex])
def test_training_goes_on_after_inference(make: Callable[[], Any]) -> None:
    tower = make()
    x = images(1, 3, 24, 40)
    with torch.inference_mode():
        tower(x)
    parameters = [p for p in tower.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(tower(x).square().sum(), parameters, allow_unused=True)
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


def test_packing_errors() -> None:
    with pytest.raises(UsageError, match="no images to pack"):
        pack_images([], 8)
    with pytest.raises(UsageError, match="patch of 8 pixels does not divide an image of 16x20"):
        pack_images([images(3, 16, 20)], 8)
    packed = pack_images([images(3, 16, 16)], 8)
    del packed["patch_valid"]
    with pytest.raises(UsageError, match=r"lacks patch_valid.*pack_images"):
        naflex()(packed)


def test_packed_images_go_to_a_device_without_what_is_read_one_by_one() -> None:
    packed = pack_images([torch.randn(3, 16, 32), torch.randn(3, 8, 8)], 8)
    moved = on_device(packed, "meta")
    assert isinstance(moved, dict)
    assert {name: str(tensor.device) for name, tensor in moved.items()} == {
        "patches": "meta", "patch_coord": "cpu", "patch_valid": "meta",
    }  # fmt: skip
    assert on_device(torch.ones(2, 3), "meta").device.type == "meta"
