"""Counts of whole towers against fvcore on the real ones, closed formulas, and published figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from fvcore.nn import FlopCountAnalysis
from torch import Tensor, nn

from climp_bench.errors import UsageError
from climp_bench.models import catalogue
from climp_bench.models.catalogue import MODELS, Tower, build_tower
from climp_bench.models.counting import TowerCost, count, count_image, count_text
from climp_bench.models.vmamba import VMambaConfig
from climp_bench.ops.flops import Cost

SCANS = ("ss2d", "selective_scan", "ssd")
SIDE, LENGTH = 64, 20


def products(cost: TowerCost) -> int:
    """Multiply-adds outside the scans."""
    return sum(part.macs for name, part in cost.by_operator.items() if name not in SCANS)


def scan_of(cost: TowerCost) -> Cost:
    (scan,) = (part for name, part in cost.by_operator.items() if name in SCANS)
    return scan


def by_fvcore(config: Any, *inputs: Tensor) -> dict[str, int]:
    """fvcore's count of a tower that really runs, with attention as the two products that it is."""
    torch.manual_seed(0)
    tower = build_tower(config).eval()
    for module in tower.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    if hasattr(tower, "model"):
        tower.model.config._attn_implementation = "eager"
    analysis = FlopCountAnalysis(tower, inputs)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    return {name: int(macs) for name, macs in analysis.by_operator().items() if name != "layer_norm"}


@pytest.mark.parametrize("family", ["climp-m1", "rope-vit", "flexivit", "naflexvit"])
def test_products_of_an_image_tower_are_those_that_fvcore_finds(family: str) -> None:
    spec = MODELS.get(f"{family}@micro")
    cost = count_image(spec.image, (SIDE, SIDE + 32))
    found = by_fvcore(spec.image, torch.zeros(1, 3, SIDE, SIDE + 32))
    assert products(cost) + step_sizes(spec.image, SIDE, SIDE + 32) == sum(found.values())


