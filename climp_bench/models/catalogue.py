"""Every model that climp-bench can build: a family (a pair of towers) at a scale.

Other packages add models through the entry point group ``climp_bench.models``; each entry point names a
``ModelSpec`` or a sequence of them::

    [project.entry-points."climp_bench.models"]
    my-model = "my_package.models:SPEC"

They are loaded when a name is not one of ours, and when all models are listed. A tower of a new kind is
made known with ``register_tower``.
"""

from __future__ import annotations

from dataclasses import dataclass
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
from climp_bench.models.spec import SCALES, ModelSpec
from climp_bench.models.vmamba import VMambaConfig
from climp_bench.models.zoo import micro_models, paper_models
from climp_bench.registry import Registry, unknown

ENTRY_POINT_GROUP = "climp_bench.models"


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
        return DualEncoder(build_tower(spec.image), build_tower(spec.text), spec.embed_dim)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build(spec)


def describe(spec: ModelSpec) -> ModelSize:
    """Count the parameters of ``spec`` without allocating them."""
    (image, image_dim), (text, text_dim) = _tower_size(spec.image), _tower_size(spec.text)
    projections = (image_dim + 1 + text_dim + 1) * spec.embed_dim
    return ModelSize(image=image, text=text, total=image + text + projections + 1)


@cache
def _tower_size(config: Any) -> tuple[int, int]:
    """Parameters and output dimensions of a tower; many models share one."""
    with torch.device("meta"):
        tower = build_tower(config)
    return count_parameters(tower), cast(int, tower.out_dim)


def count_parameters(module: nn.Module) -> int:
    """Number of parameters, wherever they live."""
    return sum(parameter.numel() for parameter in module.parameters())


def operators(spec: ModelSpec) -> tuple[str, ...]:
    """The operators of ``climp_bench.ops`` that the towers of ``spec`` scan with, image tower first."""
    return tuple(name for name in (operator(spec.image), operator(spec.text)) if name)


def operator(config: Any) -> str:
    """The operator of ``climp_bench.ops`` that the tower of ``config`` scans with, "" if none.

    Raises:
        UsageError: no tower is registered for it.
    """
    return _tower_of(config).operator


def _tower_of(config: Any) -> Tower:
    try:
        return _TOWERS[type(config)]
    except KeyError:
        raise UsageError(
            f"no tower is registered for a {type(config).__name__}",
            remedy="Register one with climp_bench.models.catalogue.register_tower.",
        ) from None


def build_tower(config: Any) -> nn.Module:
    """One freshly initialised tower. Raises ``UsageError`` if none is registered for ``config``'s class."""
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


MODELS: Registry[ModelSpec] = Registry("model")
for _spec in (*micro_models(), *paper_models()):
    MODELS.add(_spec.name, _spec)
