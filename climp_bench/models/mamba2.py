"""Mamba-2 as a text tower: the hidden state of the last token after the final norm.

Source: Dao and Gu, "Transformers are SSMs: Generalized Models and Efficient Algorithms Through Structured
State Space Duality" (2024), section 7. Parameter names are those of transformers' ``Mamba2Model``, in which
the released text towers are stored. Axis letters: see ``climp_bench.specs``; H is heads here.
"""

from __future__ import annotations

from dataclasses import dataclass

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
from climp_bench.ops import ssd


@dataclass(frozen=True)
class Mamba2Config:
    """Shape of a Mamba-2 tower.

    Attributes:
        vocab_size: rows of the embedding table.
        d_model: channels of the residual stream.
        n_layer: number of blocks.
        d_state: state size N of each channel.
        head_dim: channels of a head; must divide ``expand * d_model``.
        expand: channels of the scan over ``d_model``.
        n_groups: groups of heads that share B and C; must divide the number of heads.
        d_conv: taps of the causal convolution.
        chunk_size: positions that the scan handles as one matrix product; it does not change the result.
        eps: of the RMS norms.
    """

    vocab_size: int
    d_model: int
    n_layer: int
    d_state: int = 128
    head_dim: int = 64
    expand: int = 2
    n_groups: int = 1
    d_conv: int = 4
    chunk_size: int = 256
    eps: float = 1e-5

    def __post_init__(self) -> None:
        if self.d_inner % self.head_dim:
            raise ValueError(f"head_dim {self.head_dim} does not divide the scan's {self.d_inner} channels")
        if self.n_head % self.n_groups:
            raise ValueError(f"{self.n_head} heads cannot be split into {self.n_groups} groups")

    @property
    def d_inner(self) -> int:
        """Channels of the scan."""
        return self.expand * self.d_model

    @property
    def n_head(self) -> int:
        """Heads of the scan."""
        return self.d_inner // self.head_dim


class Mamba2(MambaTower):
    """A Mamba-2 text tower.

    Args:
        config: its shape.
    """

    def __init__(self, config: Mamba2Config) -> None:
        mixers = (_Mixer(config) for _ in range(config.n_layer))
        super().__init__(config.vocab_size, config.d_model, mixers, config.eps, "ssd")
        self.config = config


class _GatedNorm(nn.Module):
    """RMS norm of ``y silu(z)`` over each group of channels, in float32; the gate comes first."""

    def __init__(self, channels: int, groups: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.groups = groups
        self.eps = eps

    def forward(self, y: Tensor, z: Tensor) -> Tensor:
        gated = at_least_float32(y) * F.silu(at_least_float32(z))
        grouped = torch.unflatten(gated, -1, (self.groups, -1))
        normed = F.rms_norm(grouped, grouped.shape[-1:], eps=self.eps).flatten(-2)
        return (normed * self.weight).to(y.dtype)


class _Mixer(nn.Module):
    """Projection to (z, x, B, C, dt), causal convolution of (x, B, C), scan, gated norm, projection."""

    def __init__(self, config: Mamba2Config) -> None:
        super().__init__()
        self.config = config
        inner, heads, shared = config.d_inner, config.n_head, config.n_groups * config.d_state
        self.split = [inner, inner + 2 * shared, heads]
        self.split_conv = [inner, shared, shared]
        self.in_proj = nn.Linear(config.d_model, sum(self.split), bias=False)
        self.conv1d = CausalConvSilu(inner + 2 * shared, config.d_conv, "ssd")
        self.dt_bias = nn.Parameter(step_size_bias(heads))
        self.A_log = nn.Parameter(torch.empty(heads).uniform_(1, 16).log())
        self.D = nn.Parameter(torch.ones(heads))
        self.norm = _GatedNorm(inner, config.n_groups, config.eps)
        self.out_proj = nn.Linear(inner, config.d_model, bias=False)
        init_residual_projection(self.out_proj.weight, config.n_layer)

    def forward(self, u_BLD: Tensor) -> Tensor:
        config = self.config
        z, xBC, dt = torch.split(self.in_proj(u_BLD), self.split, dim=-1)
        x, B, C = torch.split(self.conv1d(xBC), self.split_conv, dim=-1)
        y_BLHP = ssd(
            torch.unflatten(x, -1, (config.n_head, config.head_dim)),
            F.softplus(at_least_float32(dt) + at_least_float32(self.dt_bias)),
            -torch.exp(at_least_float32(self.A_log)),
            torch.unflatten(B, -1, (config.n_groups, config.d_state)),
            torch.unflatten(C, -1, (config.n_groups, config.d_state)),
            self.D,
            chunk_size=config.chunk_size,
        )
        out: Tensor = self.out_proj(self.norm(y_BLHP.flatten(-2), z))
        return out
