from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from climp_bench.errors import TrainingError
from climp_bench.train import checkpoint


def make(seed: int) -> tuple[nn.Module, torch.optim.AdamW]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model.register_parameter("logit_scale", nn.Parameter(torch.tensor(1.0)))
    weights = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim < 2]
    return model, torch.optim.AdamW([{"params": weights}, {"params": rest, "weight_decay": 0.0}])


def step(model: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    optimiser.zero_grad()
    (model(torch.randn(5, 3)).square().sum() * model.logit_scale).backward()
    optimiser.step()


def save(root: Path, at: int, model: nn.Module, optimiser: torch.optim.Optimizer) -> Path:
    return checkpoint.save(root, at, model, optimiser, state={"a": 0.1}, tensors={"w": torch.ones(2)})


def test_training_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    model, optimiser = make(0)
    for _ in range(3):
        step(model, optimiser)
    folder = save(tmp_path, 3, model, optimiser)
    for _ in range(3):
        step(model, optimiser)  # its noise comes from torch's global generator
    other, other_optimiser = make(9)
    state, tensors = checkpoint.load(folder, other, other_optimiser)
    assert state == {"step": 3, "a": 0.1}
    assert torch.equal(tensors["w"], torch.ones(2))
    for _ in range(3):
        step(other, other_optimiser)
    for mine, its in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, its)


def test_the_newest_two_are_kept_and_unfinished_ones_do_not_count(tmp_path: Path) -> None:
    model, optimiser = make(0)
    assert checkpoint.latest(tmp_path) is None
    for at in (2, 4, 100):
        step(model, optimiser)
        save(tmp_path, at, model, optimiser)
    assert [folder.name for folder in sorted(tmp_path.iterdir())] == ["step-00000004", "step-00000100"]
    (tmp_path / "step-00000100" / "manifest.json").unlink()
    assert checkpoint.latest(tmp_path) == tmp_path / "step-00000004"
    save(tmp_path, 100, model, optimiser)
    assert checkpoint.latest(tmp_path) == tmp_path / "step-00000100"
    checkpoint.discard(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["cut", "flip", "lose"])
def test_a_damaged_file_is_refused(tmp_path: Path, name: str, damage: str) -> None:
    model, optimiser = make(0)
    step(model, optimiser)
    path = save(tmp_path, 1, model, optimiser) / name
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content if damage == "flip" else content[:-9])
    if damage == "lose":
        path.unlink()
    with pytest.raises(TrainingError, match="Delete this checkpoint"):
        checkpoint.load(path.parent, *make(0))


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    model, optimiser = make(0)
    step(model, optimiser)
    folder = save(tmp_path, 1, model, optimiser)
    other = nn.Linear(3, 5)
    with pytest.raises(TrainingError, match="cannot be read"):
        checkpoint.load(folder, other, torch.optim.AdamW(other.parameters()))


def test_nothing_is_pickled(tmp_path: Path) -> None:
    model, optimiser = make(0)
    step(model, optimiser)
    folder = save(tmp_path, 1, model, optimiser)
    assert {path.suffix for path in folder.iterdir()} == {".safetensors", ".json"}
