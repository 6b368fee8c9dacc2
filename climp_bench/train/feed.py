"""What a process sees of each step's batch: its own share, in parts. Which samples those are depends on the
seed and the step alone, so a run that goes on, on however many processes, goes on with the same samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt

from climp_bench.errors import UsageError
from climp_bench.models.dual_encoder import DualEncoder
from climp_bench.models.spec import ModelSpec
from climp_bench.train.config import TrainConfig
from climp_bench.train.data import Batch, Batches, Scenes
from climp_bench.train.heldout import held_out_recall
from climp_bench.train.recipe import Recipe
from climp_bench.train.sizing import Sizing
from climp_bench.train.world import World, share

Rows = npt.NDArray[np.int64]


class Feed(Protocol):
    """Pairs to train on.

    Attributes:
        count: pairs of an epoch, held-out ones not among them.
        bad: samples that this process could not decode and replaced.
        about: what the data is, for the model card.
    """

    count: int
    bad: int
    about: dict[str, object]

    def rows(self, step: int) -> Rows:
        """Numbers of the samples in the whole batch of ``step``, in order."""

    def parts(self, first_step: int, last_step: int) -> Iterator[list[Batch]]:
        """This process's share of each batch from ``first_step`` to before ``last_step``."""

    def scores(self, model: DualEncoder) -> dict[str, float]:
        """Recall on the held-out pairs, in [0, 1]. Every process computes it, as shards of a model must."""


def spans(world: World, batch_size: int, micro_batch: int) -> list[range]:
    """Where this process's parts stand in a batch; as many for every process.

    Raises:
        UsageError: a process would have a part without pairs.
    """
    most = math.ceil(batch_size / world.size)
    count = math.ceil(most / micro_batch) if micro_batch else 1
    own = world.share(batch_size)
    if batch_size // world.size < count:
        raise UsageError(
            f"a batch of {batch_size} on {world.size} processes has no {count} parts each", where="recipe",
            remedy="Raise budget.batch_size or compute.micro_batch, or start fewer processes.",
        )  # fmt: skip
    inner = [share(len(own), count, k) for k in range(count)]
    return [range(own.start + part.start, own.start + part.stop) for part in inner]


class SceneFeed:
    """The embedded scenes.

    Args:
        scenes, held_out: from ``train.data.load_scenes``.
        config: see ``scenes_config``.
        spec: of the model.
        where: ``spans`` of this process.
        sizing: of the pictures.
    """

    def __init__(
        self, scenes: Scenes, held_out: Scenes, config: TrainConfig, spec: ModelSpec, where: list[range],
        sizing: Sizing,
    ) -> None:  # fmt: skip
        self._batches = Batches(scenes, config, spec, sizing)
        self._held_out, self._where = held_out, where
        self.count, self.bad = scenes.count, 0
        self.about: dict[str, object] = {
            "world": "scenes, training split, procedural",
            "distinct scenes": config.pool_size,
            "captions": f"short; dense in 1 batch of {config.dense_every}" if config.dense_every else "short",
        }

    def rows(self, step: int) -> Rows:
        """See ``Feed``."""
        return self._batches.rows(step)

    def parts(self, first_step: int, last_step: int) -> Iterator[list[Batch]]:
        """See ``Feed``."""
        for step in range(first_step, last_step):
            yield [self._batches.batch(step, part) for part in self._where]

    def scores(self, model: DualEncoder) -> dict[str, float]:
        """See ``Feed``."""
        return held_out_recall(model, self._held_out)


def scenes_config(recipe: Recipe, spec: ModelSpec, workers: int) -> TrainConfig:
    """The part of a recipe that decides which scenes are drawn and shown."""
    data = recipe.data
    return TrainConfig(
        family=spec.family, scale=spec.scale, batch_size=recipe.budget.batch_size, seed=recipe.run.seed,
        pool_size=data.pool_size, dense_every=data.dense_every, lowres_prob=data.lowres_prob,
        max_tokens=data.max_tokens, held_out=data.held_out, workers=workers,
    )  # fmt: skip
