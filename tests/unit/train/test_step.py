"""One step against a twin written out by hand, and retrieval against a count."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from climp_bench.models.catalogue import build, find
from climp_bench.train import TrainConfig
from climp_bench.train.data import Batches, load_scenes
from climp_bench.train.heldout import held_out_recall
from climp_bench.train.loop import Run

Make = Callable[..., TrainConfig]
SPEC = find("rope-vit", "micro")


def test_steps_equal_a_twin_written_by_hand(tmp_path: Path, pool: Path, tiny: Make) -> None:
    """Adam with decoupled decay (Loshchilov and Hutter 2019, algorithm 2), clipped, clamped, scheduled."""
    config = tiny(grad_clip=0.05, lr=3e-3, weight_decay=0.5, warmup_fraction=0.5)
    batches = Batches(load_scenes(SPEC, config, pool, "cpu"), config, SPEC)
    run = Run(config, SPEC, tmp_path, "cpu")
    twin = build(SPEC, seed=config.seed).train()
    for model in (run.model, twin):
        model.logit_scale.data.fill_(math.log(100) - 1e-5)
    first = {name: torch.zeros_like(p) for name, p in twin.named_parameters()}
    second = {name: torch.zeros_like(p) for name, p in twin.named_parameters()}
    clipped = []
    for t, lr in enumerate([1e-3, 2e-3, 3e-3], start=1):  # a rise over three of the six steps
        batch = batches.batch(t - 1)
        run.take_step(batch)
        image, text, scale = twin(batch.images, batch.ids_BL, batch.lengths_B)
        logits = scale * image @ text.T
        loss = (logits.logsumexp(0) + logits.logsumexp(1)).mean() / 2 - logits.diagonal().mean()
        twin.zero_grad()
        loss.backward()
        norm = math.sqrt(sum(float(p.grad.square().sum()) for p in twin.parameters() if p.grad is not None))
        clipped.append(norm > config.grad_clip)
        for name, p in twin.named_parameters():
            if p.grad is None:
                continue
            grad = p.grad * min(1.0, config.grad_clip / norm)
            first[name] = 0.9 * first[name] + 0.1 * grad
            second[name] = 0.98 * second[name] + 0.02 * grad.square()
            update = (first[name] / (1 - 0.9**t)) / ((second[name] / (1 - 0.98**t)).sqrt() + config.eps)
            decay = config.weight_decay if p.ndim > 1 else 0.0
            p.data = p.data * (1 - lr * decay) - lr * update
        twin.logit_scale.data.clamp_(max=math.log(100))
    assert all(clipped)
    for (name, mine), its in zip(run.model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(
            mine, its, rtol=1e-3, atol=2e-4, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_the_factor_on_cosines_never_passes_100(tmp_path: Path, pool: Path, tiny: Make) -> None:
    config = tiny()
    batch = Batches(load_scenes(SPEC, config, pool, "cpu"), config, SPEC).batch(0)
    run = Run(config, SPEC, tmp_path, "cpu")
    run.model.logit_scale.data.fill_(7.0)
    run.take_step(batch)
    assert float(run.model.logit_scale.detach()) == pytest.approx(math.log(100))


@pytest.mark.parametrize("training", [True, False])
def test_held_out_recall_is_a_count_and_leaves_the_model_as_it_was(
    pool: Path, tiny: Make, training: bool
) -> None:
    model = build(SPEC, seed=0).train(training)
    scenes = load_scenes(SPEC, tiny(held_out=10), pool, "cpu", held_out=True)
    scores = held_out_recall(model, scenes)
    assert model.training == training
    every = np.arange(10)
    with torch.no_grad():
        image = model.encode_image(scenes.images.take(every))
        for kind, captions in scenes.captions.items():
            texts, owners = [], []
            for row in range(10):
                for k in range(captions.variants):
                    texts.append(model.encode_text(*captions.take(np.array([row]), np.array([k])))[0])
                    owners.append(row)
            similar = image @ torch.stack(texts).T
            for cut in (1, 5):
                best_texts, best_images = similar.topk(cut, dim=1).indices, similar.topk(cut, dim=0).indices
                found = np.mean([any(owners[j] == i for j in best_texts[i]) for i in range(10)])
                back = np.mean([owners[j] in best_images[:, j] for j in range(len(owners))])
                assert scores[f"{kind}_recall@{cut}"] == pytest.approx((found + back) / 2, abs=1e-9)
