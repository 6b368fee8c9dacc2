"""Training on the embedded data: configuration, pool of scenes, loop, checkpoints, export."""

from __future__ import annotations

from climp_bench.train.config import FAMILIES, MICRO, TrainConfig, micro
from climp_bench.train.estimating import Estimate, estimate
from climp_bench.train.loop import train
from climp_bench.train.progress import Progress, Quiet, Status, default_progress
from climp_bench.train.stopping import TrainingStopped

__all__ = [
    "FAMILIES",
    "MICRO",
    "Estimate",
    "Progress",
    "Quiet",
    "Status",
    "TrainConfig",
    "TrainingStopped",
    "default_progress",
    "estimate",
    "micro",
    "train",
]
