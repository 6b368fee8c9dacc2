"""Trains the shipped micro models, one after the other, under one equal budget.

``python -m climp_bench.train.micro --out DIR`` leaves ``DIR/shipped``, in the layout the package ships, and
``DIR/runs/FAMILY`` with metrics and checkpoints. Stopped, the same command goes on.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from climp_bench.errors import ClimpError, TrainingError
from climp_bench.files import write_text
from climp_bench.models import store
from climp_bench.train.config import FAMILIES, MICRO, TrainConfig, micro
from climp_bench.train.estimating import estimate
from climp_bench.train.loop import METRICS, train
from climp_bench.train.progress import Progress, default_progress, format_seconds

BUDGET = "budget.json"


@dataclass(frozen=True)
class Row:
    """The outcome of one family's training."""

    family: str
    steps: int
    seconds: float
    loss: float
    recall_1: float
    recall_5: float


def train_micro(
    configs: list[TrainConfig], out: Path, device: str = "auto", progress: Progress | None = None
) -> list[Row]:
    """Train each configuration on one shared pool and lay the weights out as the package ships them.

    Args:
        configs: one a family.
        out: where ``pool``, ``runs`` and ``shipped`` go.
        device: ``auto``, ``cpu`` or ``cuda``.
        progress: what to report to.

    Raises:
        ClimpError: as ``train`` does.
    """
    rows = []
    for config in configs:
        run = out / "runs" / config.family
        folder = train(config, run, device, progress=progress, pool_dir=out / "pool")
        target = out / "shipped" / folder.name
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(folder, target)
        rows.append(_outcome(config, run))
    store.update_shipped_manifest(out / "shipped")
    return rows


def equal_budget(configs: list[TrainConfig], seconds: float, out: Path, device: str) -> list[TrainConfig]:
    """The configurations with one number of samples, such that all trainings fit into ``seconds``.

    The speed of every family is measured first; the budget is kept in ``out``, so that a run that goes on
    does not measure anew.

    Raises:
        TrainingError: not even one batch each would fit.
    """
    path = out / BUDGET
    if not path.is_file():
        per_sample = sum(1 / estimate(config, device).images_per_s for config in configs)
        write_text(path, json.dumps({"samples": int(seconds / per_sample)}) + "\n", TrainingError)
    affordable = int(json.loads(path.read_text())["samples"])
    return [replace(config, samples=min(config.samples, affordable)) for config in configs]


def table(rows: list[Row]) -> str:
    """One line a family."""
    lines = [f"{'family':<12}{'steps':>8}{'seconds':>9}{'loss':>8}{'R@1':>8}{'R@5':>8}"]
    lines += [
        f"{row.family:<12}{row.steps:>8}{row.seconds:>9.0f}{row.loss:>8.3f}{row.recall_1:>8.1%}{row.recall_5:>8.1%}"
        for row in rows
    ]
    return "\n".join(lines)


def _outcome(config: TrainConfig, run: Path) -> Row:
    lines = [json.loads(line) for line in (run / METRICS).read_text().splitlines()]
    logged = [line for line in lines if "loss" in line][-1]
    scores = [line["held_out"] for line in lines if "held_out" in line][-1]
    return Row(
        config.family, config.steps, logged["seconds"], logged["loss"],
        scores["short_recall@1"], scores["short_recall@5"],
    )  # fmt: skip


def main(
    out: Annotated[Path, typer.Option(help="Folder for pool, runs and weights.")],
    families: Annotated[str, typer.Option(help="Comma-separated.")] = ",".join(FAMILIES),
    samples: Annotated[int, typer.Option(help="Pairs per family, at most.")] = MICRO.samples,
    seconds_cap: Annotated[float, typer.Option(help="Seconds of training in all; 0 for no limit.")] = 0.0,
    batch_size: Annotated[int, typer.Option(help="Pairs per batch.")] = MICRO.batch_size,
    pool_size: Annotated[int, typer.Option(help="Distinct scenes.")] = MICRO.pool_size,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = MICRO.lr,
    seed: Annotated[int, typer.Option(help="Seed of everything.")] = MICRO.seed,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Train the micro models under one equal budget and print how each came out."""
    progress = default_progress()
    try:
        configs = [
            micro(family, samples=samples, batch_size=batch_size, pool_size=pool_size, lr=lr, seed=seed)
            for family in families.split(",")
        ]
        if seconds_cap:
            configs = equal_budget(configs, seconds_cap, out, device)
            capped = format_seconds(seconds_cap)
            progress.note(f"{configs[0].samples:,} pairs per family, to fit {capped} of training in all")
        print(table(train_micro(configs, out, device, progress)))
    except ClimpError as error:
        progress.note(f"Error: {error}")
        raise typer.Exit(error.exit_code) from error
