"""A model of a few thousand parameters, batches for it, and runs of it."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from climp_bench.models.catalogue import build
from climp_bench.models.configs import LlamaTextConfig
from climp_bench.models.dual_encoder import DualEncoder
from climp_bench.models.spec import ModelSpec
from climp_bench.models.vmamba import VMambaConfig
from climp_bench.ops.dispatch import ops, preferred
from climp_bench.specs import ImagePreprocess
from climp_bench.train import Quiet, Status, engine, recipe
from climp_bench.train.data import Batch
from climp_bench.train.learner import Learner
from climp_bench.train.spreading import checkpoint_activations
from climp_bench.train.world import open_world, share

N = 256


def small_spec(drop_path: float = 0.0) -> ModelSpec:
    return ModelSpec(
        family="small",
        scale="micro",
        image=VMambaConfig(dims=(8, 12), depths=(1, 2), drop_path=drop_path),
        text=LlamaTextConfig(vocab_size=1024, d_model=16, n_layer=2, n_head=2, n_kv_head=1, mlp_dim=24),
        embed_dim=12,
        preprocess=ImagePreprocess(size=(32, 32)),
        tokenizer="scenes-bpe",
        description="",
    )


def whole_batch(n: int = N) -> Batch:
    draw = torch.Generator().manual_seed(3)
    lengths = torch.randint(1, 7, (n,), generator=draw)
    return Batch(
        torch.randn(n, 3, 16, 16, generator=draw), torch.randint(0, 64, (n, 6), generator=draw), lengths, {}
    )


def cut(batch: Batch, rows: range, parts: int) -> list[Batch]:
    """This share of the batch, in parts."""
    assert isinstance(batch.images, Tensor)
    pieces = [share(len(rows), parts, k) for k in range(parts)]
    spans = [slice(rows.start + piece.start, rows.start + piece.stop) for piece in pieces]
    return [Batch(batch.images[s], batch.ids_BL[s], batch.lengths_B[s], {}) for s in spans]


PLAIN = dict.fromkeys(ops(), "torch")
"""Scans in PyTorch: loading compiled ones takes longer than these tests."""


@preferred(PLAIN)
def reference(kind: str) -> dict[str, Tensor]:
    """Gradients of the whole batch by plain autograd, by parameter."""
    model, batch = build(small_spec(), seed=1).train(), whole_batch()
    bias = torch.tensor(-10.0, requires_grad=True)
    if kind == "siglip":
        model.logit_scale.data.fill_(torch.tensor(10.0).log())
    image, text, scale = model(batch.images, batch.ids_BL, batch.lengths_B)
    logits, own = scale * image @ text.T, torch.arange(N)
    if kind == "infonce":
        loss = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    else:
        loss = -F.logsigmoid((2 * torch.eye(N) - 1) * (logits + bias)).sum() / N
    loss.backward()
    grads = {name: parameter.grad for name, parameter in model.named_parameters()}
    grads |= {"logit_bias": bias.grad} if kind == "siglip" else {}
    return {"loss": loss.detach()} | {name: grad for name, grad in grads.items() if grad is not None}


@preferred(PLAIN)
def gradients(cases: list[dict[str, Any]]) -> list[dict[str, Tensor]]:
    """The same by the trainer, one for each case, in the world that the environment names."""
    outcomes = []
    with open_world("cpu", 60) as world:
        for case in cases:
            model: DualEncoder = build(small_spec(), seed=1).train()
            if case.get("checkpointing"):
                checkpoint_activations(model)
            learner = Learner(
                model, world, kind=case.get("kind", "infonce"), chunk=case.get("chunk", 1024),
                strategy=case.get("strategy", "ddp"),
            )  # fmt: skip
            parts = cut(whole_batch(), world.share(N), case.get("parts", 1))
            loss, _ = learner.gradients(parts, 0, N)
            grads = {name: full(parameter.grad) for name, parameter in learner.parameters().items()}
            outcomes.append({"loss": loss, **grads})
    return outcomes


def full(tensor: Any) -> Tensor:
    """The whole of a tensor that may be sharded."""
    whole: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return whole.detach().clone()


SMALL_RUN = (
    "model.name=small@micro", "budget.samples=192", "budget.batch_size=16", "data.pool_size=48",
    "data.held_out=4", "data.dense_every=3", "data.max_tokens=64", "run.log_every=1", "run.eval_every=6",
    "run.checkpoint_every=3", "run.workers=1", "run.max_rise=0", "run.timeout_s=60",
)  # fmt: skip
"""Twelve steps of four epochs."""


@preferred(PLAIN)
def train_small(out: str, pool: str, *changes: str, signal_at: int = 0, pause_s: float = 0.0) -> str:
    """Train the small model on scenes in the world that the environment names; the folder of the weights.

    Args:
        out, pool: folders.
        changes: to the recipe.
        signal_at: step at which rank 0 gets SIGTERM; 0 for never.
        pause_s: seconds that each step takes longer.
    """
    engine.find = lambda name: small_spec(drop_path=0.0)  # type: ignore[attr-defined, assignment]
    progress = Acting(signal_at, pause_s)
    changed = recipe.load("scenes-micro", [*SMALL_RUN, *changes])
    return str(engine.train_recipe(changed, Path(out), "cpu", progress=progress, pool_dir=Path(pool)))


class Acting(Quiet):
    """Slows a run down, and stops it."""

    def __init__(self, signal_at: int, pause_s: float) -> None:
        self.signal_at, self.pause_s = signal_at, pause_s

    def advance(self, what: str, done: int, total: int, status: Status | None = None) -> None:
        if what.startswith("training"):
            time.sleep(self.pause_s)
            if done == self.signal_at:
                os.kill(os.getpid(), signal.SIGTERM)


def metrics(out: Path) -> dict[int, dict[str, Any]]:
    """What a run logged, by step."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line for line in lines if "loss" in line}
