"""How long a run would take here, measured on a few real steps."""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from climp_bench.models.adapters import pick_device
from climp_bench.models.catalogue import find
from climp_bench.train.config import TrainConfig
from climp_bench.train.data import Batches, load_scenes
from climp_bench.train.loop import Run
from climp_bench.train.progress import format_seconds

CPU_BATCH = 32
"""Batch that is measured on a CPU, where time grows in proportion."""


@dataclass(frozen=True)
class Estimate:
    """What a run would take.

    Attributes:
        draw_s: seconds to draw the pool, if it is not on disk yet.
        train_s: seconds of training steps; evaluations come on top.
        images_per_s: images a second in training.
        device: what it was measured on.
    """

    draw_s: float
    train_s: float
    images_per_s: float
    device: str

    def __str__(self) -> str:
        return (
            f"about {format_seconds(self.train_s)} of training on {self.device} "
            f"({self.images_per_s:,.0f} images/s), after {format_seconds(self.draw_s)} to draw the scenes"
        )


def estimate(config: TrainConfig, device: str = "auto", cycles: int = 1) -> Estimate:
    """Draw a small pool, train on it for a few steps, and scale up.

    Args:
        config: the run.
        device: ``auto``, ``cpu`` or ``cuda``.
        cycles: rounds of ``dense_every`` batches that are measured, after one that is not.

    Raises:
        BackendError: the device is not there.
        UsageError: there is no such model.
    """
    spec, device = find(config.family, config.scale), pick_device(device)
    size = config.batch_size if device != "cpu" else min(config.batch_size, CPU_BATCH)
    period = max(config.dense_every, 1)
    trial = replace(config, batch_size=size, samples=size * period * (cycles + 1), pool_size=size, workers=1)
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng():
        begun = time.perf_counter()
        scenes = load_scenes(spec, trial, Path(folder), device)
        per_scene = (time.perf_counter() - begun) / size
        run = Run(trial, spec, Path(folder), device)
        batches = Batches(scenes, trial, spec)
        measured = 0.0
        for step in range(trial.steps):
            if step == period:
                measured = _now(device)
            run.take_step(batches.batch(step))
        measured = _now(device) - measured
        del scenes, batches
    images_per_s = period * cycles * size / measured
    workers = config.workers or os.cpu_count() or 1
    name = "this CPU" if device == "cpu" else torch.cuda.get_device_name()
    return Estimate(
        draw_s=config.pool_size * per_scene / workers,
        train_s=config.steps * config.batch_size / images_per_s,
        images_per_s=images_per_s,
        device=name,
    )


def _now(device: str) -> float:
    """The time at which everything asked of the device is done."""
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter()
