"""The models of the papers' sizes: published counts and layouts, and the same towers as others built them.

Widths are the catalogue's own everywhere. Depth or vocabulary is cut where a full one would only take longer.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.data.naflex_transforms import patchify_image
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel, Mamba2Config, Mamba2Model, MambaConfig, MambaModel

from climp_bench.embed import batches, extract
from climp_bench.models.adapters import CatalogueEncoder
from climp_bench.models.catalogue import MODELS, build, build_tower, describe, find
from climp_bench.models.vit import pack_images
from climp_bench.models.weights import resolve
from climp_bench.models.zoo import paper_models
from climp_bench.specs import HALF, IMAGENET_MEAN, IMAGENET_STD

Shapes = dict[str, tuple[int, ...]]
PAPER = list(paper_models())
SQUASHED = ("climp-m1", "climp-m2", "climp-llama", "rope-vit", "rope-vit-mixed", "rope-vit-m1", "rope-vit-m2")

PUBLISHED_MAMBA1 = {
    "vocab_size": 50280,
    "hidden_size": 2048,
    "num_hidden_layers": 48,
    "state_size": 16,
    "expand": 2,
    "conv_kernel": 4,
    "time_step_rank": 128,
    "layer_norm_epsilon": 1e-5,
    "use_cache": False,
}
"""From the config.json of state-spaces/mamba-1.4b-hf."""

PUBLISHED_MAMBA2 = {
    "vocab_size": 50288,
    "hidden_size": 2048,
    "num_hidden_layers": 48,
    "state_size": 128,
    "num_heads": 64,
    "head_dim": 64,
    "n_groups": 1,
    "expand": 2,
    "conv_kernel": 4,
    "layer_norm_epsilon": 1e-5,
    "use_cache": False,
    "chunk_size": 8,  # 256 in the file: it does not change the result, only transformers' memory
}
"""From the config.json of AntonV/mamba2-1.3b-hf."""

PUBLISHED_LLAMA = {
    "vocab_size": 128_256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "max_position_embeddings": 131_072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500_000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "use_cache": False,
}
"""From the config.json of meta-llama/Llama-3.2-1B."""

TEXT_TOWERS = {
    "climp-m1": lambda **cut: MambaModel(MambaConfig(**{**PUBLISHED_MAMBA1, **cut})),
    "climp-m2": lambda **cut: Mamba2Model(Mamba2Config(**{**PUBLISHED_MAMBA2, **cut})),
    "climp-llama": lambda **cut: LlamaModel(LlamaConfig(**{**PUBLISHED_LLAMA, **cut})),
}
"""transformers' own text tower by the family that has it."""

VIT_S = {"embed_dim": 384, "num_heads": 6}
ANY_SIZE = {"dynamic_img_size": True}
TIMM: dict[str, tuple[str, dict[str, Any]]] = {
    "rope-vit@small": ("vit_small_patch16_rope_224", ANY_SIZE),
    "rope-vit@base": ("vit_base_patch16_rope_224", ANY_SIZE),
    "rope-vit-mixed@small": ("vit_small_patch16_rope_mixed_224", ANY_SIZE),
    "rope-vit-mixed@base": ("vit_base_patch16_rope_mixed_224", ANY_SIZE),
    "flexivit@small": ("flexivit_small", ANY_SIZE),
    "flexivit@base": ("flexivit_base", ANY_SIZE),
    "naflexvit@small": ("naflexvit_base_patch16_gap", VIT_S),
    "naflexvit@base": ("naflexvit_base_patch16_gap", {}),
}
"""timm's name of an image tower and what to ask for: any size, and the width of ViT-S where timm has none."""


def timm_model(name: str, **cut: Any) -> nn.Module:
    model, options = TIMM[name]
    return timm.create_model(model, pretrained=False, num_classes=0, **options, **cut)


def timm_pair(name: str, **cut: Any) -> tuple[Any, nn.Module]:
    """The catalogue's tower and timm's, with the same weights, of which none hides a part of the network."""
    torch.manual_seed(0)
    theirs = timm_model(name, **cut).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.dim() == 1:  # LayerScale begins at 1e-5, norms at 1, biases at 0
                parameter.copy_(torch.randn_like(parameter) * 0.3)
    ours: Any = build_tower(replace(find(name).image, **cut)).eval()
    ours.trunk.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


def shapes(module: nn.Module) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def relative(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).detach().norm() / expected.detach().norm())


