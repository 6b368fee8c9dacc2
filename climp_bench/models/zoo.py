"""The shapes of all models of our own: the data behind the catalogue."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from climp_bench.models.configs import FlexiVitConfig, LlamaTextConfig, NaFlexVitConfig, RopeVitConfig
from climp_bench.models.mamba1 import Mamba1Config
from climp_bench.models.mamba2 import Mamba2Config
from climp_bench.models.spec import ModelSpec
from climp_bench.models.vmamba import VMambaConfig
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
_MICRO: tuple[tuple[str, tuple[Any, ImagePreprocess], Any, str, str], ...] = (
    ("climp-m1", _VMAMBA, _MAMBA1, "VMamba and Mamba-1", _CLIMP),
    ("climp-m2", _VMAMBA, _MAMBA2, "VMamba and Mamba-2", _CLIMP),
    ("rope-vit", _ROPE_VIT, _LLAMA, "RoPE-ViT and LLaMA", "Heo et al. 2024, arXiv:2403.13298"),
    ("flexivit", _FLEXI_VIT, _LLAMA, "FlexiViT and LLaMA", "Beyer et al. 2023, arXiv:2212.08013"),
    ("naflexvit", _NAFLEX_VIT, _LLAMA, "NaFlexViT and LLaMA", "Dehghani et al. 2023, arXiv:2307.06304"),
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
