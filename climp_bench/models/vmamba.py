"""VMamba as an image tower, in the form of the released ``v05_noz`` models.

Source: Liu et al., "VMamba: Visual State Space Model" (2024), figure 3 and appendix; names of parameters are
those of the official checkpoints. The released code works channels first; here every layer works on
(B, H, W, C), with the same weights. Axis letters: see ``climp_bench.specs``; E is the scan's channels.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from climp_bench.models._blocks import DropPath, step_size_bias
from climp_bench.ops import fusing, pixelwise, ss2d
from climp_bench.ops.ss2d import DIRECTIONS


@dataclass(frozen=True)
class VMambaConfig:
    """Shape of a VMamba tower.

    Attributes:
        dims: channels of each stage.
        depths: blocks of each stage.
        ssm_ratio: channels of the scan over those of the stage.
        d_state: state size N of each channel.
        mlp_ratio: hidden over outer width of the MLP.
        drop_path: rate of stochastic depth in the last block; it grows linearly from 0 in the first.
        dt_init: how the scan starts: ``v2`` as the released models (A = -1, step-size projection uniform in
            [0, 0.1]), ``v0`` as Mamba (A = -1..-N, step sizes log-uniform in [1e-3, 1e-1]).
        in_chans: channels of the image.
    """

    dims: tuple[int, ...]
    depths: tuple[int, ...]
    ssm_ratio: float = 2.0
    d_state: int = 1
    mlp_ratio: float = 4.0
    drop_path: float = 0.0
    dt_init: Literal["v2", "v0"] = "v2"
    in_chans: int = 3

    def __post_init__(self) -> None:
        if len(self.dims) != len(self.depths) or not self.dims:
            raise ValueError(f"dims {self.dims} and depths {self.depths} must have one entry a stage")


VMAMBA_TINY = VMambaConfig((96, 192, 384, 768), (2, 2, 8, 2), ssm_ratio=1.0, drop_path=0.2)
VMAMBA_SMALL = VMambaConfig((96, 192, 384, 768), (2, 2, 15, 2), drop_path=0.3)
VMAMBA_BASE = VMambaConfig((128, 256, 512, 1024), (2, 2, 15, 2), drop_path=0.6)
VMAMBA_BASE_S1 = VMambaConfig((128, 256, 512, 1024), (2, 2, 20, 2), ssm_ratio=1.0, drop_path=0.5)


class VMamba(nn.Module):
    """A VMamba image tower.

    Args:
        config: its shape.
    """

    def __init__(self, config: VMambaConfig) -> None:
        super().__init__()
        self.config = config
        self.out_dim = config.dims[-1]
        self.patch_embed = _stem(config.in_chans, config.dims[0])
        rates = iter(torch.linspace(0, config.drop_path, sum(config.depths), device="cpu").tolist())
        self.layers = nn.Sequential()
        for dim, depth, following in zip(config.dims, config.depths, (*config.dims[1:], None), strict=True):
            stage = nn.Sequential()
            blocks = (_Block(config, dim, next(rates)) for _ in range(depth))
            stage.add_module("blocks", nn.Sequential(*blocks))
            if following is not None:
                stage.add_module("downsample", _downsample(dim, following))
            self.layers.append(stage)
        self.classifier = nn.Sequential(OrderedDict(norm=_LayerNorm(self.out_dim)))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Features of the image, (B, out_dim): the mean over the pixels of ``forward_features``.

        Args:
            images_BCHW: normalised images of any height and width.
        """
        return self.forward_features(images_BCHW).mean((1, 2))

    def forward_features(self, images_BCHW: Tensor) -> Tensor:
        """Features of each pixel of the last stage after the norm, (B, h, w, out_dim).

        With four stages h and w are H / 32 and W / 32, rounded up.
        """
        x_BHWC = self.patch_embed(images_BCHW.permute(0, 2, 3, 1))
        fused = not self.training and fusing.is_fused("ss2d", x_BHWC, self.parameters())
        features: Tensor = self.classifier(self._infer(x_BHWC) if fused else self.layers(x_BHWC))
        return features

    def _infer(self, x_BHWC: Tensor) -> Tensor:
        """``self.layers`` by fused kernels, without gradients; overwrites its input."""
        for stage in self.layers.children():
            for name, part in stage.named_children():
                x_BHWC = _infer_blocks(part, x_BHWC.contiguous()) if name == "blocks" else part(x_BHWC)
        return x_BHWC


def _infer_blocks(blocks: nn.Module, x_BHWC: Tensor) -> Tensor:
    """The blocks of a stage, where the end of one and the beginning of the next are one kernel."""
    dtype = fusing.working_dtype(x_BHWC)
    branch: Tensor | None = None
    for block in cast(Iterable[_Block], blocks.children()):
        branch = block.op.infer(pixelwise.add_norm_(x_BHWC, branch, block.norm, dtype))
        normed = pixelwise.add_norm_(x_BHWC, branch, block.norm2, dtype)
        del branch
        branch = pixelwise.mlp(normed, block.mlp.fc1, block.mlp.fc2)
        del normed
    return x_BHWC if branch is None else x_BHWC.add_(branch)


