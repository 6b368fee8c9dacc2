"""Pieces that several towers share. Axis letters: see ``climp_bench.specs``."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from climp_bench.ops.fusing import is_fused, working_dtype
from climp_bench.ops.tokenwise import add_rms_norm_, causal_conv_silu

# Range and floor of the step sizes at initialisation (Gu and Dao 2023, section 3.6 and reference code).
_DT_MIN, _DT_MAX, _DT_FLOOR = 1e-3, 1e-1, 1e-4


class RMSNorm(nn.Module):
    """Root-mean-square norm (Zhang and Sennrich 2019), computed in float32, returned in the weight's dtype.

    Args:
        channels: D.
        eps: added to the mean square.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis of (..., D)."""
        wide = at_least_float32(x)
        return F.rms_norm(wide, self.weight.shape, self.weight.to(wide.dtype), self.eps).to(self.weight.dtype)


class CausalConvSilu(nn.Conv1d):
    """SiLU of a depthwise convolution over (B, L, D) in which position t sees t - width + 1 .. t.

    Args:
        channels: D.
        width: taps.
        scan: the operator that comes after it.
    """

    def __init__(self, channels: int, width: int, scan: str) -> None:
        super().__init__(channels, channels, width, groups=channels)
        self.scan = scan

    def forward(self, x_BLD: Tensor) -> Tensor:
        """Convolve along L; zeros stand before the first position."""
        assert self.bias is not None
        return causal_conv_silu(x_BLD, self.weight[:, 0], self.bias, self.scan)


class DropPath(nn.Module):
    """Drop a residual branch of a whole sample while training (Huang et al. 2016), keeping its expectation.

    Args:
        rate: probability of dropping, in [0, 1).
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Scale each sample of (B, ...) by 0 or 1 / (1 - rate); the identity in eval mode."""
        if not self.training or self.rate == 0:
            return x
        keep = x.new_empty(x.shape[0], *[1] * (x.dim() - 1)).bernoulli_(1 - self.rate)
        return x * keep.div_(1 - self.rate)


class MambaTower(nn.Module):
    """A causal text tower whose blocks are ``x + mixer(norm(x))``; its feature is the last token's.

    Being causal, it never sees padding on the right, so it needs no mask. The residual stream is float32.

    Args:
        vocab_size: rows of the embedding table.
        d_model: D.
        mixers: the mixer of each block, (B, L, D) -> (B, L, D).
        eps: of the RMS norms.
        scan: the operator of the mixers.
    """

    def __init__(
        self, vocab_size: int, d_model: int, mixers: Iterable[nn.Module], eps: float, scan: str
    ) -> None:
        super().__init__()
        self.out_dim, self.scan = d_model, scan
        self.embeddings = nn.Embedding(vocab_size, d_model)
        self.layers = nn.Sequential(*(_MambaBlock(d_model, mixer, eps) for mixer in mixers))
        self.norm_f = RMSNorm(d_model, eps)
        nn.init.normal_(self.embeddings.weight, std=0.02)

    def forward(self, ids_BL: Tensor, lengths_B: Tensor) -> Tensor:
        """Features of the last real token, (B, out_dim).

        Args:
            ids_BL: token ids, padded on the right with any valid id.
            lengths_B: number of real tokens of each row, at least 1.
        """
        features_BLD = self.forward_features(ids_BL)
        rows = torch.arange(len(ids_BL), device=ids_BL.device)
        return features_BLD[rows, lengths_B.to(ids_BL.device) - 1]

    def forward_features(self, ids_BL: Tensor) -> Tensor:
        """Features of every token after the final norm, (B, L, out_dim)."""
        x_BLD = self.embeddings(ids_BL)
        if is_fused(self.scan, x_BLD, self.parameters()):
            return self._infer(x_BLD)
        features_BLD: Tensor = self.norm_f(self.layers(x_BLD))
        return features_BLD

    def _infer(self, x_BLD: Tensor) -> Tensor:
        """The same without gradients, the end of a block and the beginning of the next in one kernel."""
        dtype = working_dtype(x_BLD)
        x_BLD = at_least_float32(x_BLD)  # nobody else has it: it is overwritten
        branch: Tensor | None = None
        for block in cast(Iterable[_MambaBlock], self.layers):
            branch = block.mixer(add_rms_norm_(x_BLD, branch, block.norm.weight, block.norm.eps, dtype))
        final = self.norm_f
        return add_rms_norm_(x_BLD, branch, final.weight, final.eps, final.weight.dtype)


class _MambaBlock(nn.Module):
    """``x + mixer(norm(x))``, the sum in float32."""

    def __init__(self, channels: int, mixer: nn.Module, eps: float) -> None:
        super().__init__()
        self.norm = RMSNorm(channels, eps)
        self.mixer = mixer

    def forward(self, x_BLD: Tensor) -> Tensor:
        branch: Tensor = self.mixer(self.norm(x_BLD))
        return branch + at_least_float32(x_BLD)


def at_least_float32(x: Tensor) -> Tensor:
    """The tensor in float32, or float64 if it is float64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def step_size_bias(*shape: int) -> Tensor:
    """Biases whose softplus is log-uniform in [1e-3, 1e-1] (Gu and Dao 2023, section 3.6)."""
    dt = torch.exp(torch.empty(*shape).uniform_(math.log(_DT_MIN), math.log(_DT_MAX))).clamp_(min=_DT_FLOOR)
    return dt + torch.log(-torch.expm1(-dt))


def init_residual_projection(weight: Tensor, branches: int) -> None:
    """Linear's default initialisation over sqrt(residual branches), as Mamba's reference does after GPT-2."""
    bound = 1 / math.sqrt(weight.shape[1] * branches)
    nn.init.uniform_(weight, -bound, bound)
