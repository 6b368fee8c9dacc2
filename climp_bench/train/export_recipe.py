"""What a run by recipe leaves: weights in half precision, a model card, and the recipe as it was resolved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from climp_bench.errors import ClimpError, TrainingError
from climp_bench.models import store, tokenizer
from climp_bench.models.spec import ModelSpec
from climp_bench.models.tokenizer import Tokenizer
from climp_bench.results.provenance import collect
from climp_bench.train.export import commit
from climp_bench.train.learner import Learner
from climp_bench.train.recipe import AugmentSection, Recipe


@dataclass(frozen=True)
class Outcome:
    """How a run went.

    Attributes:
        steps, seconds: taken, and spent in them and in evaluations.
        scores: on the held-out pairs.
        start: digest of the checkpoint that a tower started from, by tower.
        seen: digest of the numbers of all samples, in order.
        bad: samples that could not be read and were replaced.
        data: what the data is.
        precision: ``fp32`` or ``bf16``.
    """

    steps: int
    seconds: float
    scores: Mapping[str, float]
    start: Mapping[str, str]
    seen: str
    bad: int
    data: Mapping[str, object]
    precision: str


def export_recipe(
    learner: Learner, spec: ModelSpec, recipe: Recipe, words: Tokenizer, out_dir: Path, outcome: Outcome
) -> Path:
    """Bring shards together and let the first process write the weights, float16; the folder they are in.

    ``origin.json`` beside them holds the resolved recipe, under the manifest's digest.

    Raises:
        WeightsError: a weight is not finite, or writing fails.
    """
    folder, world = out_dir / "weights" / store.folder_name(spec), learner.world
    state = {}
    for name, tensor in learner.model.state_dict().items():
        whole = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
        if world.rank == 0:
            state[name] = _half(whole)
    fault: ClimpError | None = None
    if world.rank == 0:
        try:
            store.save_state(
                state, spec, folder, card=_card(recipe, outcome, world.device, world.size),
                tokenizer=None if tokenizer.is_shipped(spec.tokenizer) else words,
                origin={"source": "local", "recipe": recipe.resolved(), "recipe_sha256": recipe.digest},
            )  # fmt: skip
        except ClimpError as error:
            fault = error
    if world.any(fault is not None):
        raise fault or TrainingError("the first process could not write the weights", where=str(folder))
    return folder


def _half(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().cpu()
    return tensor.to(torch.float16 if tensor.is_floating_point() else tensor.dtype).contiguous().clone()


def _card(recipe: Recipe, outcome: Outcome, device: str, processes: int) -> dict[str, Any]:
    """The facts of a run by section, for ``models.card.render_card``."""
    gpu = None if device == "cpu" else torch.cuda.get_device_name()
    origin = collect(device=device, dtype=outcome.precision, seed=recipe.run.seed, gpu=gpu)
    values, pairs = recipe.optimiser, outcome.steps * recipe.budget.batch_size
    card: dict[str, Any] = {
        "data": {**outcome.data, "samples replaced": outcome.bad, "digest of the order": outcome.seen},
        "budget": {
            "pairs seen": pairs,
            "steps": outcome.steps,
            "batch size": recipe.budget.batch_size,
            "seconds": round(outcome.seconds, 1),
            "images per second": round(pairs / outcome.seconds) if outcome.seconds > 0 else "",
            "device": gpu or origin.cpu,
            "processes at the end": processes,
            "precision": outcome.precision,
        },
        "optimiser": {
            "name": "AdamW",
            "peak learning rate": values.lr,
            "schedule": f"warm-up over {values.warmup_steps(outcome.steps)} steps, then cosine",
            "weight decay": values.weight_decay,
            "betas": f"{values.betas[0]}, {values.betas[1]}",
            "epsilon": values.eps,
            "gradient norm at most": values.grad_clip,
            "loss": recipe.loss.kind,
        },
        "seed": recipe.run.seed,
        "commit": commit(origin.git_commit, origin.git_dirty),
        "scores": [
            {"set": f"{recipe.data.held_out} held-out pairs", "score": name, "value": value}
            for name, value in outcome.scores.items()
        ],
        "recipe": {"name": recipe.name, "sha256": recipe.digest, "resolved": "origin.json"},
        "packages": dict(origin.packages),
    }
    if pictures := _pictures(recipe.augment):
        card["pictures"] = pictures
    if outcome.start:
        card["start"] = {f"{tower} tower": f"sha256 {digest}" for tower, digest in outcome.start.items()}
    return card


def _pictures(augment: AugmentSection) -> dict[str, object]:
    """Sizes of pictures and patches that are not the model's own."""
    facts = {
        "sides in pixels, one drawn a step": ", ".join(map(str, augment.sizes)),
        "sides of patches in pixels, one drawn a step": ", ".join(map(str, augment.patch_sizes)),
        "patches of a picture at most": augment.token_budget,
    }
    return {what: value for what, value in facts.items() if value}
