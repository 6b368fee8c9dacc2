"""What a recipe's run starts from: its pairs, its tokenizer, the first weights of its towers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from climp_bench.data.catalogue import open_dataset
from climp_bench.errors import UsageError, WeightsError
from climp_bench.models import hub, tokenizer
from climp_bench.models.dual_encoder import DualEncoder
from climp_bench.models.initialise import initialise
from climp_bench.models.spec import ModelSpec, Source
from climp_bench.models.tokenizer import Tokenizer
from climp_bench.ranks import place
from climp_bench.train.data import load_scenes
from climp_bench.train.feed import Feed, SceneFeed, scenes_config, spans
from climp_bench.train.pairs import DatasetPairs, PairFeed, PairSource
from climp_bench.train.recipe import Recipe
from climp_bench.train.shards import ShardPairs, find_shards
from climp_bench.train.world import World

PUBLISHED = "published"
INDEX = "shards-index"
Announce = Callable[[str], None]
Report = Callable[[str, int, int], None]


def open_feed(
    recipe: Recipe, spec: ModelSpec, world: World, words: Tokenizer, pool_dir: Path, report: Report
) -> Feed:
    """The pairs of a recipe, as this process is to see them.

    Args:
        recipe, spec, world, words: the run.
        pool_dir: where scenes are drawn to and where shards are indexed.
        report: told what is drawn, how many are done, of how many.

    Raises:
        DataError, UsageError, TrainingError: the data is missing, damaged or too little.
    """
    where = spans(world, recipe.budget.batch_size, recipe.compute.micro_batch)
    workers = recipe.run.workers or max(1, (os.cpu_count() or 1) // place().local_size)
    data = recipe.data
    if data.source == "scenes":
        config = scenes_config(recipe, spec, workers)
        scenes, held_out = (
            load_scenes(spec, config, pool_dir, world.device, held_out=apart, report=report)
            for apart in (False, True)
        )
        return SceneFeed(scenes, held_out, config, spec, where)
    source: PairSource
    if data.source == "shards":
        source = ShardPairs(Path(data.path).expanduser(), data.files, pool_dir / INDEX, workers)
    else:
        roots = [Path(data.path).expanduser()] if data.path else []
        source = DatasetPairs(open_dataset(data.name, roots))
    return PairFeed(source, recipe, spec, words, where, world.device, workers)


def check_data(recipe: Recipe) -> None:
    """See whether shards are there, before anything that takes long.

    Raises:
        UsageError: the recipe does not say where they are.
        DataError: as ``find_shards``.
    """
    if recipe.data.source == "shards":
        if not recipe.data.path:
            remedy = "Say it: --set data.path=DIR."
            raise UsageError(
                "nothing says where the shards are", where=f"recipe {recipe.name}", remedy=remedy
            )
        find_shards(Path(recipe.data.path).expanduser(), recipe.data.files)


def open_tokenizer(recipe: Recipe, spec: ModelSpec, announce: Announce) -> Tokenizer:
    """The tokenizer of a recipe: its own, else the shipped one, else the published one (fetched)."""
    if recipe.model.tokenizer:
        return tokenizer.load_file(Path(recipe.model.tokenizer).expanduser())
    if tokenizer.is_shipped(spec.tokenizer):
        return tokenizer.load(spec.tokenizer)
    return tokenizer.load_file(_fetched(spec.origin.tokenizer, spec, "tokenizer", announce))


def start_towers(model: DualEncoder, spec: ModelSpec, recipe: Recipe, announce: Announce) -> dict[str, str]:
    """Bring the first weights that a recipe names into a model; their digests by tower.

    Raises:
        UsageError: none are published, or not where they can be fetched from.
        WeightsError: they cannot be fetched, are damaged, or of another tower.
    """
    wanted = {"image": recipe.model.init_image, "text": recipe.model.init_text}
    published = {"image": spec.origin.image, "text": spec.origin.text}
    paths = {
        tower: _fetched(published[tower], spec, f"init_{tower}", announce)
        if name == PUBLISHED
        else Path(name).expanduser()
        for tower, name in wanted.items()
        if name
    }
    return initialise(model, spec, **paths)


def _fetched(source: Source | None, spec: ModelSpec, key: str, announce: Announce) -> Path:
    option = f"--set model.{key}=PATH"
    if source is None:
        raise UsageError(f"none is published ({key})", where=spec.name, remedy=f"Name a file: {option}.")
    if not source.repo:
        what = f"{source.filename} is not on the hub ({key})"
        remedy = f"Fetch {source.url} and name it: {option}."
        raise UsageError(what, where=spec.name, remedy=remedy)
    try:
        return hub.fetch(hub.look_up(source.repo, source.revision), source.filename, announce=announce)
    except WeightsError as error:
        remedy = f"Try again, or name a file: {option}."
        raise WeightsError(error.what, where=error.where, remedy=remedy) from error
