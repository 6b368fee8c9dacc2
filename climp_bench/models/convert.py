"""From the key layouts of other projects to ours: every tensor is taken over, or named in one error.

Layouts understood: our own, which the released CLIMP models share; the official VMamba checkpoints, with old
names too; Mamba-1 and Mamba-2 as transformers and state-spaces store them; transformers' LLaMA; timm's vision
transformers. Only heads that our towers do not have are left out, and ``_LAYOUTS`` lists those.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from climp_bench.errors import WeightsError
from climp_bench.models.catalogue import build, build_tower
from climp_bench.models.configs import FlexiVitConfig, LlamaTextConfig, NaFlexVitConfig, RopeVitConfig
from climp_bench.models.mamba1 import Mamba1Config
from climp_bench.models.mamba2 import Mamba2Config
from climp_bench.models.spec import ModelSpec
from climp_bench.models.vmamba import VMambaConfig

State = Mapping[str, Tensor]
_IMAGE, _TEXT = "vision_encoder.", "text_encoder."
_LISTED = 8
"""How many keys of a kind an error names."""


def to_model(state: State, spec: ModelSpec, where: str) -> dict[str, Tensor]:
    """The tensors of a trained dual encoder under the names and in the shapes of ``spec``'s model.

    Dtypes stay; memory is shared with ``state``.

    Args:
        state: what a checkpoint holds; wrappers' prefixes (``module.``, ``_orig_mod.``) are understood.
        spec: the model wanted.
        where: the checkpoint, for errors.

    Raises:
        WeightsError: keys are missing, unexpected or misshapen; what the file is instead, if that is clear.
    """
    with torch.device("meta"):
        model = build(spec)
    plain = _unwrapped(state, where)
    found = {key: tensor for key, tensor in plain.items() if not key.startswith((_IMAGE, _TEXT))}
    towers = ((_IMAGE, spec.image, model.vision_encoder), (_TEXT, spec.text, model.text_encoder))
    for prefix, config, tower in towers:
        part = {key.removeprefix(prefix): plain[key] for key in plain if key.startswith(prefix)}
        for key, tensor in _renamed(part, config, tower, where).items():
            found[prefix + key] = tensor
    return _fitted(model.state_dict(), found, where)


def to_tower(state: State, config: Any, where: str) -> dict[str, Tensor]:
    """The tensors of one pretrained tower under the names and in the shapes of ``config``'s tower.

    Args:
        state: what a checkpoint of that tower alone holds.
        config: configuration of the tower wanted.
        where: the checkpoint, for errors.

    Raises:
        WeightsError: as ``to_model``.
    """
    with torch.device("meta"):
        tower = build_tower(config)
    return _fitted(tower.state_dict(), _renamed(_unwrapped(state, where), config, tower, where), where)


def check_keys(expected: State, found: State, where: str) -> None:
    """Raise ``WeightsError`` with the missing, unexpected, misshapen and mistyped keys, if there are any."""
    common = [(key, found[key], tensor) for key, tensor in expected.items() if key in found]
    problems = (
        [f"missing {key}" for key in expected if key not in found],
        [f"unexpected {key}" for key in found if key not in expected],
        [
            f"misshapen {key}: {tuple(got.shape)} instead of {tuple(wanted.shape)}"
            for key, got, wanted in common
            if got.shape != wanted.shape
        ],
        [
            f"mistyped {key}: {got.dtype} instead of floating point"
            for key, got, wanted in common
            if wanted.is_floating_point() and not got.is_floating_point()
        ],
    )
    if not any(problems):
        return
    listing = ", ".join(_listed(kind) for kind in problems if kind)
    what = f"{sum(map(len, problems))} keys do not fit the model: {listing}"
    holds, needed = _recognised(found), _recognised(expected)
    if holds and holds != needed:
        what = f"the file holds {holds}{f', and {needed} is needed' if needed else ''}; {what}"
    remedy = "Name the model they were made for, or train this one."
    if holds in {name for *_, name in _PEERS}:
        remedy = "Evaluate it under its own name: --model open_clip:ARCH/PRETRAINED or --model hf:REPO."
    raise WeightsError(what, where=where, remedy=remedy)


def _listed(problems: list[str]) -> str:
    kind, more = problems[0].partition(" ")[0], len(problems) - _LISTED
    return ", ".join(problems[:_LISTED]) + (f" and {more} more {kind}" if more > 0 else "")


def _from_plain_vit(state: dict[str, Tensor], tower: Any) -> dict[str, Tensor]:
    """NaFlexViT's layout from that of timm's ``VisionTransformer``, whose embeddings have other shapes."""
    from timm.models.naflexvit import checkpoint_filter_fn

    patches, positions = state.get("patch_embed.proj.weight"), state.get("pos_embed")
    if patches is None or patches.dim() != 4 or positions is None or positions.dim() != 3:
        return state
    if positions.shape[1] != tower.trunk.embeds.pos_embed[0, :, :, 0].numel():  # timm would add what is over
        return state
    return dict(checkpoint_filter_fn(dict(state), tower.trunk))


@dataclass(frozen=True)
class _Layout:
    """How the checkpoints of one kind of tower differ from ours.

    Attributes:
        renames: regular expressions and replacements, applied to every key in order.
        dropped: regular expression of the renamed keys that no tower of ours has.
        rebuild: what renaming cannot do; called first.
    """

    renames: tuple[tuple[str, str], ...] = ()
    dropped: str = r"(?!)"
    rebuild: Callable[[dict[str, Tensor], Any], dict[str, Tensor]] | None = None

    def rename(self, key: str) -> str:
        for pattern, replacement in self.renames:
            key = re.sub(pattern, replacement, key)
        return key


_MAMBA = _Layout(((r"^backbone\.", ""), (r"^embedding\.", "embeddings.")), r"lm_head\.weight")
_TIMM = _Layout(((r"^(?!trunk\.)", "trunk."),), r"trunk\.head\.(weight|bias)")
_LAYOUTS: dict[type, _Layout] = {
    VMambaConfig: _Layout(
        (
            (r"\.ln_1\.", ".norm."),
            (r"\.self_attention\.", ".op."),
            (r"^(norm|head)\.", r"classifier.\1."),
        ),
        r"classifier\.head\.(weight|bias)",
    ),
    Mamba1Config: _MAMBA,
    Mamba2Config: _MAMBA,
    LlamaTextConfig: _Layout(
        ((r"^(?!model\.|lm_head\.)", "model."),),
        r"lm_head\.weight|model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",
    ),
    RopeVitConfig: _TIMM,
    FlexiVitConfig: _TIMM,
    NaFlexVitConfig: _Layout(_TIMM.renames, _TIMM.dropped, _from_plain_vit),
}
_PLAIN = _Layout()
"""For towers that other packages register."""


def _renamed(state: State, config: Any, tower: nn.Module, where: str) -> dict[str, Tensor]:
    """``state`` under the names of ``tower``; keys that none of its names answers to stay as they are."""
    layout = _LAYOUTS.get(type(config), _PLAIN)
    expected = tower.state_dict()
    source = layout.rebuild(dict(state), tower) if layout.rebuild else state
    result: dict[str, Tensor] = {}
    for key, tensor in source.items():
        name = layout.rename(key)
        if not re.fullmatch(layout.dropped, name):
            _put(result, name if name in expected else key, tensor, where)
    return result


def _unwrapped(state: State, where: str) -> dict[str, Tensor]:
    """``state`` without the prefixes of DistributedDataParallel and torch.compile."""
    result: dict[str, Tensor] = {}
    for key, tensor in state.items():
        _put(result, re.sub(r"(^|\.)(?:_orig_mod\.)+", r"\1", key), tensor, where)
    while result and all(key.startswith("module.") for key in result):
        result = {key.removeprefix("module."): tensor for key, tensor in result.items()}
    return result


def _put(state: dict[str, Tensor], key: str, tensor: Tensor, where: str) -> None:
    if key in state:
        raise WeightsError(
            f"two tensors stand for {key}",
            where=where,
            remedy="Save the checkpoint again with one of them only.",
        )
    state[key] = tensor


def _fitted(expected: State, found: dict[str, Tensor], where: str) -> dict[str, Tensor]:
    """``found`` in the order and the shapes of ``expected``, once every key is accounted for.

    Trailing axes of length 1 are taken off: projections stored as 1x1 convolutions, the logit scale as (1,).
    """
    for key, tensor in found.items():
        wanted = expected[key].shape if key in expected else tensor.shape
        if tensor.shape[: len(wanted)] == wanted and tensor.numel() == wanted.numel():
            found[key] = tensor.reshape(wanted)
    check_keys(expected, found, where)
    return {key: found[key].contiguous() for key in expected}


_KINDS = (
    (r"\.x_proj_weight$", "VMamba"),
    (r"\.mixer\.x_proj\.weight$", "Mamba-1"),
    (r"\.mixer\.dt_bias$", "Mamba-2"),
    (r"\.mlp\.gate_proj\.weight$", "LLaMA"),
    (r"(^|\.)embeds\.proj\.weight$", "NaFlexViT"),
    (r"(^|\.)pos_embed$", "plain ViT"),
    (r"(^|\.trunk\.)blocks\.0\.attn\.qkv\.weight$", "RoPE-ViT"),
)
_PEERS = (
    (r"^visual\.", r"^(transformer\.resblocks|text)\.", "an OpenCLIP model"),
    (r"^vision_model\.", r"^text_model\.", "a dual encoder of transformers"),
)


def _recognised(state: State) -> str:
    """What a checkpoint is, in plain words, by the keys that only such a one has; "" if that is not clear."""
    for image, text, name in _PEERS:
        if any(re.search(image, key) for key in state) and any(re.search(text, key) for key in state):
            return name
    towers = [[key for key in state if key.startswith(prefix)] for prefix in (_IMAGE, _TEXT)]
    if all(towers):
        return f"a dual encoder of {' and '.join(_kind(keys) or 'another tower' for keys in towers)}"
    kind = _kind(state)
    return f"a {kind} tower alone" if kind else ""


def _kind(keys: Iterable[str]) -> str:
    keys = list(keys)
    return next((name for mark, name in _KINDS if any(re.search(mark, key) for key in keys)), "")
