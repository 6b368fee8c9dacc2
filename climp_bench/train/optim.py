"""The optimiser: what decays, and how the learning rate moves."""

from __future__ import annotations

import math

import torch
from torch import nn

from climp_bench.train.config import TrainConfig

SCAN_PARAMETERS = frozenset({"A_log", "A_logs", "D", "Ds", "dt_bias", "dt_projs_bias"})
"""Parameters of a scan that set its time scale and skip; the Mamba reference exempts A_log and D as well."""


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay applies: to matrices and kernels, not to vectors or parameters of a scan."""
    return parameter.ndim >= 2 and name.rsplit(".", 1)[-1] not in SCAN_PARAMETERS


def make_optimiser(model: nn.Module, config: TrainConfig, device: str) -> torch.optim.AdamW:
    """AdamW with a decayed and an undecayed group; fused on CUDA."""
    named = list(model.named_parameters())
    groups = [
        {"params": [p for n, p in named if decays(n, p)], "weight_decay": config.weight_decay},
        {"params": [p for n, p in named if not decays(n, p)], "weight_decay": 0.0},
    ]
    fused = device != "cpu"
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=fused)


def learning_rate(step: int, config: TrainConfig) -> float:
    """Linear warm-up to ``config.lr``, then half a cosine towards zero (Loshchilov and Hutter 2017).

    Args:
        step: steps taken before this one, so 0 for the first.
    """
    warmup = round(config.warmup_fraction * config.steps)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, config.steps - warmup)
    return config.lr * 0.5 * (1.0 + math.cos(math.pi * progress))
