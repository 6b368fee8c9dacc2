"""From a name to a model with weights: which weights a name means, and a model that holds exactly them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol
from unittest.mock import patch

import torch
from torch import Tensor, nn

from climp_bench.models import tokenizer as tokenizers
from climp_bench.models.catalogue import build, find, scales_of, split_name
from climp_bench.models.convert import check_keys
from climp_bench.models.spec import ModelSpec
from climp_bench.models.store import locate, refuse_non_finite

if TYPE_CHECKING:
    from climp_bench.models.dual_encoder import DualEncoder


class Weights(Protocol):
    """Weights that can be read: stored ones (``store.WeightsRef``), or a file of another project's."""

    @property
    def digest(self) -> str:
        """What identifies the weights, in records and in the keys of embeddings."""

    @property
    def source(self) -> str:
        """Where they come from, for the user and the record."""

    def tokenizer(self, spec: ModelSpec) -> tokenizers.Tokenizer:
        """The tokenizer that goes with them. Raises ``WeightsError`` if there is none."""

    def read(self, spec: ModelSpec) -> Mapping[str, Tensor]:
        """Every tensor of ``spec``'s model, checked. Raises ``WeightsError``."""


@dataclass(frozen=True)
class RandomWeights:
    """Freshly initialised weights: for efficiency, and to try a path through the program."""

    seed: int = 0
    source: str = "random"

    @property
    def digest(self) -> str:
        """Names the seed; embeddings of random weights are cached under it."""
        return f"random-{self.seed}"

    def tokenizer(self, spec: ModelSpec) -> tokenizers.Tokenizer:
        """The shipped tokenizer of that name; the embedded data's own stands in for any other."""
        return tokenizers.load(spec.tokenizer if tokenizers.is_shipped(spec.tokenizer) else "scenes-bpe")

    def read(self, spec: ModelSpec) -> Mapping[str, Tensor]:
        """The initial weights of ``spec`` for this seed."""
        return build(spec, self.seed).state_dict()


@dataclass(frozen=True)
class Choice:
    """A model picked by name: its spec, its weights if it has any, and why, for the user and the record."""

    spec: ModelSpec
    ref: Weights | None
    reason: str


def resolve(name: str, scale: str | None = None) -> Choice:
    """Pick a model by name: at ``scale``, else the largest scale with stored weights, else the smallest.

    Raises:
        UsageError: there is no such model.
        WeightsError: its stored weights are damaged.
    """
    family, scale = split_name(name, scale)
    if scale is not None:
        spec = find(family, scale)
        ref = locate(spec)
        found = f"weights: {ref.source}" if ref else f"no weights are stored. {ways_to_get(spec)}"
        return Choice(spec, ref, f"{spec.name} as asked ({found})")
    find(family)  # makes models of other packages known
    candidates = scales_of(family)
    for spec in reversed(candidates):
        if ref := locate(spec):
            others = [other.scale for other in candidates if other is not spec]
            hint = f"; for another: --scale {' or '.join(others)}" if others else ""
            reason = f"{spec.name}: the largest scale with stored weights ({ref.source}){hint}"
            return Choice(spec, ref, reason)
    spec = candidates[0]
    return Choice(spec, None, f"{spec.name}: no scale of {family} has stored weights. {ways_to_get(spec)}")


def ways_to_get(spec: ModelSpec) -> str:
    """What the user can do about missing weights, one sentence."""
    if spec.scale == "micro":
        return f"Make some with `climp-bench train {spec.family} --scale micro`."
    ways = [
        f"`climp-bench models import {spec.name} PATH`",
        "--weights PATH or --weights hf:REPO",
        "--random-weights for a trial",
    ]
    if spec.origin.weights:
        ways.insert(0, f"`climp-bench models pull {spec.name}`")
    return f"Ways to get weights: {'; '.join(ways)}."


def load(spec: ModelSpec, ref: Weights, device: str | torch.device = "cpu") -> DualEncoder:
    """Build ``spec`` with the weights of ``ref``, float32, in evaluation mode, on ``device``.

    Stored tensors take the place of the model's own without a copy, so that one set of weights is in memory.

    Raises:
        WeightsError: a file is missing, is not the one its digest names or is truncated; the weights are of
            another model; a key is missing, unexpected or misshapen (all are listed); a weight is not finite.
    """
    state = ref.read(spec)
    with _parameters_on_meta():
        model = build(spec)
    check_keys(model.state_dict(), state, ref.source)
    refuse_non_finite(state, ref.source)
    model.load_state_dict(dict(state), assign=True)
    return model.float().eval().to(device)


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Modules made inside get parameters without memory, and real buffers: no checkpoint may hold those."""
    register = nn.Module.register_parameter

    def register_on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        register(module, name, parameter)
        if parameter is not None:
            module._parameters[name] = nn.Parameter(parameter.to("meta"), parameter.requires_grad)

    with patch.object(nn.Module, "register_parameter", register_on_meta):
        yield
