"""Every model that climp-bench can build: a family (a pair of towers) at a scale.

Other packages add models through the entry point group ``climp_bench.models``; each entry point names a
``ModelSpec`` or a sequence of them::

    [project.entry-points."climp_bench.models"]
    my-model = "my_package.models:SPEC"

They are loaded when a name is not one of ours, and when all models are listed. A tower of a new kind is
made known with ``register_tower``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, cast

import torch
from torch import nn

from climp_bench.errors import UsageError
from climp_bench.models.configs import FlexiVitConfig, LlamaTextConfig, NaFlexVitConfig, RopeVitConfig
from climp_bench.models.dual_encoder import DualEncoder
from climp_bench.models.mamba1 import Mamba1Config
from climp_bench.models.mamba2 import Mamba2Config
from climp_bench.models.vmamba import VMambaConfig
from climp_bench.registry import Registry, unknown
from climp_bench.specs import HALF, ImagePreprocess

ENTRY_POINT_GROUP = "climp_bench.models"
SCALES = ("micro", "tiny", "small", "base")


@dataclass(frozen=True)
class ModelSpec:
    """A model: everything needed to build it, feed it and name it.

    Attributes:
        family: the pair of towers, such as ``climp-m1``.
        scale: one of ``SCALES``.
        image: configuration of the image tower; its class decides which tower is built.
        text: configuration of the text tower.
        embed_dim: dimensions of the shared space.
        preprocess: how a decoded image becomes the image tower's input.
        tokenizer: name of the tokenizer, for ``tokenizer.load``.
        description: one line for listings.
        source: the paper that the family comes from.
    """

    family: str
    scale: str
    image: Any
    text: Any
    embed_dim: int
    preprocess: ImagePreprocess
    tokenizer: str
    description: str
    source: str = ""

    def __post_init__(self) -> None:
        if self.scale not in SCALES or "@" in self.family:
            raise ValueError(f"{self.family!r} at {self.scale!r}: the scale must be one of {SCALES}")

    @property
    def name(self) -> str:
        """``family@scale``."""
        return f"{self.family}@{self.scale}"


@dataclass(frozen=True)
class ModelSize:
    """Numbers of parameters. ``total`` includes both projections and the logit scale."""

    image: int
    text: int
    total: int


@dataclass(frozen=True)
class Tower:
    """How the towers of one class of configuration are made.

    Attributes:
        target: ``package.module:Class``, imported when the first one is built; called with the configuration.
        operator: the operator of ``climp_bench.ops`` that it scans with, "" if none.
    """

    target: str
    operator: str = ""


_TOWERS: dict[type, Tower] = {
    VMambaConfig: Tower("climp_bench.models.vmamba:VMamba", "ss2d"),
    RopeVitConfig: Tower("climp_bench.models.vit:RopeVit"),
    FlexiVitConfig: Tower("climp_bench.models.vit:FlexiVit"),
    NaFlexVitConfig: Tower("climp_bench.models.vit:NaFlexVit"),
    Mamba1Config: Tower("climp_bench.models.mamba1:Mamba1", "selective_scan"),
    Mamba2Config: Tower("climp_bench.models.mamba2:Mamba2", "ssd"),
    LlamaTextConfig: Tower("climp_bench.models.llama:LlamaText"),
}


def register_tower(config: type, tower: Tower) -> None:
    """Make ``tower`` known for configurations of class ``config``.

    Raises:
        ValueError: the class has a tower already.
    """
    if config in _TOWERS:
        raise ValueError(f"{config.__name__} is built by {_TOWERS[config].target} already")
    _TOWERS[config] = tower


def find(name: str, scale: str | None = None) -> ModelSpec:
    """The model called ``family`` or ``family@scale``.

    Args:
        name: a family, alone or with its scale.
        scale: the scale, if the name has none. If neither says it, the smallest scale of the family.

    Raises:
        UsageError: there is no such model (with near matches), or name and scale disagree.
    """
    family, scale = split_name(name, scale)
    try:
        return _lookup(family, scale)
    except UsageError:
        if not _load_entry_points():
            raise
        return _lookup(family, scale)


def split_name(name: str, scale: str | None = None) -> tuple[str, str | None]:
    """Family and scale of ``family`` or ``family@scale``. Raises ``UsageError`` if two scales are named."""
    family, _, named = name.partition("@")
    if named and scale and named != scale:
        raise UsageError(
            f"{name!r} and scale {scale!r} disagree", remedy=f"Ask for {family}@{scale}, or leave one out."
        )
    return family, named or scale


def scales_of(family: str) -> tuple[ModelSpec, ...]:
    """The models of a family, smallest first. Raises ``UsageError`` with near matches if there are none."""
    specs = [spec for spec in MODELS if spec.family == family]
    if not specs:
        raise unknown("model", family, {spec.family for spec in MODELS})
    return tuple(sorted(specs, key=lambda spec: SCALES.index(spec.scale)))


def all_models() -> tuple[ModelSpec, ...]:
    """Every model, those of other packages included, in order of registration."""
    _load_entry_points()
    return tuple(MODELS)


def build(spec: ModelSpec, seed: int | None = None) -> DualEncoder:
    """A freshly initialised model, in training mode, on the current default device.

    Args:
        spec: what to build.
        seed: seed of the initial weights; the caller's random state is left as it was. None draws from it.

    Raises:
        UsageError: no tower is registered for one of the configurations.
    """
    if seed is None:
        return DualEncoder(_make(spec.image), _make(spec.text), spec.embed_dim)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build(spec)


def describe(spec: ModelSpec) -> ModelSize:
    """Count the parameters of ``spec`` without allocating them."""
    with torch.device("meta"):
        model = build(spec)
    return ModelSize(image=_count(model.vision_encoder), text=_count(model.text_encoder), total=_count(model))


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def operators(spec: ModelSpec) -> tuple[str, ...]:
    """The operators of ``climp_bench.ops`` that the towers of ``spec`` scan with, image tower first."""
    named = (_tower_of(spec.image).operator, _tower_of(spec.text).operator)
    return tuple(name for name in named if name)


def _tower_of(config: Any) -> Tower:
    try:
        return _TOWERS[type(config)]
    except KeyError:
        raise UsageError(
            f"no tower is registered for a {type(config).__name__}",
            remedy="Register one with climp_bench.models.catalogue.register_tower.",
        ) from None


def _make(config: Any) -> nn.Module:
    module, _, name = _tower_of(config).target.partition(":")
    return cast(nn.Module, getattr(import_module(module), name)(config))


def _lookup(family: str, scale: str | None) -> ModelSpec:
    specs = scales_of(family)
    if scale is None:
        return specs[0]
    for spec in specs:
        if spec.scale == scale:
            return spec
    raise UsageError(
        f"{family} has no scale {scale!r}", remedy=f"It has: {', '.join(spec.scale for spec in specs)}."
    )


@cache
def _load_entry_points() -> int:
    """Register the models of other packages; the number of models found."""
    found = 0
    for point in entry_points(group=ENTRY_POINT_GROUP):
        try:
            loaded = point.load()
            for spec in (loaded,) if isinstance(loaded, ModelSpec) else loaded:
                MODELS.add(spec.name, spec)
                found += 1
        except Exception as error:
            raise UsageError(
                f"the plug-in could not be loaded: {error}",
                where=f"entry point {point.name} = {point.value}",
                remedy="Repair or uninstall the package that provides it.",
            ) from error
    return found


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

MODELS: Registry[ModelSpec] = Registry("model")
for _family, (_image, _preprocess), _text, _description, _source in _MICRO:
    _spec = ModelSpec(
        family=_family,
        scale="micro",
        image=_image,
        text=_text,
        embed_dim=128,
        preprocess=_preprocess,
        tokenizer="scenes-bpe",
        description=_description,
        source=_source,
    )
    MODELS.add(_spec.name, _spec)
