"""What a finished run leaves: weights in half precision and a model card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from climp_bench.data.scenes import SCENES_VERSION
from climp_bench.models import store
from climp_bench.models.dual_encoder import DualEncoder
from climp_bench.models.spec import ModelSpec
from climp_bench.results.provenance import collect
from climp_bench.train.config import HELD_OUT_FIRST, TrainConfig


def export(
    model: DualEncoder,
    spec: ModelSpec,
    config: TrainConfig,
    out_dir: Path,
    *,
    device: str,
    precision: str,
    seconds: float,
    scores: Mapping[str, float],
    start: Mapping[str, str],
) -> Path:
    """Write the weights of a finished run, float16, with their card; the folder they are in.

    Args:
        model, spec, config: what was trained and how.
        out_dir: the run's folder.
        device, precision: what it was trained on and in.
        seconds: spent in training steps and evaluations.
        scores: on the held-out scenes.
        start: digest of the checkpoint that a tower started from, by tower.

    Raises:
        WeightsError: a weight is not finite, or writing fails.
    """
    folder = out_dir / "weights" / store.folder_name(spec)
    card = model_card(config, device=device, precision=precision, seconds=seconds, scores=scores)
    if start:
        card["start"] = {f"{tower} tower": f"sha256 {digest}" for tower, digest in start.items()}
    store.save(model, spec, folder, half=True, card=card)
    return folder


def model_card(
    config: TrainConfig, *, device: str, precision: str, seconds: float, scores: Mapping[str, float]
) -> dict[str, Any]:
    """The facts of a run by section, for ``models.card.render_card``."""
    gpu = None if device == "cpu" else torch.cuda.get_device_name()
    origin = collect(device=device, dtype=precision, seed=config.seed, gpu=gpu)
    images = config.steps * config.batch_size
    return {
        "data": {
            "world": f"scenes version {SCENES_VERSION}, training split, procedural",
            "distinct scenes": config.pool_size,
            "captions": f"short; dense in 1 batch of {config.dense_every}" if config.dense_every else "short",
            "longest caption in tokens": config.max_tokens,
            "share scaled down and up": config.lowres_prob,
        },
        "budget": {
            "pairs seen": images,
            "steps": config.steps,
            "batch size": config.batch_size,
            "seconds": round(seconds, 1),
            "images per second": round(images / seconds) if seconds > 0 else "",
            "device": gpu or origin.cpu,
            "precision": precision,
        },
        "optimiser": {
            "name": "AdamW",
            "peak learning rate": config.lr,
            "schedule": f"warm-up over {config.warmup_fraction:.0%} of the steps, then cosine",
            "weight decay": config.weight_decay,
            "betas": f"{config.betas[0]}, {config.betas[1]}",
            "epsilon": config.eps,
            "gradient norm at most": config.grad_clip,
        },
        "seed": config.seed,
        "commit": commit(origin.git_commit, origin.git_dirty),
        "scores": [
            {"set": f"{config.held_out} held-out scenes, from index {HELD_OUT_FIRST}", "score": name,
             "value": value}
            for name, value in scores.items()
        ],
        "packages": dict(origin.packages),
    }  # fmt: skip


def commit(name: str | None, dirty: bool | None) -> str:
    """A commit in the words of a model card."""
    if name is None:
        return "not trained from a checkout"
    return f"{name}, with local changes" if dirty else name
