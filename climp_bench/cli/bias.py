"""``climp-bench bias``: how much a scan and attention rely on which patches are neighbours."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from climp_bench.cli import console
from climp_bench.cli import options as opt
from climp_bench.ranks import is_helper

if TYPE_CHECKING:
    from climp_bench.train.bias import BiasConfig
    from climp_bench.train.bias_data import Thumbnails

EMBEDDED_TRAIN, EMBEDDED_TEST, EMBEDDED_EPOCHS = 1024, 1000, 4
FOLDER_EPOCHS = 30
EMBEDDED_TASK = "scenes-colour"
"""Thirteen classes: the embedded task that towers of this size learn within minutes on a CPU. Given more
images it is learnt in any order of the patches; ``scenes-digit`` then asks for more."""

_Data = Annotated[
    Path | None,
    typer.Option("--data", help="CIFAR-10, torchvision's folder or the hub's. Default: embedded scenes."),
]
_Epochs = Annotated[
    int | None,
    typer.Option("--epochs", min=1, help=f"Default: {EMBEDDED_EPOCHS}; with --data {FOLDER_EPOCHS}."),
]
_TrainImages = Annotated[int, typer.Option("--train-images", min=64, help="Embedded scenes to train on.")]
_Task = Annotated[
    str | None,
    typer.Option("--task", help=f"Embedded task to learn, such as scenes-digit. Default: {EMBEDDED_TASK}."),
]
_Fresh = Annotated[bool, typer.Option("--fresh/--resume", help="Run everything again / keep finished runs.")]


def bias(
    data: _Data = None,
    task: _Task = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Runs of each kind.")] = 3,
    epochs: _Epochs = None,
    train_images: _TrainImages = EMBEDDED_TRAIN,
    batch_size: Annotated[int, typer.Option("--batch-size", min=2, help="Images in a batch.")] = 32,
    lr: Annotated[float, typer.Option("--lr", help="Peak learning rate.")] = 2e-3,
    out: opt.Out = Path("reports/bias"),
    device: opt.Device = "auto",
    fresh: _Fresh = False,
    json: opt.AsJson = False,
    quiet: opt.Quiet = False,
) -> None:
    """Train a VMamba and a ViT of three blocks on thumbnails, as they are and with their patches reordered.

    The paper's table 14 and figure 6. All images are reordered alike, so that nothing is lost but which
    patches are neighbours. Stopped, the same command goes on after the last finished run.

    Examples:

      climp-bench bias

      climp-bench bias --task scenes-digit --train-images 6000 --epochs 8 --batch-size 64

      climp-bench bias --data /data/cifar10 --seeds 5 --out reports/bias-cifar10
    """
    from climp_bench.report.bias import DRAWINGS, write_bias
    from climp_bench.run.experiment_records import run_bias_with_records
    from climp_bench.train import bias as experiment

    config = experiment.BiasConfig(
        epochs or (EMBEDDED_EPOCHS if data is None else FOLDER_EPOCHS), batch_size, lr
    )
    total = seeds * len(experiment.TOWERS) * len(experiment.ORDERS)
    with console.steps(total + 1, quiet or json) as step:
        step("reading images")
        images = _thumbnails(data, task, train_images)
        runs = run_bias_with_records(images, config, seeds, out, device, step, fresh)
    if is_helper():
        return
    facts = _facts(images, config)
    small = data is None
    written = write_bias(runs, facts, out, small=small)
    if json:
        console.print_json({"facts": facts, "runs": runs})
        return
    _show(runs, f"{images.name}: {len(images.train_NHWC):,} images, {config.epochs} epochs")
    if not quiet:
        if small:
            console.note(DRAWINGS, always=True)
        console.note("Means over seeds with 95% t intervals; accuracy in percent.", always=True)
        console.note(f"Written: {', '.join(map(str, written))}", always=True)


def _thumbnails(data: Path | None, task: str | None, train_images: int) -> Thumbnails:
    from climp_bench.errors import UsageError
    from climp_bench.train.bias_data import embedded, from_folder

    if data is None:
        return embedded(train_images, EMBEDDED_TEST, task or EMBEDDED_TASK)
    if task:
        raise UsageError("--task names embedded scenes, --data takes their place", remedy="Give one of them.")
    return from_folder(data)


def _facts(images: Thumbnails, config: BiasConfig) -> dict[str, Any]:
    """What all runs share, for the page."""
    from dataclasses import asdict

    from climp_bench.train.bias import PATCH

    return {
        "data": images.name, "training images": len(images.train_NHWC), "classes": len(images.classes),
        **asdict(config), "optimiser": "AdamW, warm-up over a tenth of the steps, cosine; no augmentation",
        "patch": f"{PATCH} x {PATCH} of 32 x 32 pixels",
        "fingerprint of the data": images.fingerprint[:16],
    }  # fmt: skip


def _show(runs: list[dict[str, Any]], title: str) -> None:
    from rich.table import Table

    from climp_bench.report.bias import HEAD, rows

    table = Table(title=title, title_justify="left")
    for column in HEAD:
        table.add_column(column, justify="left" if column in ("tower", "patches") else "right")
    for row in rows(runs):
        table.add_row(*row, end_section=row[2].startswith("natural -"))
    console.print_table(table)
