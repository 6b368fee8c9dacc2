"""What a recipe's run starts from: its pairs, its tokenizer, the first weights of its towers."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from climp_bench.data.catalogue import open_dataset
from climp_bench.data.remote_shards import Remote, pull, sample_files
from climp_bench.download import Announce, fetch_url, silent
from climp_bench.errors import UsageError, WeightsError
from climp_bench.models import hub, tokenizer
from climp_bench.models.dual_encoder import DualEncoder
from climp_bench.models.initialise import initialise
from climp_bench.models.spec import ModelSpec, Source
from climp_bench.models.store import user_store
from climp_bench.models.tokenizer import Tokenizer
from climp_bench.ranks import place
from climp_bench.train.data import load_scenes
from climp_bench.train.feed import Feed, SceneFeed, scenes_config, spans
from climp_bench.train.pairs import DatasetPairs, PairFeed, PairSource
from climp_bench.train.recipe import Recipe
from climp_bench.train.shards import ShardPairs, expand, find_shards
from climp_bench.train.sizing import Sizing, check_sizes
from climp_bench.train.world import World

PUBLISHED = "published"
INDEX = "shards-index"
TOWERS = "towers"
_OTHERWISE = "name the folder that holds them, --set data.path=DIR"
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
    workers, data = workers_of(recipe), recipe.data
    if data.source == "scenes":
        config = scenes_config(recipe, spec, workers)
        sizing = Sizing(recipe.augment, spec, recipe.run.seed)
        scenes, held_out = (
            load_scenes(shown, config, pool_dir, world.device, held_out=apart, report=report)
            for shown, apart in ((replace(spec, preprocess=sizing.drawn), False), (spec, True))
        )
        return SceneFeed(scenes, held_out, config, spec, where, sizing)
    source: PairSource
    if data.source == "shards":
        source = ShardPairs(_shards(recipe), pool_dir / INDEX, workers)
    else:
        roots = [Path(data.path).expanduser()] if data.path else []
        source = DatasetPairs(open_dataset(data.name, roots))
    feed = PairFeed(source, recipe, spec, words, where, world.device, workers)
    if data.repo:
        feed.about["repository"] = f"hf:datasets/{data.repo}@{data.revision}"
    return feed


def workers_of(recipe: Recipe) -> int:
    """Processes that decode or draw for this one."""
    return recipe.run.workers or max(1, (os.cpu_count() or 1) // place().local_size)


def check_data(
    recipe: Recipe, spec: ModelSpec, announce: Announce = silent, *, offline: bool = False
) -> None:
    """See that the model takes the pictures and that shards are there, fetched if the recipe says from where.

    Of several processes on a machine, or that share a cache, one fetches and the others wait.

    Args:
        recipe, spec: the run.
        announce: told what is fetched, and its size first.
        offline: never ask the hub.

    Raises:
        UsageError: the recipe does not say where the shards are; or as ``check_sizes``.
        DataError: as ``find_shards`` or ``remote_shards.pull``.
    """
    check_sizes(recipe.augment, spec)
    if recipe.data.source == "shards":
        if not recipe.data.path and not recipe.data.repo:
            remedy = "Say it: --set data.path=DIR. Or have them fetched: --set data.name=cc12m, or data.repo."
            raise UsageError(
                "nothing says where the shards are", where=f"recipe {recipe.name}", remedy=remedy
            )
        _shards(recipe, announce, offline)


def _shards(recipe: Recipe, announce: Announce = silent, offline: bool = True) -> list[Path]:
    data = recipe.data
    if data.path:
        return find_shards(Path(data.path).expanduser(), data.files)
    remote = Remote(data.repo, data.revision, tuple(expand(data.files)), otherwise=_OTHERWISE)
    return sample_files(remote, pull(remote, offline=offline, announce=announce))


def open_tokenizer(recipe: Recipe, spec: ModelSpec, announce: Announce, offline: bool) -> Tokenizer:
    """The tokenizer of a recipe: its own, else the shipped one, else the published one (fetched)."""
    if recipe.model.tokenizer:
        return tokenizer.load_file(Path(recipe.model.tokenizer).expanduser())
    if tokenizer.is_shipped(spec.tokenizer):
        return tokenizer.load(spec.tokenizer)
    return tokenizer.load_file(_fetched(spec.origin.tokenizer, spec, "tokenizer", announce, offline))


def start_towers(
    model: DualEncoder, spec: ModelSpec, recipe: Recipe, announce: Announce, offline: bool
) -> dict[str, str]:
    """Bring the first weights that a recipe names into a model; their digests by tower.

    A published file that is not on the hub is kept in the local store, under ``TOWERS``.

    Raises:
        UsageError: none are published.
        WeightsError: they cannot be fetched, are damaged, or of another tower.
    """
    wanted = {"image": recipe.model.init_image, "text": recipe.model.init_text}
    published = {"image": spec.origin.image, "text": spec.origin.text}
    paths = {
        tower: _fetched(published[tower], spec, f"init_{tower}", announce, offline)
        if name == PUBLISHED
        else Path(name).expanduser()
        for tower, name in wanted.items()
        if name
    }
    return initialise(model, spec, **paths)


def _fetched(source: Source | None, spec: ModelSpec, key: str, announce: Announce, offline: bool) -> Path:
    option = f"--set model.{key}=PATH"
    if source is None:
        raise UsageError(f"none is published ({key})", where=spec.name, remedy=f"Name a file: {option}.")
    if not source.repo:
        return fetch_url(
            source.url, user_store() / TOWERS / source.filename, error=WeightsError, sha256=source.sha256,
            otherwise=f"name a file: {option}", offline=offline, announce=announce,
        )  # fmt: skip
    try:
        listing = hub.look_up(source.repo, source.revision, offline=offline)
        return hub.fetch(listing, source.filename, announce=announce)
    except WeightsError as error:
        remedy = f"Try again, or name a file: {option}."
        raise WeightsError(error.what, where=error.where, remedy=remedy) from error
