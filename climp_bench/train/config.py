"""What a training run is: one frozen configuration, and the one budget of the shipped micro models."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from climp_bench.errors import TrainingError

FAMILIES = ("climp-m1", "climp-m2", "rope-vit", "flexivit", "naflexvit")
"""The families with shipped weights."""
HELD_OUT_FIRST = 1 << 30
"""Index of the first held-out scene of the training split, far beyond any pool."""
PRECISIONS = ("auto", "fp32", "bf16")


@dataclass(frozen=True)
class TrainConfig:
    """A training run.

    Attributes:
        family, scale: the model.
        samples: image-text pairs seen in all.
        batch_size: pairs in a batch, and so candidates of the contrastive loss.
        lr: peak learning rate of AdamW.
        weight_decay: of matrices; vectors, scan parameters and the logit scale have none.
        betas, eps: of AdamW.
        warmup_fraction: share of the steps in which the learning rate rises; a cosine to zero follows.
        grad_clip: largest norm of all gradients together.
        seed: of the initial weights, the order of scenes and every choice within a batch.
        precision: ``fp32``, ``bf16`` (autocast), or ``auto``: bf16 on a GPU that has it.
        pool_size: distinct training scenes.
        dense_every: one batch in so many shows dense captions, the others short ones; 0 for none.
        lowres_prob: share of a batch that is scaled down and up again, blurred as small real images are.
        max_tokens: a longer caption is left out of the pool (its scene shows a shorter one).
        held_out: scenes that measure retrieval while training.
        workers: processes that draw; 0 for all cores.
        log_every, eval_every, checkpoint_every: in steps.
        init_image, init_text: path of a checkpoint that the tower starts from, "" for random weights.
    """

    family: str
    scale: str = "micro"
    samples: int = 1_792_000
    batch_size: int = 1024
    lr: float = 1e-3
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6
    warmup_fraction: float = 0.05
    grad_clip: float = 1.0
    seed: int = 0
    precision: str = "auto"
    pool_size: int = 200_000
    dense_every: int = 5
    lowres_prob: float = 0.15
    max_tokens: int = 160
    held_out: int = 1000
    workers: int = 0
    log_every: int = 50
    eval_every: int = 1000
    checkpoint_every: int = 1000
    init_image: str = ""
    init_text: str = ""

    def __post_init__(self) -> None:
        """Refuse what cannot be trained. Raises ``TrainingError`` naming the field."""
        positive = ("samples", "batch_size", "lr", "grad_clip", "eps", "pool_size", "max_tokens", "log_every",
                    "eval_every", "checkpoint_every")  # fmt: skip
        for name in positive:
            _require(getattr(self, name) > 0, name, getattr(self, name), "above 0")
        for name in ("weight_decay", "dense_every", "workers", "seed"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")
        for name in ("warmup_fraction", "lowres_prob"):
            _require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "in [0, 1]")
        for beta in self.betas:
            _require(0 <= beta < 1, "betas", beta, "in [0, 1)")
        _require(self.precision in PRECISIONS, "precision", self.precision, "one of " + ", ".join(PRECISIONS))
        _require(self.batch_size >= 2, "batch_size", self.batch_size, "at least 2, to contrast anything")
        _require(self.held_out >= 2, "held_out", self.held_out, "at least 2")
        _require(
            self.batch_size <= self.pool_size, "batch_size", self.batch_size,
            f"at most pool_size, which is {self.pool_size}",
        )  # fmt: skip

    @property
    def steps(self) -> int:
        """Optimiser steps: the whole batches in ``samples``, at least one."""
        return max(1, self.samples // self.batch_size)


def _require(holds: bool, name: str, value: object, rule: str) -> None:
    if not holds:
        raise TrainingError(f"{name} must be {rule}, not {value}", where="training configuration")


MICRO = TrainConfig(family=FAMILIES[0])
"""The shipped recipe; ``micro`` gives it to every family alike."""


def micro(family: str, **changes: Any) -> TrainConfig:
    """The shipped recipe for a family, with changes. A pool larger than the samples is cut to them.

    Raises:
        TrainingError: a value outside its range.
    """
    if "pool_size" not in changes and "samples" in changes:
        batch = int(changes.get("batch_size", MICRO.batch_size))
        changes["pool_size"] = max(batch, min(MICRO.pool_size, int(changes["samples"])))
    return replace(MICRO, family=family, **changes)
