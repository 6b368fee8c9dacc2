"""Inputs of the state-space operators, to check their backends on and to time them with.

Values are as a tower produces them: A of a Mamba is -1 ... -N, step sizes mostly lie between 0.03 and 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from climp_bench.ops import selective_scan, ss2d, ssd

OPS: dict[str, Callable[..., Tensor]] = {"ss2d": ss2d, "selective_scan": selective_scan, "ssd": ssd}
ACTIVATIONS = {
    "selective_scan": {"u_BLD", "delta_BLD", "B_BLN", "C_BLN", "z_BLD"},
    "ss2d": {"x_BHWE", "x_dbl_BHWKC"},
    "ssd": {"x_BLHP", "B_BLGN", "C_BLGN"},
}
"""Arguments that come in the model's precision; all others are float32. Their first axis is the batch's."""
PER_SAMPLE = {op: names | ({"dt_BLH"} if op == "ssd" else set()) for op, names in ACTIVATIONS.items()}
"""Arguments whose first axis is the batch's."""


@dataclass(frozen=True)
class Case:
    """One call of an op.

    Attributes:
        op: its name.
        name: what is special about it.
        sizes: keyword arguments of ``_scan``, ``_image`` or ``_heads``.
        half: whether half precision is checked on it, whatever the dtype of the run.
        views: activations are slices of wider tensors, as ``torch.split`` makes them.
    """

    op: str
    name: str
    sizes: Mapping[str, Any]
    half: bool = False
    views: bool = False

    @property
    def shape(self) -> str:
        """The sizes as text: ``batch 8, length 77, ...``."""
        return ", ".join(f"{name} {value}" for name, value in self.sizes.items())


@dataclass(frozen=True)
class Inputs:
    """Arguments of an op: tensors by name, and the others."""

    tensors: dict[str, Tensor]
    options: dict[str, Any] = field(default_factory=dict)


def make_inputs(case: Case, device: str, dtype: torch.dtype, seed: int) -> Inputs:
    """The arguments of a case: the same for a seed on one device."""
    generator = torch.Generator(device).manual_seed(seed)
    draw = {
        "normal": partial(torch.randn, generator=generator, device=device),
        "uniform": partial(torch.rand, generator=generator, device=device),
    }
    inputs = _MAKERS[case.op](draw, dtype, **case.sizes)
    if case.views:
        tensors = {
            name: _view(t) if name in ACTIVATIONS[case.op] else t for name, t in inputs.tensors.items()
        }
        return Inputs(tensors, inputs.options)
    return inputs


def _view(t: Tensor) -> Tensor:
    """The same values as a slice of a tensor with more in its last axis."""
    wider = torch.cat([torch.full_like(t[..., :3], torch.nan), t, torch.full_like(t[..., :2], torch.nan)], -1)
    return wider[..., 3 : 3 + t.shape[-1]]


_Draw = dict[str, Callable[..., Tensor]]


def _scan(
    draw: _Draw,
    dtype: torch.dtype,
    *,
    batch: int,
    length: int,
    channels: int,
    state: int,
    plain: bool = False,
    decay: float = 1.0,
) -> Inputs:
    """``plain`` has no gate, no bias and no softplus; ``decay`` multiplies the step sizes."""
    normal, uniform = (partial(draw[kind], dtype=dtype) for kind in ("normal", "uniform"))
    D = draw["normal"](channels)
    if plain:
        delta, options = uniform(batch, length, channels) * 0.5, {"delta_softplus": False}
    else:
        delta, options = (normal(batch, length, channels) - 1) * decay, {}
    tensors = {
        "u_BLD": normal(batch, length, channels),
        "delta_BLD": delta,
        "A_DN": -torch.arange(1.0, state + 1, device=D.device).repeat(channels, 1),
        "B_BLN": normal(batch, length, state),
        "C_BLN": normal(batch, length, state),
        "D_D": D,
    }
    if not plain:
        tensors |= {
            "delta_bias_D": draw["uniform"](channels) - 1,
            "z_BLD": normal(batch, length, channels),
        }
    return Inputs(tensors, options)


def _image(
    draw: _Draw,
    dtype: torch.dtype,
    *,
    batch: int,
    height: int,
    width: int,
    channels: int,
    rank: int,
    state: int = 1,
    decay: float = 1.0,
) -> Inputs:
    """``decay`` multiplies the step sizes."""
    normal, parameter = partial(draw["normal"], dtype=dtype), draw["normal"]
    return Inputs(
        {
            "x_BHWE": normal(batch, height, width, channels),
            "x_dbl_BHWKC": normal(batch, height, width, 4, rank + 2 * state),
            "dt_weight_KER": parameter(4, channels, rank) * (decay * rank**-0.5),
            "dt_bias_KE": (parameter(4, channels) - 1) * decay,
            "A_logs_KEN": parameter(4, channels, state) * 0.5,
            "D_KE": parameter(4, channels),
        }
    )


def _heads(
    draw: _Draw,
    dtype: torch.dtype,
    *,
    batch: int,
    length: int,
    heads: int,
    channels: int,
    state: int,
    groups: int = 1,
    chunk_size: int = 256,
    decay: float = 1.0,
) -> Inputs:
    """``decay`` multiplies the step sizes."""
    normal, parameter = partial(draw["normal"], dtype=dtype), draw["normal"]
    D = parameter(heads)
    tensors = {
        "x_BLHP": normal(batch, length, heads, channels),
        "dt_BLH": draw["uniform"](batch, length, heads) * (0.2 * decay),
        "A_H": -torch.linspace(1, 16, heads, device=D.device),
        "B_BLGN": normal(batch, length, groups, state),
        "C_BLGN": normal(batch, length, groups, state),
        "D_H": D,
    }
    return Inputs(tensors, {"chunk_size": chunk_size})


_MAKERS: dict[str, Callable[..., Inputs]] = {"selective_scan": _scan, "ss2d": _image, "ssd": _heads}
