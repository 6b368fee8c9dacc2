"""The shapes of all models of our own: the data behind the catalogue.

Scales: a scale is a size of the image tower, and the text tower is the same at all of them. That is a
reading of CLIMP's Table 7, which scales the vision encoder from 22M to 87M parameters; the paper spells out
neither what the text tower does meanwhile nor which towers these are. The smallest released VMamba of this
kind has 29.5M parameters; 22M is a ViT-S.

Input: all squash to 224x224, bilinear, as the release of CLIMP does, with the mean and standard deviation
that the image tower was trained with; NaFlexViT alone keeps the aspect ratio. One way for all keeps them
comparable. timm evaluates these towers on ImageNet otherwise: bicubic, with a centre crop of 0.9 at 224
pixels (RoPE-ViT), 0.95 at 240 (FlexiViT), or 1.0 at 384 (NaFlexViT).

Stochastic depth of the VMambas is that of their ImageNet training.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from climp_bench.models.configs import (
    FlexiVitConfig,
    LlamaTextConfig,
    NaFlexVitConfig,
    RopeScaling,
    RopeVitConfig,
)
from climp_bench.models.mamba1 import Mamba1Config
from climp_bench.models.mamba2 import Mamba2Config
from climp_bench.models.spec import ModelSpec, Origin, Source
from climp_bench.models.vmamba import VMAMBA_BASE, VMAMBA_BASE_S1, VMAMBA_SMALL, VMAMBA_TINY, VMambaConfig
from climp_bench.specs import HALF, ImagePreprocess

_SQUASH_64 = ImagePreprocess(size=(64, 64))
_HALF_64 = replace(_SQUASH_64, mean=HALF, std=HALF)
_NATIVE_64 = replace(_HALF_64, mode="native", multiple=8)

_VMAMBA = (VMambaConfig(dims=(32, 64, 128, 192), depths=(2, 4, 2, 1)), _SQUASH_64)
_ROPE_VIT = (
    RopeVitConfig(embed_dim=144, depth=6, num_heads=3, patch_size=8, img_size=64, layer_scale=None),
    _SQUASH_64,
)
_FLEXI_VIT = (
    FlexiVitConfig(embed_dim=144, depth=6, num_heads=3, patch_size=8, img_size=64, patch_sizes=(4, 8, 16)),
    _HALF_64,
)
_NAFLEX_VIT = (
    NaFlexVitConfig(embed_dim=144, depth=6, num_heads=3, patch_size=8, img_size=64, layer_scale=None),
    _NATIVE_64,
)
_MAMBA1 = Mamba1Config(vocab_size=1024, d_model=128, n_layer=6)
_MAMBA2 = Mamba2Config(vocab_size=1024, d_model=128, n_layer=6, d_state=64)
_LLAMA = LlamaTextConfig(
    vocab_size=1024, d_model=128, n_layer=5, n_head=4, n_kv_head=2, mlp_dim=256, rope_theta=10_000.0
)

_CLIMP = "CLIMP (Shabtay et al., ECCV 2026)"
_ROPE_PAPER = "Heo et al. 2024, arXiv:2403.13298"
_FLEXI_PAPER = "Beyer et al. 2023, arXiv:2212.08013"
_NAFLEX_PAPER = "Dehghani et al. 2023, arXiv:2307.06304"
_MICRO: tuple[tuple[str, tuple[Any, ImagePreprocess], Any, str, str], ...] = (
    ("climp-m1", _VMAMBA, _MAMBA1, "VMamba and Mamba-1", _CLIMP),
    ("climp-m2", _VMAMBA, _MAMBA2, "VMamba and Mamba-2", _CLIMP),
    ("rope-vit", _ROPE_VIT, _LLAMA, "RoPE-ViT and LLaMA", _ROPE_PAPER),
    ("flexivit", _FLEXI_VIT, _LLAMA, "FlexiViT and LLaMA", _FLEXI_PAPER),
    ("naflexvit", _NAFLEX_VIT, _LLAMA, "NaFlexViT and LLaMA", _NAFLEX_PAPER),
    ("climp-llama", _VMAMBA, _LLAMA, "VMamba and LLaMA (ablation)", f"{_CLIMP}, Table 8"),
    ("rope-vit-m1", _ROPE_VIT, _MAMBA1, "RoPE-ViT and Mamba-1 (ablation)", f"{_CLIMP}, Table 8"),
    ("rope-vit-m2", _ROPE_VIT, _MAMBA2, "RoPE-ViT and Mamba-2 (ablation)", f"{_CLIMP}, Table 8"),
)


def micro_models() -> Iterator[ModelSpec]:
    """The models that the embedded data can train."""
    for family, (image, preprocess), text, description, source in _MICRO:
        yield ModelSpec(
            family=family,
            scale="micro",
            image=image,
            text=text,
            embed_dim=128,
            preprocess=preprocess,
            tokenizer="scenes-bpe",
            description=description,
            source=source,
        )


@dataclass(frozen=True)
class _Image:
    """An image tower of the papers' size: its name in descriptions, and where a trained one is published."""

    name: str
    config: Any
    preprocess: ImagePreprocess
    source: Source | None