def test_the_families_and_their_scales() -> None:
    scales: dict[str, list[str]] = {}
    for spec in PAPER:
        scales.setdefault(spec.family, []).append(spec.scale)
        assert MODELS.get(spec.name) == spec and spec.embed_dim == 768
    vmamba, vit = ["tiny", "small", "base-s1l20", "base"], ["small", "base"]
    expected = dict.fromkeys(("climp-m1", "climp-m2", "climp-llama"), vmamba)
    for family in ("rope-vit", "rope-vit-mixed", "rope-vit-m1", "rope-vit-m2", "flexivit", "naflexvit"):
        expected[family] = vit
    assert scales == expected


@pytest.mark.parametrize("spec", PAPER, ids=lambda spec: spec.name)
def test_input_is_that_of_its_image_tower(spec: Any) -> None:
    got = spec.preprocess
    normalised = (IMAGENET_MEAN, IMAGENET_STD) if spec.family in SQUASHED else (HALF, HALF)
    shaped = ("native", 16) if spec.family == "naflexvit" else ("squash", 1)
    assert (got.mean, got.std) == normalised
    assert (got.mode, got.multiple) == shaped
    assert (got.size, got.interpolation) == ((224, 224), "bilinear")
    if spec.image.__class__.__name__ != "VMambaConfig":
        pretrained = timm.models.get_pretrained_cfg(TIMM[image_name(spec)][0])
        assert (got.mean, got.std) == (pretrained.mean, pretrained.std)


def image_name(spec: Any) -> str:
    """The entry of ``TIMM`` for the image tower of ``spec``."""
    return f"{spec.family.removesuffix('-m1').removesuffix('-m2')}@{spec.scale}"


@pytest.mark.parametrize("name", TIMM)
def test_initial_weights_are_those_of_the_tower(name: str) -> None:
    """The repository named is timm's default one for the model; a width that timm lacks has none."""
    source = find(name).origin.image
    if name == "naflexvit@small":
        assert source is None
        return
    pretrained = timm.models.get_pretrained_cfg(TIMM[name][0])
    assert source is not None
    assert (source.repo, source.licence.lower()) == (pretrained.hf_hub_id, pretrained.license)


def test_where_the_authors_publish() -> None:
    assert {spec.name: spec.origin.weights.repo for spec in PAPER if spec.origin.weights} == {
        "climp-m1@base": "NimrodShabtay1986/CLIMP-Mamba1",
        "climp-m2@base": "NimrodShabtay1986/CLIMP-Mamba2",
    }
    gated = {spec.origin.text.repo for spec in PAPER if spec.origin.text and spec.origin.text.gated}
    assert gated == {"meta-llama/Llama-3.2-1B"}
    for spec in PAPER:
        text, tokenizer = spec.origin.text, spec.origin.tokenizer
        assert text is not None and tokenizer == replace(text, filename="tokenizer.json")


@pytest.mark.parametrize(
    ("name", "image", "text"),
    [
        ("climp-m1@tiny", 29_480_064, 1_372_178_432),
        ("climp-m1@small", 49_378_752, 1_372_178_432),
        ("climp-m2@base-s1l20", 85_589_504, 1_343_757_312),
        ("climp-m2@base", 87_532_800, 1_343_757_312),
        ("rope-vit@base", 85_665_792, 1_235_814_400),
        ("rope-vit-mixed@base", 85_675_008, 1_235_814_400),
        ("flexivit@base", 85_820_160, 1_235_814_400),
        ("naflexvit@base", 85_864_704, 1_235_814_400),
    ],
)
def test_published_sizes(name: str, image: int, text: int) -> None:
    """Without classifier and with the language-model head tied, as the papers' releases count."""
    size = describe(find(name))
    assert (size.image, size.text) == (image, text)
    assert size.image + size.text < size.total < size.image + size.text + 3_000_000


