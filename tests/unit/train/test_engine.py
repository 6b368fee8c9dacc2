"""Runs by recipe: the same on any number of processes, whatever happens to them."""

from __future__ import annotations

import json
import os
import pickle
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from climp_bench.errors import TrainingError, UsageError, WeightsError
from climp_bench.models import store
from climp_bench.ops.dispatch import preferred
from climp_bench.train import TrainConfig, TrainingStopped, engine, micro, watching
from climp_bench.train.learner import Learner
from climp_bench.train.loop import train as train_plainly
from climp_bench.train.progress import Quiet
from tests.unit.train.processes import spread, start
from tests.unit.train.small import PLAIN, metrics, small_spec, train_small

WITHIN = 2e-4
"""Of losses after twelve steps: sums in another order differ in the last digits, and steps multiply that."""


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("pool"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, scenes: str) -> Path:
    """A run of one process that nothing stopped."""
    out = tmp_path_factory.mktemp("whole")
    train_small(str(out), scenes)
    return out


@pytest.fixture(autouse=True)
def _find_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "find", engine.find)


def assert_same_run(out: Path, whole: Path) -> None:
    mine, its = metrics(out), metrics(whole)
    assert mine.keys() == its.keys() and len(its) == 12
    for step, line in its.items():
        assert mine[step]["seen"] == line["seen"]
        assert mine[step]["loss"] == pytest.approx(line["loss"], abs=WITHIN)
    weights = [load_file(folder / "weights" / "small-micro" / "model.safetensors") for folder in (out, whole)]
    for name, tensor in weights[1].items():
        torch.testing.assert_close(weights[0][name], tensor, rtol=0.02, atol=2e-3)


def test_equals_the_plain_loop(
    whole: Path, tmp_path: Path, scenes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("climp_bench.train.loop.find", lambda *_: small_spec())
    config: TrainConfig = micro(
        "rope-vit", samples=192, batch_size=16, pool_size=48, held_out=4, dense_every=3, max_tokens=64,
        log_every=1, eval_every=6, workers=1,
    )  # fmt: skip
    with preferred(PLAIN):
        train_plainly(config, tmp_path, "cpu", progress=Quiet(), pool_dir=Path(scenes))
    assert len(metrics(tmp_path)) == 12
    for step, line in metrics(tmp_path).items():
        assert metrics(whole)[step]["loss"] == pytest.approx(line["loss"], abs=WITHIN)


@pytest.mark.parametrize(
    ("size", "changes"),
    [
        (1, ["compute.micro_batch=5", "compute.checkpoint_activations=true"]),
        pytest.param(2, [], marks=pytest.mark.slow),
        pytest.param(3, ["compute.strategy=fsdp", "compute.micro_batch=3"], marks=pytest.mark.slow),
    ],
)
def test_any_number_of_processes(
    size: int, changes: list[str], whole: Path, tmp_path: Path, scenes: str
) -> None:
    if size == 1:
        train_small(str(tmp_path), scenes, *changes)
    else:
        spread(size, train_small, str(tmp_path), scenes, *changes)
    assert_same_run(tmp_path, whole)


@pytest.mark.parametrize(("strategy", "then"), [("ddp", 1), pytest.param("fsdp", 3, marks=pytest.mark.slow)])
def test_killed_at_any_step_it_goes_on_with_other_processes(
    strategy: str, then: int, whole: Path, tmp_path: Path, scenes: str
) -> None:
    choice = random.Random(os.urandom(4))
    running = start(2, _slow, str(tmp_path), scenes, f"compute.strategy={strategy}")
    after, victim = choice.randint(3, 11), choice.randrange(2)
    deadline = time.monotonic() + 60
    while len(_lines(tmp_path)) < after:
        assert time.monotonic() < deadline and all(process.is_alive() for process, _ in running)
        time.sleep(0.01)
    os.kill(running[victim][0].pid, signal.SIGKILL)
    running[victim][0].join()
    running[1 - victim][0].join(60)
    assert not running[1 - victim][0].is_alive(), "the other process waits for ever"
    assert "RankError" in pickle.loads(running[1 - victim][1].recv_bytes())[1]
    assert not (tmp_path / "weights").exists(), (after, victim)
    if then == 1:
        train_small(str(tmp_path), scenes)
    else:
        spread(then, train_small, str(tmp_path), scenes, "compute.strategy=ddp")
    assert_same_run(tmp_path, whole)


def _slow(*args: str) -> str:
    return train_small(*args, pause_s=0.05)


def _lines(out: Path) -> list[str]:
    path = out / "metrics.jsonl"
    return path.read_text().splitlines() if path.is_file() else []


def _stopped(out: str, pool: str) -> tuple[str, int]:
    with pytest.raises(TrainingStopped) as caught:
        train_small(out, pool, signal_at=4 if os.environ["RANK"] == "0" else 0)
    return str(caught.value), caught.value.exit_code


def test_sigterm_at_one_process_stops_all_after_a_checkpoint(
    whole: Path, tmp_path: Path, scenes: str
) -> None:
    outcomes = spread(2, _stopped, str(tmp_path), scenes)
    assert [code for _, code in outcomes] == [130, 130]
    assert all("4 of 12 steps" in said for said, _ in outcomes)
    assert (tmp_path / "checkpoints" / "step-00000004" / "manifest.json").is_file()
    train_small(str(tmp_path), scenes)
    assert_same_run(tmp_path, whole)


def test_weights_say_how_they_were_made(whole: Path) -> None:
    ref = store.open_folder(whole / "weights" / "small-micro")
    origin = json.loads((ref.directory / "origin.json").read_text())
    assert origin["recipe"]["budget"]["batch_size"] == 16 and ref.source == "local"
    card = (ref.directory / "README.md").read_text()
    for fact in (
        origin["recipe_sha256"],
        "| pairs seen | 192 |",
        "short_recall@1",
        metrics(whole)[12]["seen"],
    ):
        assert fact in card
    (ref.directory / "origin.json").write_text("{}")
    with pytest.raises(WeightsError):
        store.open_folder(ref.directory)


def test_a_finished_run_is_only_exported_again(whole: Path, scenes: str) -> None:
    before = _lines(whole)
    train_small(str(whole), scenes)
    assert _lines(whole) == before


def test_another_recipe_is_refused_and_the_free_part_is_not(whole: Path, scenes: str) -> None:
    with pytest.raises(TrainingError, match=r"optimiser\.lr 0\.001, not 0\.002"):
        train_small(str(whole), scenes, "optimiser.lr=2e-3")
    train_small(str(whole), scenes, "compute.micro_batch=4", "run.keep=3")


def breaks(monkeypatch: pytest.MonkeyPatch, at: int, harm: Any) -> None:
    """Do something to the learner before step ``at``."""
    genuine = Learner.step

    def step(self: Learner, parts: Any, step: int, *rest: Any) -> Any:
        if step == at:
            harm(self)
        outcome = genuine(self, parts, step, *rest)
        if step == at:
            harm(self)
        return outcome

    monkeypatch.setattr(Learner, "step", step)


def poison(learner: Learner) -> None:
    learner.model.text_projection.bias.data.fill_(torch.nan)


def kill_scale(learner: Learner) -> None:
    learner.model.logit_scale.data.fill_(-2.0)


def scatter(learner: Learner) -> None:
    for parameter in learner.model.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=3.0 * (parameter.ndim > 1))
    learner.model.logit_scale.data.fill_(4.6)


