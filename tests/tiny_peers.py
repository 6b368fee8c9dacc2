"""Tiny models of other libraries, on disk and without a network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import transformers
from open_clip import factory

from climp_bench.models.tokenizer import train_bpe

ARCH = "tiny-ViT"
TEXTS = ["a red square", "two small stars on a blue ground", "x", "the letter B, in green", "many " * 90]


def register_arch(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str = ARCH) -> None:
    """Make an architecture known to OpenCLIP until the test ends: 32 pixels, two layers a tower."""
    config = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps(config))
    for registry in ("_MODEL_CONFIG_PATHS", "_MODEL_CONFIGS"):
        monkeypatch.setattr(factory, registry, getattr(factory, registry).copy())
    open_clip.add_model_config(path)


def spread(model: torch.nn.Module, seed: int = 3) -> Any:
    """The model with weights far from their initial ones, so that embeddings differ from sample to sample."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def open_clip_checkpoint(path: Path, arch: str = ARCH) -> Any:
    """Save a state dict of ``arch`` and return OpenCLIP's own model with it."""
    with torch.random.fork_rng():
        model = spread(open_clip.create_model(arch))
    torch.save(model.state_dict(), path)
    return model


def save_hf(folder: Path, kind: str) -> Any:
    """Save a tiny ``clip``, ``siglip`` or ``chinese_clip`` model and its processors; return the model."""
    layers = {"intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 32}
    text = {**layers, "vocab_size": 300, "eos_token_id": 0, "bos_token_id": 1, "pad_token_id": 0}
    vision = {**layers, "image_size": 32, "patch_size": 8}
    processor: Any
    if kind != "siglip":
        name = {"clip": "CLIP", "chinese_clip": "ChineseCLIP"}[kind]
        config: Any = getattr(transformers, f"{name}Config")(
            text_config={**text, "max_position_embeddings": 24}, vision_config=vision, projection_dim=20
        )
        processor = getattr(transformers, f"{name}ImageProcessor")(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
        )
    else:
        config = transformers.SiglipConfig(
            text_config={**text, "max_position_embeddings": 16}, vision_config=vision
        )
        processor = transformers.SiglipImageProcessor(size={"height": 32, "width": 32})
    with torch.random.fork_rng():
        model = spread(transformers.AutoModel.from_config(config))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    tokenizer = train_bpe(TEXTS, 290)
    (folder / "raw.json").write_text(tokenizer.to_json())
    transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "raw.json"), eos_token="<|end|>", pad_token="<|end|>"
    ).save_pretrained(folder)
    (folder / "raw.json").unlink()
    return model
