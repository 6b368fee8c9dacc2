"""The optimiser: what decays, and how the learning rate moves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from climp_bench.train.config import TrainConfig

SCAN_PARAMETERS = frozenset({"A_log", "A_logs", "D", "Ds", "dt_bias", "dt_projs_bias"})
"""Parameters of a scan that set its time scale and skip; the Mamba reference exempts A_log and D as well."""


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay applies: to matrices and kernels, not to vectors or parameters of a scan."""
    return parameter.ndim >= 2 and name.rsplit(".", 1)[-1] not in SCAN_PARAMETERS


def make_optimiser(model: nn.Module, config: TrainConfig, device: str) -> torch.optim.AdamW:
    """AdamW with a decayed and an undecayed group; fused on CUDA."""
    named = dict(model.named_parameters())
    return adamw(
        named, device, lr=config.lr, weight_decay=config.weight_decay, betas=config.betas, eps=config.eps
    )


def adamw(
    named: Mapping[str, nn.Parameter], device: str, *, weight_decay: float, **options: Any
) -> torch.optim.AdamW:
    """AdamW with a decayed and an undecayed group, each once more for shards; fused on CUDA.

    Args:
        named: parameters by name; whole ones and shards (FSDP2) do not mix in one group.
        device: ``cpu`` or ``cuda``.
        weight_decay: of the parameters that ``decays`` says.
        **options: ``lr``, ``betas`` and ``eps``.
    """
    groups = [
        {
            "params": [
                p for n, p in named.items() if decays(n, p) == decayed and (type(p.data) is Tensor) == whole
            ],
            "weight_decay": weight_decay * decayed,
        }
        for whole in (True, False)
        for decayed in (True, False)
    ]
    kept = [group for k, group in enumerate(groups) if k < 2 or group["params"]]
    return torch.optim.AdamW(kept, fused=device != "cpu", **options)


def learning_rate(step: int, config: TrainConfig) -> float:
    """``cosine`` of a configuration."""
    return cosine(step, config.lr, round(config.warmup_fraction * config.steps), config.steps)


def cosine(step: int, peak: float, warmup: int, steps: int) -> float:
    """Linear warm-up to ``peak``, then half a cosine towards zero (Loshchilov and Hutter 2017).

    Args:
        step: steps taken before this one, so 0 for the first.
        peak: largest rate.
        warmup: steps of the warm-up.
        steps: all steps.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * 0.5 * (1.0 + math.cos(math.pi * progress))