def step_sizes(config: Any, height: int, width: int) -> int:
    """The projections to step sizes, which we count as part of ss2d and fvcore sees as linear layers."""
    if not isinstance(config, VMambaConfig):
        return 0
    total = 0
    for stage, (dim, depth) in enumerate(zip(config.dims, config.depths, strict=True)):
        pixels = (height // (4 * 2**stage)) * (width // (4 * 2**stage))
        total += depth * 4 * pixels * int(config.ssm_ratio * dim) * -(-dim // 16)
    return total


@pytest.mark.parametrize("family", ["climp-m1", "climp-llama"])
def test_products_of_a_text_tower_are_those_that_fvcore_finds(family: str) -> None:
    spec = MODELS.get(f"{family}@micro")
    found = by_fvcore(spec.text, torch.zeros(1, LENGTH, dtype=torch.int64), torch.tensor([LENGTH]))
    assert products(count_text(spec.text, LENGTH)) == sum(found.values())


def test_fvcore_finds_the_products_of_mamba2s_scan_too() -> None:
    spec = MODELS.get("climp-m2@micro")
    cost = count_text(spec.text, LENGTH)
    found = by_fvcore(spec.text, torch.zeros(1, LENGTH, dtype=torch.int64), torch.tensor([LENGTH]))
    skip = spec.text.n_layer * LENGTH * spec.text.d_inner
    assert scan_of(cost).macs == found.pop("matmul") + skip
    assert products(cost) == sum(found.values())


@pytest.mark.parametrize("name", ["climp-m1@micro", "naflexvit@micro", "climp-m2@micro"])
def test_parameters_are_those_of_the_real_towers(name: str) -> None:
    spec = MODELS.get(name)
    cost = count(spec, (SIDE, SIDE), LENGTH)
    for part, config in ((cost.image, spec.image), (cost.text, spec.text)):
        assert part.params == sum(p.numel() for p in build_tower(config).parameters())


def vit_macs(side: int, prefix: int, width: int = 768, depth: int = 12) -> int:
    patches = (side // 16) ** 2
    tokens = patches + prefix
    return depth * (12 * width**2 * tokens + 2 * width * tokens**2) + 3 * 16**2 * width * patches


@pytest.mark.parametrize("side", [224, 896])
@pytest.mark.parametrize(
    ("family", "prefix"), [("rope-vit", 1), ("rope-vit-mixed", 1), ("flexivit", 1), ("naflexvit", 4)]
)
def test_a_vit_b_by_hand(family: str, prefix: int, side: int) -> None:
    cost = count_image(MODELS.get(f"{family}@base").image, (side, side))
    assert (cost.macs, cost.flops) == (vit_macs(side, prefix), 2 * vit_macs(side, prefix))
    # fvcore on timm's RoPE-ViT-B, layer norms included; on NaFlexViT-B it is 17.86 and 450.57.
    assert cost.macs / 1e9 == pytest.approx({224: 17.58, 896: 449.98}[side], rel=0.02)


def vmamba_macs(dims: tuple[int, ...], depths: tuple[int, ...], ratio: int, side: int) -> tuple[int, int]:
    """Products and scans of a VMamba with one state a channel, from the figure of its block."""
    first = dims[0]
    total = 27 * (first // 2) * (side // 2) ** 2 + 9 * (first // 2) * first * (side // 4) ** 2
    scans = 0
    for stage, (dim, depth) in enumerate(zip(dims, depths, strict=True)):
        pixels, inner, rank = (side // 2 ** (stage + 2)) ** 2, ratio * dim, dim // 16
        linear = 2 * dim * inner + 8 * dim**2 + 4 * inner * (rank + 2) + 4 * inner * rank
        total += depth * pixels * (linear + 9 * inner)
        scans += depth * pixels * 4 * inner * (9 + 1)
        if stage:
            total += 9 * dims[stage - 1] * dim * pixels
    return total, scans


@pytest.mark.parametrize(
    ("scale", "ratio", "side", "published"),
    [
        # GFLOPs of VMamba's README: multiply-adds, layer norms included.
        ("tiny", 1, 224, 4.9),
        ("small", 2, 224, 8.7),
        ("base", 2, 224, 15.4),
        ("base-s1l20", 1, 224, 15.2),
        # fvcore on the authors' code, 241.10 and 1.03 for layer norms, and their formula of the scan, 3.60.
        ("base", 2, 896, 245.73),
    ],
)
def test_a_vmamba_by_hand(scale: str, ratio: int, side: int, published: float) -> None:
    config = MODELS.get(f"climp-m1@{scale}").image
    cost = count_image(config, (side, side))
    inside, scans = vmamba_macs(config.dims, config.depths, ratio, side)
    assert cost.macs == inside + scans
    assert cost.flops == 2 * cost.macs - 9 * scans // 10  # the 9 operations of the scan are not doubled
    assert cost.macs / 1e9 == pytest.approx(published, rel=0.01)


@pytest.mark.parametrize(
    ("family", "layers", "weights", "scan"),
    [
        # projections in and out, (dt, B, C), dt, four taps; 9 N + D u + the gate a channel
        (
            "climp-m1",
            48,
            2048 * 8192 + 4096 * 2048 + 4096 * 160 + 128 * 4096 + 4 * 4096,
            lambda length: 4096 * (9 * 16 + 2) * length,
        ),
        # projections in and out, four taps over x, B and C; one chunk: C B^T, its product with x, D x
        (
            "climp-m2",
            48,
            2048 * 8512 + 4096 * 2048 + 4 * 4352,
            lambda length: (128 + 4096) * length**2 + 4096 * length,
        ),
        # queries and output, keys and values, three matrices of the MLP; attention
        (
            "climp-llama",
            16,
            2 * 2048**2 + 2 * 2048 * 512 + 3 * 2048 * 8192,
            lambda length: 2 * 2048 * length**2,
        ),
    ],
)
def test_a_text_tower_by_hand(
    family: str, layers: int, weights: int, scan: Callable[[int], int], length: int = 77
) -> None:
    cost = count_text(MODELS.get(f"{family}@base").text, length)
    assert cost.macs == layers * (weights * length + scan(length))


TOWERS = [(count_image, spec.image) for spec in MODELS if spec.scale in ("micro", "base")]
TOWERS += [(count_text, spec.text) for spec in MODELS if spec.scale in ("micro", "base")]


@pytest.mark.parametrize(("counter", "config"), dict.fromkeys(TOWERS), ids=lambda part: type(part).__name__)
def test_nothing_is_left_out_but_the_resampling_of_position_tables(
    counter: Callable[[Any], TowerCost], config: Any
) -> None:
    cost = counter(config)
    resampled = type(config).__name__ in ("FlexiVitConfig", "NaFlexVitConfig")
    assert cost.unsupported == (("aten._upsample_bicubic2d_aa",) if resampled else ())
    total = sum(cost.by_operator.values(), Cost())
    assert (cost.macs, cost.flops) == (total.macs, total.flops)


def test_both_towers_of_a_model_are_counted_for_their_own_inputs() -> None:
    spec = MODELS.get("climp-m1@micro")
    counts = count(spec, (SIDE, 2 * SIDE), LENGTH)
    assert counts.image == count_image(spec.image, (SIDE, 2 * SIDE))
    assert counts.text == count_text(spec.text, LENGTH)


@dataclass(frozen=True)
class PlantedConfig:
    """Of a tower with a product that is counted and a transform that is not."""

    width: int = 8


class Planted(nn.Module):
    def __init__(self, config: PlantedConfig) -> None:
        super().__init__()
        self.out_dim = config.width
        self.linear = nn.Linear(3, config.width)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        x: Tensor = self.linear(images_BCHW.mean((2, 3)))
        return torch.fft.fft(x).real


def test_an_operator_without_a_formula_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(catalogue._TOWERS, PlantedConfig, Tower(f"{__name__}:Planted"))
    cost = count_image(PlantedConfig(), (4, 4))
    assert cost.unsupported == ("aten._fft_r2c",)
    assert (cost.macs, cost.params) == (3 * 8, 3 * 8 + 8)


def test_an_image_need_not_be_square() -> None:
    config = MODELS.get("climp-m1@micro").image
    assert count_image(config, (64, 128)).macs == 2 * count_image(config, (64, 64)).macs


def test_sizes_must_be_positive() -> None:
    spec = MODELS.get("climp-m1@micro")
    with pytest.raises(UsageError, match=r"an image cannot have 224x-1 pixels\. Give positive"):
        count_image(spec.image, (224, -1))
    with pytest.raises(UsageError, match="a text cannot have 0 tokens"):
        count_text(spec.text, 0)


def test_an_image_that_the_patch_does_not_divide_is_the_towers_own_error() -> None:
    with pytest.raises(UsageError, match="does not divide an image of 220x224"):
        count_image(MODELS.get("rope-vit@base").image, (220, 224))
