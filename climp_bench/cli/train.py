"""``climp-bench train``: train a micro model on the embedded data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from climp_bench.cli import console
from climp_bench.cli import options as opt

if TYPE_CHECKING:
    from climp_bench.models.spec import ModelSpec
    from climp_bench.train import TrainConfig


def train(
    family: Annotated[str, typer.Argument(help="FAMILY or FAMILY@SCALE, such as climp-m1.")],
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
    init_image: Annotated[
        str | None, typer.Option("--init-image", help="Checkpoint that the image tower starts from.")
    ] = None,
    init_text: Annotated[
        str | None, typer.Option("--init-text", help="Checkpoint that the text tower starts from.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of the run. Default: the user's data folder.")
    ] = None,
    device: opt.Device = "auto",
    fresh: Annotated[
        bool, typer.Option("--fresh/--resume", help="Start over / go on from the last checkpoint.")
    ] = False,
    quiet: opt.Quiet = False,
) -> None:
    """Train a dual encoder on the embedded scenes and put its weights into the local store.

    Says first how long it will take here. Stopped at any point (even killed), the same command goes on from
    the last checkpoint and ends with the same weights.

    Examples:

      climp-bench train climp-m1 --scale micro

      climp-bench train rope-vit --samples 200000 --pool-size 50000 --out runs/short
    """
    from climp_bench.models.catalogue import find

    spec = find(family, None if "@" in family else scale)
    options = {"samples": samples, "batch_size": batch_size, "pool_size": pool_size, "lr": lr, "seed": seed,
               "init_image": init_image, "init_text": init_text}  # fmt: skip
    chosen = {key: value for key, value in options.items() if value is not None}
    train_model(spec, device=device, quiet=quiet, resume=not fresh, out=out, options=chosen)


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