def released_vmamba() -> Shapes:
    """The 400 tensors of VMamba-B (s2l15) without its classification head, by the names of the release."""
    dims, depths = (128, 256, 512, 1024), (2, 2, 15, 2)
    found: Shapes = {
        "patch_embed.0.weight": (64, 3, 3, 3),
        "patch_embed.0.bias": (64,),
        "patch_embed.5.weight": (128, 64, 3, 3),
        "patch_embed.5.bias": (128,),
    }
    norms = {"patch_embed.2": 64, "patch_embed.7": 128, "classifier.norm": 1024}
    for i, (c, depth) in enumerate(zip(dims, depths, strict=True)):
        inner, rank = 2 * c, c // 16
        for j in range(depth):
            block = f"layers.{i}.blocks.{j}."
            norms |= {block + "norm": c, block + "norm2": c, block + "op.out_norm": inner}
            found |= {
                block + "op.in_proj.weight": (inner, c),
                block + "op.conv2d.weight": (inner, 1, 3, 3),
                block + "op.x_proj_weight": (4, rank + 2, inner),
                block + "op.dt_projs_weight": (4, inner, rank),
                block + "op.dt_projs_bias": (4, inner),
                block + "op.A_logs": (4 * inner, 1),
                block + "op.Ds": (4 * inner,),
                block + "op.out_proj.weight": (c, inner),
                block + "mlp.fc1.weight": (4 * c, c),
                block + "mlp.fc1.bias": (4 * c,),
                block + "mlp.fc2.weight": (c, 4 * c),
                block + "mlp.fc2.bias": (c,),
            }
        if i < 3:
            found[f"layers.{i}.downsample.1.weight"] = (2 * c, c, 3, 3)
            found[f"layers.{i}.downsample.1.bias"] = (2 * c,)
            norms[f"layers.{i}.downsample.3"] = 2 * c
    for name, width in norms.items():
        found |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    assert len(found) == 400
    return found


@pytest.mark.parametrize("family", ["climp-m1", "climp-m2"])
def test_the_layout_of_the_release(family: str) -> None:
    """Every key and shape of the authors' state dict: two towers, two projections, the logit scale."""
    with torch.device("meta"):
        got, text = shapes(build(find(family, "base"))), shapes(TEXT_TOWERS[family]())
    expected = {f"vision_encoder.{name}": shape for name, shape in released_vmamba().items()}
    expected |= {f"text_encoder.{name}": shape for name, shape in text.items()}
    expected |= {"vision_projection.weight": (768, 1024), "vision_projection.bias": (768,)}
    expected |= {"text_projection.weight": (768, 2048), "text_projection.bias": (768,)}
    expected["logit_scale"] = ()
    assert got == expected


@pytest.mark.parametrize("name", TIMM)
def test_the_image_tower_is_laid_out_as_timms(name: str) -> None:
    with torch.device("meta"):
        ours: Any = build_tower(find(name).image)
        assert shapes(ours.trunk) == shapes(timm_model(name))


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in TIMM if name.endswith("@small")])
def test_the_image_tower_computes_what_timms_does(name: str) -> None:
    ours, theirs = timm_pair(name)
    x = images(1, 3, 224, 224)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in TIMM if name.endswith("@base")])
def test_the_widest_image_tower_too(name: str) -> None:
    ours, theirs = timm_pair(name, depth=2)
    x = images(2, 3, 224, 224)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in TIMM if name.endswith("@small")])
