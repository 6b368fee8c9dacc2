"""Towers of some ten thousand parameters, of the kinds of a model's own: for experiments that train many."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from climp_bench.errors import UsageError
from climp_bench.models.configs import LlamaTextConfig, RopeVitConfig
from climp_bench.models.mamba1 import Mamba1Config
from climp_bench.models.mamba2 import Mamba2Config
from climp_bench.models.spec import ModelSpec
from climp_bench.models.vmamba import VMambaConfig

SIDE = 32
"""Pixels."""
_VOCABULARY = 1024
_TEXTS: dict[type, Any] = {
    Mamba1Config: Mamba1Config(vocab_size=_VOCABULARY, d_model=64, n_layer=2),
    Mamba2Config: Mamba2Config(vocab_size=_VOCABULARY, d_model=64, n_layer=2, d_state=16, head_dim=32),
    LlamaTextConfig: LlamaTextConfig(
        vocab_size=_VOCABULARY, d_model=64, n_layer=2, n_head=2, n_kv_head=1, mlp_dim=128, rope_theta=10_000.0
    ),
}


def thumbnail(spec: ModelSpec, width: int = 2) -> ModelSpec:
    """A model of the same kinds of towers, for images of ``SIDE`` pixels; its family ends in ``-thumbnail``.

    Args:
        spec: a model at scale micro, whose tokenizer it has.
        width: of the image tower: 24 channels and one head, times so much.

    Raises:
        UsageError: there is no such small tower of one of its kinds.
    """
    images: dict[type, Any] = {
        VMambaConfig: VMambaConfig(dims=(12 * width, 24 * width), depths=(1, 1)),
        RopeVitConfig: RopeVitConfig(
            embed_dim=24 * width, depth=2, num_heads=width, patch_size=4, img_size=SIDE, layer_scale=None
        ),
    }
    if spec.scale != "micro" or type(spec.image) not in images or type(spec.text) not in _TEXTS:
        raise UsageError(
            "there is no thumbnail of it", where=spec.name,
            remedy="Take VMamba or RoPE-ViT with Mamba or LLaMA at scale micro, or name a --recipe.",
        )  # fmt: skip
    return replace(
        spec,
        family=f"{spec.family}-thumbnail" + ("" if width == 2 else f"-{width}"),
        image=images[type(spec.image)],
        text=_TEXTS[type(spec.text)],
        embed_dim=64,
        preprocess=replace(spec.preprocess, size=(SIDE, SIDE)),
    )
