"""``climp-bench train``: train a micro model on the embedded data, or any model by recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from climp_bench.cli import console
from climp_bench.cli import options as opt

if TYPE_CHECKING:
    from climp_bench.models.spec import ModelSpec
    from climp_bench.train import TrainConfig

_Family = Annotated[
    str | None,
    typer.Argument(help="FAMILY or FAMILY@SCALE, such as climp-m1; a recipe names one itself."),
]
_Recipe = Annotated[
    str | None,
    typer.Option("--recipe", help="Train by recipe: a shipped name or a TOML file; torchrun spreads it."),
]
_Changes = Annotated[
    list[str] | None,
    typer.Option("--set", help="KEY=VALUE of the recipe, such as optimiser.lr=1e-4; repeat for more."),
]
_InitImage = Annotated[
    str | None, typer.Option("--init-image", help="Checkpoint that the image tower starts from.")
]
_InitText = Annotated[
    str | None, typer.Option("--init-text", help="Checkpoint that the text tower starts from.")
]
_Out = Annotated[
    Path | None, typer.Option("--out", "-o", help="Folder of the run. Default: the user's data folder.")
]
_Fresh = Annotated[
    bool, typer.Option("--fresh/--resume", help="Start over / go on from the last checkpoint.")
]


def train(
    family: _Family = None,
    scale: Annotated[
        str, typer.Option("--scale", help="Scale of the model; micro trains on scenes.")
    ] = "micro",
    samples: Annotated[
        int | None,
        typer.Option("--samples", min=1, help="Image-text pairs seen. Default: the shipped budget."),
    ] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", min=2, help="Pairs in a batch.")] = None,
    pool_size: Annotated[
        int | None, typer.Option("--pool-size", min=2, help="Distinct scenes, drawn once.")
    ] = None,
    lr: Annotated[float | None, typer.Option("--lr", help="Peak learning rate.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of weights and order.")] = 0,
    init_image: _InitImage = None,
    init_text: _InitText = None,
    recipe: _Recipe = None,
    changes: _Changes = None,
    out: _Out = None,
    device: opt.Device = "auto",
    fresh: _Fresh = False,
    offline: opt.Offline = False,
    quiet: opt.Quiet = False,
) -> None:
    """Train a dual encoder on the embedded scenes and put its weights into the local store.

    Says first how long it will take here. Stopped at any point (even killed), the same command goes on from
    the last checkpoint and ends with the same weights.

    Examples:

      climp-bench train climp-m1 --scale micro

      climp-bench train rope-vit --samples 200000 --pool-size 50000 --out runs/short

      climp-bench train --recipe climp-cc12m --set data.path=/data/cc12m --out runs/climp

      torchrun --nproc-per-node 8 -m climp_bench train rope-vit@base --recipe climp-cc12m --out runs/rope
    """
    from climp_bench.errors import UsageError
    from climp_bench.models.catalogue import find

    options = {"samples": samples, "batch_size": batch_size, "pool_size": pool_size, "lr": lr, "seed": seed,
               "init_image": init_image, "init_text": init_text}  # fmt: skip
    chosen = {key: value for key, value in options.items() if value is not None}
    if recipe is not None:
        _refuse_beside_recipe({key: value for key, value in chosen.items() if (key, value) != ("seed", 0)})
        train_by_recipe(
            recipe, changes or [], family=family, out=out, device=device, fresh=fresh, offline=offline,
            quiet=quiet,
        )  # fmt: skip
        return
    if changes:
        raise UsageError("--set changes a recipe, and none is named", remedy="Add --recipe NAME.")
    if family is None:
        remedy = "Name a FAMILY, such as climp-m1, or --recipe NAME."
        raise UsageError("nothing says which model to train", remedy=remedy)
    spec = find(family, None if "@" in family else scale)
    train_model(spec, device=device, quiet=quiet, resume=not fresh, out=out, options=chosen)


def train_by_recipe(
    name: str,
    changes: list[str],
    *,
    family: str | None = None,
    out: Path | None,
    device: str,
    fresh: bool,
    offline: bool = False,
    quiet: bool,
) -> Path:
    """Train as a recipe says, in every process that torchrun starts, and tell where the weights are.

    The weights stay in the run's folder: a paper's model is not replaced in the store unasked. A ``family``
    without a scale takes the recipe's.

    Raises:
        UsageError: there is no such recipe, or it has faults.
    """
    from climp_bench.models.catalogue import find
    from climp_bench.models.store import user_store
    from climp_bench.ranks import place
    from climp_bench.train import Quiet, recipe
    from climp_bench.train.engine import train_recipe

    if family is not None:
        scale = recipe.load(name, changes).model.name.partition("@")[2]
        changes = [*changes, f"model.name={find(family, None if '@' in family else scale).name}"]
    loaded, first = recipe.load(name, changes), place().rank == 0
    folder = out or user_store().parent / "runs" / f"{loaded.name}-{loaded.model.name.replace('@', '-')}"
    if first and not quiet:
        budget, processes = loaded.budget, place().size
        length = f"{budget.epochs} epochs" if budget.epochs else f"{budget.samples:,} pairs"
        console.note(
            f"Training {loaded.model.name} by {loaded.name} for {length} of batch {budget.batch_size} "
            f"on {processes} process{'es' * (processes > 1)} in {folder}.",
            always=True,
        )
    pool = folder / "pool" if out else user_store().parent / "pool"
    if quiet:
        console.no_download_bars()
    weights = train_recipe(
        loaded, folder, device, not fresh, Quiet() if quiet else None, pool, offline=offline
    )
    if first and not quiet:
        console.note(f"Weights: {weights}", always=True)
        install = f"climp-bench models import {loaded.model.name} {weights}"
        console.note(f"`{install}` has every command use them.", always=True)
    return weights


def _refuse_beside_recipe(options: dict[str, float | str]) -> None:
    """Raise ``UsageError`` for options that a recipe has keys for."""
    from climp_bench.errors import UsageError

    keys = {"samples": "budget.samples", "batch_size": "budget.batch_size", "pool_size": "data.pool_size",
            "lr": "optimiser.lr", "seed": "run.seed", "init_image": "model.init_image",
            "init_text": "model.init_text"}  # fmt: skip
    for option, value in options.items():
        raise UsageError(
            "a recipe says this itself", where=f"--{option.replace('_', '-')}",
            remedy=f"Write --set {keys[option]}={value}.",
        )  # fmt: skip


def train_model(
    spec: ModelSpec,
    *,
    device: str,
    quiet: bool,
    resume: bool,
    out: Path | None = None,
    options: dict[str, float | str] | None = None,
) -> Path:
    """Train ``spec`` on scenes and install the weights into the user's store; returns their folder.

    Raises:
        UsageError: the model is not of scale micro, which is what the embedded data can train.
    """
    from climp_bench.errors import UsageError
    from climp_bench.models.store import folder_name, install, open_folder, user_store
    from climp_bench.train import Quiet, default_progress, estimate, micro, train

    if spec.scale != "micro":
        remedy = "Train FAMILY@micro, or put weights into the store."
        raise UsageError("the embedded data trains scale micro only", where=spec.name, remedy=remedy)
    config: TrainConfig = micro(spec.family, **(options or {}))
    folder = out or user_store().parent / "runs" / folder_name(spec)
    if not quiet:
        console.note(f"Training {spec.name} on {config.samples:,} image-text pairs in {folder}.", always=True)
        console.note(f"It will take {estimate(config, device)}.", always=True)
    pool = folder / "pool" if out else user_store().parent / "pool"
    weights = train(config, folder, device, resume, Quiet() if quiet else default_progress(), pool)
    installed = install(open_folder(weights), spec)
    if not quiet:
        console.note(f"Installed: {installed.directory} (sha256 {installed.digest[:16]})", always=True)
        console.note("Every command uses it from now on; delete that folder to go back.", always=True)
    return installed.directory