def test_one_set_of_weights_serves_224_to_896_pixels(name: str) -> None:
    ours, theirs = timm_pair(name, depth=1)
    for size in ((224, 320), (384, 384), (512, 240)):
        x = images(1, 3, *size)
        torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)
    x = images(1, 3, 896, 896)
    map_BhwD, tokens_BND = ours.forward_features(x), theirs.forward_features(x)
    assert map_BhwD.shape == (1, 56, 56, 384)
    expected = theirs.fc_norm(tokens_BND[:, -56 * 56 :])  # after pooling in NaFlexViT, nothing in the others
    torch.testing.assert_close(map_BhwD.flatten(1, 2), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_vmamba_serves_896_pixels() -> None:
    torch.manual_seed(0)
    tower: Any = build_tower(replace(find("climp-m1@tiny").image, depths=(1, 1, 1, 1))).eval()
    features = tower.forward_features(images(1, 3, 896, 896))
    assert features.shape == (1, 28, 28, 768) and features.isfinite().all()


@torch.no_grad()
def test_flexivit_draws_patches_that_fit_224_pixels() -> None:
    spec = find("flexivit@small")
    tower: Any = build_tower(replace(spec.image, depth=1)).eval()
    sides = {patch: tower.forward_features(images(1, 3, 224, 224), patch) for patch in spec.image.patch_sizes}
    expected = {patch: (1, 224 // patch, 224 // patch, 384) for patch in (8, 14, 16, 28, 32)}
    assert {patch: tuple(features.shape) for patch, features in sides.items()} == expected


@torch.no_grad()
def test_naflexvit_packs_images_as_timm_does() -> None:
    """A padded batch of three sizes gives what timm makes of each image alone."""
    ours, theirs = timm_pair("naflexvit@small", depth=3)
    batch = [images(3, *size) for size in ((224, 224), (160, 304), (96, 480))]
    packed = pack_images(batch, 16)
    alone = torch.cat([theirs(image[None]) for image in batch])
    torch.testing.assert_close(ours(packed), alone, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ours(packed), theirs(packed))
    for i, image in enumerate(batch):
        patches, coord, valid = patchify_image(image, (16, 16))
        assert valid.all() and torch.equal(packed["patches"][i, : len(patches)], patches)
        assert torch.equal(packed["patch_coord"][i, : len(coord)], coord)
        assert int(packed["patch_valid"][i].sum()) == len(patches)


def test_llama_is_configured_as_published() -> None:
    """The network is transformers' own: what is left to get wrong is its configuration."""
    spec = find("climp-llama@base")
    with torch.device("meta"):
        ours: Any = build_tower(spec.text)
        assert shapes(ours.model) == shapes(TEXT_TOWERS["climp-llama"]())
    ours = build_tower(replace(spec.text, n_layer=0, vocab_size=64))
    theirs = TEXT_TOWERS["climp-llama"](num_hidden_layers=0, vocab_size=64)
    assert torch.equal(ours.model.rotary_emb.inv_freq, theirs.rotary_emb.inv_freq)
    got, wanted = ours.model.config.to_dict(), theirs.config.to_dict()
    assert {key for key in wanted if got[key] != wanted[key] and not key.endswith("_token_id")} == set()


def text_pair(family: str) -> tuple[Any, nn.Module]:
    """A layer of the catalogue's text tower with a vocabulary of 64, and transformers', as published."""
    torch.manual_seed(0)
    theirs = TEXT_TOWERS[family](vocab_size=64, num_hidden_layers=1)
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    ours: Any = build_tower(replace(find(family, "base").text, vocab_size=64, n_layer=1))
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


@pytest.mark.parametrize("family", ["climp-m1", "climp-m2"])
def test_a_layer_of_the_text_tower_computes_what_transformers_does(family: str) -> None:
    ours, theirs = text_pair(family)
    ids = torch.randint(0, 64, (1, 77))
    got, expected = ours.forward_features(ids), theirs(input_ids=ids).last_hidden_state
    assert relative(got, expected) < 1e-5
    probe = torch.randn_like(expected)
    (got * probe).sum().backward()
    (expected * probe).sum().backward()
    wanted = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        assert relative(parameter.grad, wanted[name].grad) < 1e-4, name


@torch.no_grad()
@pytest.mark.parametrize("family", ["climp-m1", "climp-m2"])
def test_where_padding_stands_changes_nothing(family: str) -> None:
    """Ours on the right without a mask, or transformers' on the left with one: the last token is the same."""
    ours, theirs = text_pair(family)
    ids, lengths = torch.randint(1, 64, (3, 9)), torch.tensor([9, 4, 1])
    left, mask = torch.zeros_like(ids), torch.zeros_like(ids)
    for row, length in enumerate(lengths.tolist()):
        left[row, 9 - length :], mask[row, 9 - length :] = ids[row, :length], 1
    got = ours(ids, lengths)
    assert relative(got, theirs(input_ids=left, attention_mask=mask).last_hidden_state[:, -1]) < 1e-5
    assert relative(ours(F.pad(ids, (0, 4), value=5), lengths), got) < 1e-5


@pytest.mark.parametrize("family", ["climp-m1", "climp-m2", "rope-vit"])
def test_batches_sorted_by_length_change_no_embedding(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "_CPU_TOKENS", 200)
    encoder = CatalogueEncoder(resolve(family, "micro"))
    caption = "a small red circle to the left of two large blue squares, and "
    texts = [(caption * 4)[i % 3 : 5 + 37 * i % 200] for i in range(24)]
    sizes: list[int] = []
    encode = encoder.encode_tokens
    monkeypatch.setattr(encoder, "encode_tokens", lambda rows: sizes.append(len(rows)) or encode(rows))
    together = torch.from_numpy(extract.embed_texts([*texts, *texts[::-1]], encoder, tmp_path).rows)
    assert sum(sizes) == len(set(texts)) and len(set(sizes)) > 2, "batches of several sizes"
    alone = torch.cat([torch.from_numpy(encode([row])) for row in encoder.tokenize(texts)])
    torch.testing.assert_close(together[:24], alone, atol=1e-5, rtol=0)
    assert torch.equal(together[24:], together[:24].flip(0))
