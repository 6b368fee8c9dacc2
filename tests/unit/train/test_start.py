"""Training that starts from pretrained towers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from climp_bench.errors import WeightsError
from climp_bench.files import sha256_file
from climp_bench.models.catalogue import build, find
from climp_bench.train import Quiet, TrainConfig, train
from climp_bench.train.loop import Run

Make = Callable[..., TrainConfig]
SPEC = find("rope-vit", "micro")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """An image tower alone, as timm saves one, with the head that ours has not."""
    tower = build(SPEC, seed=9).vision_encoder
    state = {key.removeprefix("trunk."): value for key, value in tower.state_dict().items()}
    path = tmp_path / "tower.safetensors"
    save_file({**state, "head.weight": torch.ones(10, 144), "head.bias": torch.ones(10)}, path)
    return path


def test_the_named_tower_starts_from_the_checkpoint_and_the_other_at_random(
    tiny: Make, checkpoint: Path, tmp_path: Path
) -> None:
    run = Run(tiny(init_image=str(checkpoint)), SPEC, tmp_path / "run", "cpu")
    run.restore(resume=True)
    given, seeded = build(SPEC, seed=9), build(SPEC, seed=0)
    for key, value in run.model.vision_encoder.state_dict().items():
        assert torch.equal(value, given.vision_encoder.state_dict()[key]), key
    for key, value in run.model.text_encoder.state_dict().items():
        assert torch.equal(value, seeded.text_encoder.state_dict()[key]), key


def test_the_card_names_it_even_after_a_resumed_run(
    tiny: Make, checkpoint: Path, pool: Path, tmp_path: Path
) -> None:
    digest = sha256_file(checkpoint)
    config = tiny(init_image=str(checkpoint))
    folder = train(config, tmp_path / "run", "cpu", progress=Quiet(), pool_dir=pool)
    assert digest in (folder / "README.md").read_text()
    again = train(config, tmp_path / "run", "cpu", progress=Quiet(), pool_dir=pool)
    assert digest in (again / "README.md").read_text()
    plain = train(tiny(), tmp_path / "plain", "cpu", progress=Quiet(), pool_dir=pool)
    assert "## Start" not in (plain / "README.md").read_text()


def test_a_checkpoint_of_another_tower_is_refused_before_training(
    tiny: Make, checkpoint: Path, pool: Path, tmp_path: Path
) -> None:
    with pytest.raises(WeightsError, match="do not fit"):
        train(tiny(init_text=str(checkpoint)), tmp_path / "run", "cpu", progress=Quiet(), pool_dir=pool)
