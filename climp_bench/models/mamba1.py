"""Mamba-1 as a text tower: the hidden state of the last token after the final norm.

Source: Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces" (2023), figure 3.
Parameter names are those of transformers' ``MambaModel``, in which the released text towers are stored.
Axis letters: see ``climp_bench.specs``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from climp_bench.models._blocks import (
    CausalConvSilu,
    MambaTower,
    at_least_float32,
    init_residual_projection,
    step_size_bias,
)
from climp_bench.ops import selective_scan


@dataclass(frozen=True)
class Mamba1Config:
    """Shape of a Mamba-1 tower.

    Attributes:
        vocab_size: rows of the embedding table.
        d_model: channels of the residual stream.
        n_layer: number of blocks.
        d_state: state size N of each channel.
        expand: channels of the scan over ``d_model``.
        d_conv: taps of the causal convolution.
        dt_rank: rank of the step-size projection; ``auto`` is ``ceil(d_model / 16)``.
        eps: of the RMS norms.
    """

    vocab_size: int
    d_model: int
    n_layer: int
    d_state: int = 16
    expand: int = 2
    d_conv: int = 4
    dt_rank: int | Literal["auto"] = "auto"
    eps: float = 1e-5

    @property
    def d_inner(self) -> int:
        """Channels of the scan."""
        return self.expand * self.d_model

    @property
    def rank(self) -> int:
        """``dt_rank`` as a number."""
        return math.ceil(self.d_model / 16) if self.dt_rank == "auto" else self.dt_rank


class Mamba1(MambaTower):
    """A Mamba-1 text tower.

    Args:
        config: its shape.
    """

    def __init__(self, config: Mamba1Config) -> None:
        mixers = (_Mixer(config) for _ in range(config.n_layer))
        super().__init__(config.vocab_size, config.d_model, mixers, config.eps, "selective_scan")
        self.config = config


class _Mixer(nn.Module):
    """Projection, causal convolution, selective scan, gate, projection."""

    def __init__(self, config: Mamba1Config) -> None:
        super().__init__()
        inner, state, rank = config.d_inner, config.d_state, config.rank
        self.split = [rank, state, state]
        self.in_proj = nn.Linear(config.d_model, 2 * inner, bias=False)
        self.conv1d = CausalConvSilu(inner, config.d_conv, "selective_scan")
        self.x_proj = nn.Linear(inner, rank + 2 * state, bias=False)
        self.dt_proj = nn.Linear(rank, inner)
        self.A_log = nn.Parameter(torch.arange(1, state + 1, dtype=torch.float32).log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, config.d_model, bias=False)
        nn.init.uniform_(self.dt_proj.weight, -(rank**-0.5), rank**-0.5)
        with torch.no_grad():
            self.dt_proj.bias.copy_(step_size_bias(inner))
        init_residual_projection(self.out_proj.weight, config.n_layer)

    def forward(self, x_BLD: Tensor) -> Tensor:
        u, z = self.in_proj(x_BLD).chunk(2, dim=-1)
        u = self.conv1d(u)
        low, B, C = torch.split(self.x_proj(u), self.split, dim=-1)
        A = -torch.exp(at_least_float32(self.A_log))
        delta = F.linear(low, self.dt_proj.weight)
        y = selective_scan(u, delta, A, B, C, self.D, delta_bias_D=self.dt_proj.bias, z_BLD=z)
        out: Tensor = self.out_proj(y)
        return out