@dataclass(frozen=True)
class _Text:
    """A text tower of the papers' size: its name in descriptions, and where a trained one is published."""

    name: str
    config: Any
    tokenizer: str
    source: Source

    @property
    def tokenizer_source(self) -> Source:
        """It is published with the tower."""
        return replace(self.source, filename="tokenizer.json")


_SQUASH_224 = ImagePreprocess(size=(224, 224))
_HALF_224 = replace(_SQUASH_224, mean=HALF, std=HALF)
_NATIVE_224 = replace(_HALF_224, mode="native", multiple=16)
_PATCHES_224 = (8, 14, 16, 28, 32)
"""Patch sizes for FlexiViT at 224 pixels: grids of 28 to 7, where the paper's have 30 to 5 at 240."""


def _hub(repo: str, licence: str = "Apache-2.0", *, gated: bool = False) -> Source:
    return Source(repo, "model.safetensors", licence, gated=gated)


def _vmamba(name: str, config: VMambaConfig, checkpoint: str) -> _Image:
    """A VMamba with the ImageNet weights of its authors' release."""
    place = "https://github.com/MzeroMiko/VMamba/releases/download/%23v2cls/"
    return _Image(
        f"VMamba-{name}", config, _SQUASH_224, Source("", checkpoint, "MIT", url=place + checkpoint)
    )


_VIT_S, _VIT_B = (384, 12, 6), (768, 12, 12)
"""Channels, blocks and heads."""

_VMAMBAS = {
    "tiny": _vmamba("Tiny (s1l8)", VMAMBA_TINY, "vssm1_tiny_0230s_ckpt_epoch_264.pth"),
    "small": _vmamba("Small (s2l15)", VMAMBA_SMALL, "vssm_small_0229_ckpt_epoch_222.pth"),
    "base-s1l20": _vmamba("Base (s1l20)", VMAMBA_BASE_S1, "vssm1_base_0229s_ckpt_epoch_225.pth"),
    "base": _vmamba("Base (s2l15)", VMAMBA_BASE, "vssm_base_0229_ckpt_epoch_237.pth"),
}
_ROPE_VITS = {
    "small": _Image(
        "RoPE-ViT-S (axial)",
        RopeVitConfig(*_VIT_S),
        _SQUASH_224,
        _hub("timm/vit_small_patch16_rope_224.naver_in1k"),
    ),
    "base": _Image(
        "RoPE-ViT-B (axial)",
        RopeVitConfig(*_VIT_B),
        _SQUASH_224,
        _hub("timm/vit_base_patch16_rope_224.naver_in1k"),
    ),
}
_MIXED_ROPE_VITS = {
    "small": _Image(
        "RoPE-ViT-S (mixed)",
        RopeVitConfig(*_VIT_S, rope="mixed"),
        _SQUASH_224,
        _hub("timm/vit_small_patch16_rope_mixed_224.naver_in1k"),
    ),
    "base": _Image(
        "RoPE-ViT-B (mixed)",
        RopeVitConfig(*_VIT_B, rope="mixed"),
        _SQUASH_224,
        _hub("timm/vit_base_patch16_rope_mixed_224.naver_in1k"),
    ),
}
_FLEXI_VITS = {
    "small": _Image(
        "FlexiViT-S",
        FlexiVitConfig(*_VIT_S, patch_sizes=_PATCHES_224),
        _HALF_224,
        _hub("timm/flexivit_small.1200ep_in1k"),
    ),
    "base": _Image(
        "FlexiViT-B",
        FlexiVitConfig(*_VIT_B, patch_sizes=_PATCHES_224),
        _HALF_224,
        _hub("timm/flexivit_base.1200ep_in1k"),
    ),
}
_NAFLEX_VITS = {
    "small": _Image(
        "NaFlexViT-B's design at the width of ViT-S (timm has none)",
        NaFlexVitConfig(*_VIT_S),
        _NATIVE_224,
        None,
    ),
    "base": _Image(
        "NaFlexViT-B",
        NaFlexVitConfig(*_VIT_B),
        _NATIVE_224,
        _hub("timm/naflexvit_base_patch16_gap.e300_s576_in1k"),
    ),
}