def _stem(in_chans: int, dim: int) -> nn.Sequential:
    """Two strided convolutions; the identities keep the official numbering."""
    return nn.Sequential(
        _Conv2d(in_chans, dim // 2, 3, stride=2, padding=1),
        nn.Identity(),
        _LayerNorm(dim // 2),
        nn.Identity(),
        nn.GELU(),
        _Conv2d(dim // 2, dim, 3, stride=2, padding=1),
        nn.Identity(),
        _LayerNorm(dim),
    )


def _downsample(dim: int, following: int) -> nn.Sequential:
    """A strided convolution between stages; the identities keep the official numbering."""
    return nn.Sequential(
        nn.Identity(), _Conv2d(dim, following, 3, stride=2, padding=1), nn.Identity(), _LayerNorm(following)
    )


class _Conv2d(nn.Conv2d):
    """A convolution on (B, H, W, C)."""

    def forward(self, x_BHWC: Tensor) -> Tensor:
        return super().forward(x_BHWC.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class _LayerNorm(nn.LayerNorm):
    """A layer norm over the last axis that is fused where the blocks are."""

    def forward(self, x: Tensor) -> Tensor:
        if fusing.is_fused("ss2d", x, self.parameters()):
            return pixelwise.add_norm_(x.contiguous(), None, self, self.weight.dtype)
        return super().forward(x)


class _Linear(nn.Linear):
    """A linear layer that also loads weights stored as a 1x1 convolution's, (out, in, 1, 1)."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias)
        nn.init.trunc_normal_(self.weight, std=0.02)
        if bias:
            nn.init.zeros_(self.bias)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        stored = state_dict.get(prefix + "weight")
        if stored is not None and stored.shape[2:] == (1, 1):
            state_dict[prefix + "weight"] = stored.flatten(1)
        super()._load_from_state_dict(state_dict, prefix, *args)


class _Block(nn.Module):
    """``x + SS2D(norm(x))``, then ``x + MLP(norm2(x))``."""

    def __init__(self, config: VMambaConfig, dim: int, drop_path: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.op = _SS2D(config, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = _MLP(dim, int(config.mlp_ratio * dim))
        self.drop_path = DropPath(drop_path)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        x: Tensor = x_BHWC + self.drop_path(self.op(self.norm(x_BHWC)))
        return x + cast(Tensor, self.drop_path(self.mlp(self.norm2(x))))


class _MLP(nn.Module):
    """Linear, GELU, linear."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = _Linear(dim, hidden)
        self.fc2 = _Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class _SS2D(nn.Module):
    """Projection, depthwise convolution, four-direction scan, norm, projection."""

    def __init__(self, config: VMambaConfig, dim: int) -> None:
        super().__init__()
        inner, rank, state = int(config.ssm_ratio * dim), math.ceil(dim / 16), config.d_state
        self.inner, self.state = inner, state
        self.in_proj = _Linear(dim, inner, bias=False)
        self.conv2d = _Conv2d(inner, inner, 3, padding=1, groups=inner, bias=False)
        self.x_proj_weight = nn.Parameter(torch.empty(DIRECTIONS, rank + 2 * state, inner))
        self.dt_projs_weight = nn.Parameter(torch.empty(DIRECTIONS, inner, rank))
        self.dt_projs_bias = nn.Parameter(torch.empty(DIRECTIONS, inner))
        self.A_logs = nn.Parameter(torch.zeros(DIRECTIONS * inner, state))
        self.Ds = nn.Parameter(torch.ones(DIRECTIONS * inner))
        self.out_norm = nn.LayerNorm(inner)
        self.out_proj = _Linear(inner, dim, bias=False)
        self._init_scan(config.dt_init, rank)

    @torch.no_grad()
    def _init_scan(self, scheme: str, rank: int) -> None:
        bound = self.inner**-0.5  # nn.Linear's default
        nn.init.uniform_(self.x_proj_weight, -bound, bound)
        if scheme == "v2":
            nn.init.uniform_(self.dt_projs_weight, 0, 0.1)
            nn.init.uniform_(self.dt_projs_bias, 0, 0.1)
        else:
            nn.init.uniform_(self.dt_projs_weight, -(rank**-0.5), rank**-0.5)
            self.dt_projs_bias.copy_(step_size_bias(DIRECTIONS, self.inner))
            self.A_logs.copy_(torch.arange(1, self.state + 1).log().expand_as(self.A_logs))

    def forward(self, x_BHWC: Tensor) -> Tensor:
        x_BHWE = F.silu(self.conv2d(self.in_proj(x_BHWC)))
        projected = F.linear(x_BHWE, self.x_proj_weight.flatten(0, 1))
        x_dbl_BHWKC = torch.unflatten(projected, -1, (DIRECTIONS, -1))
        y_BHWE = ss2d(
            x_BHWE,
            x_dbl_BHWKC,
            self.dt_projs_weight,
            self.dt_projs_bias,
            self.A_logs.view(DIRECTIONS, self.inner, self.state),
            self.Ds.view(DIRECTIONS, self.inner),
        )
        out: Tensor = self.out_proj(self.out_norm(y_BHWE.to(self.out_norm.weight.dtype)))
        return out

    def infer(self, x_BHWC: Tensor) -> Tensor:
        """``forward`` by fused kernels, without gradients."""
        x_BHWE = pixelwise.conv_silu(self.in_proj(x_BHWC), self.conv2d.weight)
        del x_BHWC
        projected = F.linear(x_BHWE, self.x_proj_weight.flatten(0, 1))
        y_BHWE = pixelwise.ss2d_norm(
            x_BHWE,
            torch.unflatten(projected, -1, (DIRECTIONS, -1)),
            self.dt_projs_weight,
            self.dt_projs_bias,
            self.A_logs.view(DIRECTIONS, self.inner, self.state),
            self.Ds.view(DIRECTIONS, self.inner),
            self.out_norm,
        )
        del x_BHWE, projected
        out: Tensor = self.out_proj(y_BHWE)
        return out
