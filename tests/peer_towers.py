"""Tiny towers built by other projects' own code, and checkpoints in those projects' forms."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import torch
from timm.models.eva import Eva
from timm.models.naflexvit import NaFlexVit, NaFlexVitCfg
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
)
from transformers import Mamba2Config as TheirMamba2Config
from transformers import MambaConfig as TheirMambaConfig

from climp_bench.models.catalogue import build_tower
from climp_bench.models.configs import FlexiVitConfig, LlamaTextConfig, NaFlexVitConfig, RopeVitConfig
from climp_bench.models.mamba1 import Mamba1Config
from climp_bench.models.mamba2 import Mamba2Config
from climp_bench.models.spec import ModelSpec
from climp_bench.models.vmamba import VMambaConfig
from climp_bench.specs import ImagePreprocess

State = dict[str, Tensor]
VMAMBA = VMambaConfig(dims=(16, 32), depths=(1, 2))
MAMBA1 = Mamba1Config(vocab_size=40, d_model=32, n_layer=2)
MAMBA2 = Mamba2Config(vocab_size=40, d_model=32, n_layer=2, d_state=16, head_dim=16)
LLAMA = LlamaTextConfig(vocab_size=40, d_model=32, n_layer=2, n_head=4, n_kv_head=2, mlp_dim=48)
ROPE = RopeVitConfig(24, 2, 3, patch_size=8, img_size=32)
MIXED = dataclasses.replace(ROPE, rope="mixed")
FLEXI = FlexiVitConfig(24, 2, 3, patch_size=8, img_size=32, patch_sizes=(8, 16))
NAFLEX = NaFlexVitConfig(24, 2, 3, patch_size=8, img_size=32)
M1 = ModelSpec(
    family="pea",
    scale="micro",
    image=VMAMBA,
    text=MAMBA1,
    embed_dim=8,
    preprocess=ImagePreprocess(size=(32, 32)),
    tokenizer="scenes-bpe",
    description="A pea",
)
M2 = dataclasses.replace(M1, family="bean", text=MAMBA2)
IDS = torch.randint(0, 40, (3, 9), generator=torch.Generator().manual_seed(1))
IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))


def shaken(module: nn.Module) -> Any:
    """The module with noise on every parameter, so that none is at a value that hides a mix-up."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return module.eval()


def relative(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).norm() / expected.norm())


def state_of(config: Any) -> State:
    """The same weights at every call."""
    torch.manual_seed(1)
    return dict(shaken(build_tower(config)).state_dict())


def equal(got: State, expected: State) -> bool:
    return list(got) == list(expected) and all(torch.equal(got[key], expected[key]) for key in got)


def mamba1(kind: Any) -> Any:
    return kind(TheirMambaConfig(vocab_size=40, hidden_size=32, num_hidden_layers=2, use_cache=False))


def mamba2(kind: Any) -> Any:
    return kind(
        TheirMamba2Config(
            vocab_size=40,
            hidden_size=32,
            num_hidden_layers=2,
            state_size=16,
            head_dim=16,
            num_heads=4,
            n_groups=1,
            use_cache=False,
        )
    )


def llama(tied: bool) -> Any:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=40,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            rms_norm_eps=1e-5,
            rope_theta=LLAMA.rope_theta,
            tie_word_embeddings=tied,
            use_cache=False,
        )
    )


def plain_vit(**options: Any) -> Any:
    sizes = {"img_size": 32, "patch_size": 8, "num_classes": 5, "embed_dim": 24, "depth": 2, "num_heads": 3}
    return VisionTransformer(**{**sizes, **options})


def eva(kind: str) -> Any:
    return Eva(
        img_size=32,
        patch_size=8,
        num_classes=5,
        global_pool="token",
        embed_dim=24,
        depth=2,
        num_heads=3,
        attn_type="rope",
        init_values=1e-5,
        use_abs_pos_emb=False,
        use_rot_pos_emb=True,
        rope_type=kind,
        rope_grid_indexing="xy",
        rope_temperature=100.0 if kind == "cat" else 10.0,
    )


def naflex() -> Any:
    options = NaFlexVitCfg(
        patch_size=8,
        embed_dim=24,
        depth=2,
        num_heads=3,
        init_values=1e-5,
        global_pool="avg",
        reg_tokens=4,
        fc_norm=True,
        pos_embed_grid_size=(4, 4),
    )
    return NaFlexVit(options, num_classes=5)


def official_vmamba(*, old_names: bool, convolutions: bool) -> State:
    """An ImageNet checkpoint of VMamba, with its head."""
    state = state_of(VMAMBA)
    state["classifier.head.weight"], state["classifier.head.bias"] = torch.randn(5, 32), torch.randn(5)
    if convolutions:
        for key in state:
            if re.search(r"(in_proj|out_proj|fc1|fc2)\.weight", key):
                state[key] = state[key][:, :, None, None]
            if state[key].dim() == 4:
                state[key] = state[key].contiguous(memory_format=torch.channels_last)
    if old_names:
        swaps = {".norm.": ".ln_1.", ".op.": ".self_attention.", "classifier.": ""}
        for new, old in swaps.items():
            state = {
                (key if new == ".norm." and "blocks" not in key else key.replace(new, old)): tensor
                for key, tensor in state.items()
            }
        assert {"norm.weight", "head.bias", "layers.0.blocks.0.ln_1.bias"} <= state.keys()
    return state