_MAMBA1_1B4 = _Text(
    "Mamba-1 1.4B",
    Mamba1Config(vocab_size=50280, d_model=2048, n_layer=48),
    "gpt-neox-20b",
    _hub("state-spaces/mamba-1.4b-hf"),
)
_MAMBA2_1B3 = _Text(
    "Mamba-2 1.3B",
    Mamba2Config(vocab_size=50288, d_model=2048, n_layer=48),
    "gpt-neox-20b",
    _hub("AntonV/mamba2-1.3b-hf"),
)
_LLAMA_1B = _Text(
    "LLaMA-3.2-1B",
    LlamaTextConfig(
        vocab_size=128_256,
        d_model=2048,
        n_layer=16,
        n_head=32,
        n_kv_head=8,
        mlp_dim=8192,
        rope_scaling=RopeScaling(factor=32.0),
    ),
    "llama-3.2",
    _hub("meta-llama/Llama-3.2-1B", "llama3.2", gated=True),
)

_PAPER: tuple[tuple[str, dict[str, _Image], _Text, str, str], ...] = (
    ("climp-m1", _VMAMBAS, _MAMBA1_1B4, "", _CLIMP),
    ("climp-m2", _VMAMBAS, _MAMBA2_1B3, "", _CLIMP),
    ("rope-vit", _ROPE_VITS, _LLAMA_1B, "", _ROPE_PAPER),
    ("rope-vit-mixed", _MIXED_ROPE_VITS, _LLAMA_1B, "", _ROPE_PAPER),
    ("flexivit", _FLEXI_VITS, _LLAMA_1B, "", _FLEXI_PAPER),
    ("naflexvit", _NAFLEX_VITS, _LLAMA_1B, "", _NAFLEX_PAPER),
    ("climp-llama", _VMAMBAS, _LLAMA_1B, " (ablation)", f"{_CLIMP}, Table 8"),
    ("rope-vit-m1", _ROPE_VITS, _MAMBA1_1B4, " (ablation)", f"{_CLIMP}, Table 8"),
    ("rope-vit-m2", _ROPE_VITS, _MAMBA2_1B3, " (ablation)", f"{_CLIMP}, Table 8"),
)
_RELEASED = {
    "climp-m1@base": _hub("NimrodShabtay1986/CLIMP-Mamba1"),
    "climp-m2@base": _hub("NimrodShabtay1986/CLIMP-Mamba2"),
}
"""What CLIMP's authors published."""


def paper_models() -> Iterator[ModelSpec]:
    """The models of the papers' sizes: for published weights, or to train on data of that scale."""
    for family, images, text, note, source in _PAPER:
        for scale, image in images.items():
            yield ModelSpec(
                family=family,
                scale=scale,
                image=image.config,
                text=text.config,
                embed_dim=768,
                preprocess=image.preprocess,
                tokenizer=text.tokenizer,
                description=f"{image.name} and {text.name}{note}",
                source=source,
                origin=Origin(
                    weights=_RELEASED.get(f"{family}@{scale}"),
                    image=image.source,
                    text=text.source,
                    tokenizer=text.tokenizer_source,
                ),
            )