@pytest.mark.parametrize(
    ("harm", "changes", "said"),
    [
        (poison, ["run.log_every=100"], "the loss became nan"),
        (kill_scale, [], "the logit scale is dead"),
        (scatter, ["run.max_rise=1.5"], "the loss rose to"),
    ],
)
def test_what_goes_wrong_stops_with_a_reason_and_keeps_the_checkpoint(
    harm: Any, changes: list[str], said: str, tmp_path: Path, scenes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaks(monkeypatch, 7, harm)
    with pytest.raises(TrainingError, match=said) as caught:
        train_small(str(tmp_path), scenes, *changes)
    kept = tmp_path / "checkpoints" / "step-00000006"
    assert str(kept) in str(caught.value) and (kept / "manifest.json").is_file()
    assert not (tmp_path / "weights").exists()


def test_a_full_disk_leaves_the_checkpoint_before(
    whole: Path, tmp_path: Path, scenes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine, calls = engine.checkpoint.save_tensors, []

    def full(*args: Any, **kwargs: Any) -> Any:
        calls.append(0)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        return genuine(*args, **kwargs)

    monkeypatch.setattr(engine.checkpoint, "save_tensors", full)
    with pytest.raises(TrainingError, match=r"cannot be written .*No space left"):
        train_small(str(tmp_path), scenes)
    left = sorted(folder.name for folder in (tmp_path / "checkpoints").iterdir())
    assert left == ["step-00000003", "step-00000006"]
    monkeypatch.undo()
    train_small(str(tmp_path), scenes)
    assert_same_run(tmp_path, whole)


@pytest.mark.parametrize("harm", ["cut", "missing"])
def test_a_damaged_checkpoint_is_refused(harm: str, tmp_path: Path, scenes: str) -> None:
    with pytest.raises(TrainingStopped):
        train_small(str(tmp_path), scenes, signal_at=4)
    newest = tmp_path / "checkpoints" / "step-00000004"
    part = next((newest / "tensors").glob("*.distcp"))
    part.unlink() if harm == "missing" else part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(TrainingError, match=r"not those that its manifest names.*Delete this folder"):
        train_small(str(tmp_path), scenes)


def test_extras_are_told_the_numbers_and_asked_for_when_missing(
    tmp_path: Path, scenes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[int, dict[str, float]] = {}

    class Fake:
        def __init__(self, folder: Path, name: str, recipe: dict[str, Any]) -> None:
            assert (folder, name, recipe["budget"]["batch_size"]) == (tmp_path, "scenes-micro", 16)

        def record(self, step: int, values: dict[str, float]) -> None:
            told.setdefault(step, {}).update(values)

        def close(self) -> None:
            told[0] = {}

    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(watching, "import_module", missing)
    with pytest.raises(UsageError, match=r"wandb is not installed.*climp-bench\[tracking\]"):
        train_small(str(tmp_path), scenes, 'run.watch=["wandb"]')
    monkeypatch.setitem(watching._KNOWN, "tensorboard", Fake)
    train_small(str(tmp_path), scenes, 'run.watch=["tensorboard"]')
    assert 0 in told and told[12]["loss"] == metrics(tmp_path)[12]["loss"]
    assert "short_recall@1" in told[12] and "held_out" not in told[12]
