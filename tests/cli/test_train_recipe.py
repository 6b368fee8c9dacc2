"""``train --recipe``: what it takes, what it refuses, what it leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from climp_bench.cli.train import train, train_by_recipe
from climp_bench.errors import UsageError
from climp_bench.models.store import open_folder

TINY = [
    "budget.samples=16", "budget.batch_size=8", "data.pool_size=16", "data.held_out=4", "run.workers=1",
    "data.max_tokens=64", "compute.micro_batch=4",
]  # fmt: skip


def test_a_family_takes_the_recipes_scale_and_the_run_says_where_it_is(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = train_by_recipe(
        "scenes-micro", TINY, family="rope-vit", out=tmp_path, device="cpu", fresh=False, quiet=False
    )
    told = " ".join(capfd.readouterr().err.split())
    assert "Training rope-vit@micro by scenes-micro for 16 pairs of batch 8 on 1 process" in told
    assert "models import rope-vit@micro" in told
    ref = open_folder(folder)
    origin = json.loads((ref.directory / "origin.json").read_text())
    assert origin["recipe"]["model"]["name"] == "rope-vit@micro"
    assert origin["recipe"]["compute"]["micro_batch"] == 4


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "nothing says which model"),
        ({"family": "climp-m1", "changes": ["run.seed=1"]}, "--set changes a recipe"),
        ({"recipe": "scenes-micro", "lr": 0.1}, r"Write --set optimiser\.lr=0\.1"),
        ({"recipe": "scenes-micro", "seed": 3}, r"Write --set run\.seed=3"),
        ({"recipe": "climp-cc12"}, "Did you mean 'climp-cc12m'"),
        ({"recipe": "climp-cc12m"}, r"nothing says where the shards are.*--set data\.path=DIR"),
        ({"recipe": "scenes-micro", "family": "rope-vitt"}, "Did you mean 'rope-vit'"),
    ],
)
def test_what_is_refused(options: dict[str, Any], says: str, tmp_path: Path) -> None:
    given: dict[str, Any] = dict.fromkeys(
        ("family", "samples", "batch_size", "pool_size", "lr", "init_image", "init_text", "recipe", "changes")
    )
    given |= {"scale": "micro", "seed": 0, "out": tmp_path, "device": "cpu", "fresh": False, "quiet": True}
    with pytest.raises(UsageError, match=says):
        train(**{**given, **options})
