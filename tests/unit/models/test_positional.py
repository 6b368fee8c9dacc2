"""Bytes of position tables against those that timm and transformers make."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from climp_bench.models.catalogue import MODELS, build_tower
from climp_bench.models.positional import positional_bytes


def nbytes(*tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@pytest.mark.parametrize("rope", ["axial", "mixed"])
@pytest.mark.parametrize("side", [64, 96])
def test_rotary_tables_of_a_vit(rope: Any, side: int) -> None:
    config = replace(MODELS.get("rope-vit@micro").image, rope=rope)
    trunk = build_tower(config).trunk
    grid = [side // config.patch_size] * 2
    assert positional_bytes(config, side) == nbytes(trunk.rope.get_embed(grid))


def test_the_mixed_table_of_the_base_model_at_896_pixels() -> None:
    # 12 blocks, 12 heads, 3,136 patches, 128 numbers: 231 MB, as measured on timm's model.
    assert positional_bytes(MODELS.get("rope-vit-mixed@base").image, 896) == 12 * 12 * 3136 * 128 * 4


@pytest.mark.parametrize("family", ["flexivit", "naflexvit"])
def test_a_learned_table_is_one_vector_a_patch(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = MODELS.get(f"{family}@micro").image
    seen: list[torch.Tensor] = []
    resize = torch.nn.functional.interpolate

    def spy(*args: Any, **options: Any) -> torch.Tensor:
        seen.append(resize(*args, **options))
        return seen[-1]

    monkeypatch.setattr(torch.nn.functional, "interpolate", spy)
    with torch.no_grad():
        build_tower(config).eval()(torch.zeros(1, 3, 96, 96))
    assert positional_bytes(config, 96) == nbytes(seen[-1])


def test_rotary_tables_of_llama() -> None:
    config = MODELS.get("rope-vit@micro").text
    rotary = build_tower(config).model.rotary_emb
    tables = rotary(torch.zeros(1, 20, config.d_model), torch.arange(20)[None])
    assert positional_bytes(config, 20) == nbytes(*tables)


def test_scans_keep_no_positions_and_a_strange_tower_is_not_guessed() -> None:
    spec = MODELS.get("climp-m1@base")
    assert positional_bytes(spec.image, 896) == positional_bytes(spec.text, 2048) == 0
    assert positional_bytes(MODELS.get("climp-m2@base").text, 77) == 0
    assert positional_bytes(object(), 224) is None
