from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from climp_bench.errors import TrainingError
from climp_bench.models import store, weights
from climp_bench.models.catalogue import find
from climp_bench.train import (
    FAMILIES,
    Quiet,
    Status,
    TrainConfig,
    TrainingStopped,
    estimate,
    estimating,
    loop,
    train,
)
from tests.unit.train.conftest import TINY

Make = Callable[..., TrainConfig]

KILLED_RUN = """
import json, sys, torch
from pathlib import Path
from climp_bench.train import Quiet, TrainConfig, train
torch.set_num_threads(1)
fields = json.loads(sys.argv[1])
train(TrainConfig(**{**fields, "betas": tuple(fields["betas"])}), Path(sys.argv[2]), "cpu",
      progress=Quiet(), pool_dir=Path(sys.argv[3]))
"""


class Acts(Quiet):
    """Does something when a training step is done."""

    def __init__(self, at: int, act: Callable[[], None]) -> None:
        self.at, self.act = at, act
        self.statuses: list[Status] = []

    def advance(self, what: str, done: int, total: int, status: Status | None = None) -> None:
        if status is not None:
            self.statuses.append(status)
        if what.startswith("training") and done == self.at:
            self.act()


def run(config: TrainConfig, out: Path, pool: Path, **options: Any) -> Path:
    return train(config, out, "cpu", pool_dir=pool, **{"progress": Quiet(), **options})


def final(out: Path) -> dict[str, Tensor]:
    """Every tensor of the last checkpoint: weights, optimiser, random states."""
    newest = sorted((out / "checkpoints").iterdir())[-1]
    return load_file(newest / "tensors.safetensors")


def same(a: Path, b: Path) -> bool:
    mine, its = final(a), final(b)
    return mine.keys() == its.keys() and all(torch.equal(mine[key], its[key]) for key in mine)


def losses(out: Path) -> list[tuple[Any, ...]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line.get("loss"), json.dumps(line.get("held_out"))) for line in lines]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, pool: Path) -> Path:
    """A run of six steps that nothing stopped."""
    out = tmp_path_factory.mktemp("whole")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    run(TrainConfig("rope-vit", **TINY), out, pool)
    torch.set_num_threads(before)
    return out


def test_killed_and_gone_on_equals_uninterrupted(whole: Path, tmp_path: Path, pool: Path, tiny: Make) -> None:
    arguments = [json.dumps(asdict(tiny(samples=48))), str(tmp_path), str(pool)]
    command = [sys.executable, "-c", KILLED_RUN, *arguments]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        deadline = time.monotonic() + 100
        while not (tmp_path / "checkpoints" / "step-00000002" / "manifest.json").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "weights").exists()
    run(tiny(), tmp_path, pool)
    assert same(tmp_path, whole)
    assert losses(tmp_path) == losses(whole)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_then_stops(
    whole: Path, tmp_path: Path, pool: Path, tiny: Make, number: signal.Signals
) -> None:
    before = signal.getsignal(number)
    stop = Acts(3, lambda: os.kill(os.getpid(), number))
    with pytest.raises(TrainingStopped, match="3 of 6 steps") as caught:
        run(tiny(), tmp_path, pool, progress=stop)
    assert caught.value.exit_code == 130
    assert signal.getsignal(number) is before
    assert (tmp_path / "checkpoints" / "step-00000003" / "manifest.json").exists()
    run(tiny(), tmp_path, pool)
    assert same(tmp_path, whole)
    assert losses(tmp_path) == losses(whole)


def test_a_stop_while_scenes_are_drawn(tmp_path: Path, tiny: Make) -> None:
    class Stops(Quiet):
        def advance(self, what: str, done: int, total: int, status: Status | None = None) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(TrainingStopped):
        train(tiny(), tmp_path, "cpu", progress=Stops())


def test_metrics_past_the_checkpoint_are_dropped_and_written_again(
    tmp_path: Path, pool: Path, tiny: Make
) -> None:
    def crash() -> None:
        with (tmp_path / "metrics.jsonl").open("a") as handle:
            handle.write('{"step": 5, "lo')
        raise RuntimeError("the machine went down")

    config = tiny(log_every=1, checkpoint_every=3)
    with pytest.raises(RuntimeError, match="went down"):
        run(config, tmp_path, pool, progress=Acts(5, crash))
    run(config, tmp_path, pool)
    assert [step for step, loss, _ in losses(tmp_path) if loss is not None] == [1, 2, 3, 4, 5, 6]


def test_another_seed_is_another_run(whole: Path, tmp_path: Path, pool: Path, tiny: Make) -> None:
    run(tiny(seed=1), tmp_path, pool)
    assert not same(tmp_path, whole)


def test_a_finished_run_is_only_exported_again(whole: Path, pool: Path, tiny: Make) -> None:
    before = losses(whole)
    steps = Acts(6, lambda: pytest.fail("a step was taken"))
    folder = run(tiny(), whole, pool, progress=steps)
    assert losses(whole) == before
    assert store.open_folder(folder).digest


def test_the_weights_are_half_of_the_checkpoint_and_the_card_tells(
    whole: Path, pool: Path, tiny: Make
) -> None:
    ref = store.open_folder(whole / "weights" / "rope-vit-micro")
    model = weights.load(find("rope-vit", "micro"), ref)
    kept = {key[6:]: value for key, value in final(whole).items() if key.startswith("model.")}
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, kept[key].half().float())
    card = (ref.directory / "README.md").read_text()
    for fact in ("| pairs seen | 48 |", "| distinct scenes | 24 |", "AdamW", "short_recall@1", "## Commit"):
        assert fact in card
    scores = [line for line in losses(whole) if line[2] != "null"][-1]
    assert scores[0] == 6
    assert f"{json.loads(scores[2])['dense_recall@5']:.4g}" in card


def test_metrics_are_means_of_the_steps_since_the_last_line(
    tmp_path: Path, pool: Path, tiny: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []
    genuine = loop.contrastive_loss

    def spy(*args: Tensor) -> tuple[Tensor, Tensor]:
        loss, accuracy = genuine(*args)
        seen.append(float(loss.detach()))
        return loss, accuracy

    monkeypatch.setattr(loop, "contrastive_loss", spy)
    watcher = Acts(0, lambda: None)
    run(tiny(log_every=4), tmp_path, pool, progress=watcher)
    logged = [line[1] for line in losses(tmp_path) if line[1] is not None]
    assert logged == pytest.approx([sum(seen[:4]) / 4, sum(seen[4:]) / 2])
    assert [status.loss for status in watcher.statuses] == logged
    assert watcher.statuses[-1].seconds_left == 0 < watcher.statuses[0].seconds_left


def test_a_loss_that_is_no_number_stops_and_keeps_the_checkpoint(
    tmp_path: Path, pool: Path, tiny: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine, calls = loop.contrastive_loss, []

    def breaks(*args: Tensor) -> tuple[Tensor, Tensor]:
        calls.append(0)
        loss, accuracy = genuine(*args)
        return (loss * float("nan") if len(calls) == 4 else loss), accuracy

    monkeypatch.setattr(loop, "contrastive_loss", breaks)
    with pytest.raises(TrainingError, match="the loss became nan") as caught:
        run(tiny(log_every=100), tmp_path, pool)
    (kept,) = (tmp_path / "checkpoints").iterdir()
    assert kept.name == "step-00000002"
    assert str(kept) in str(caught.value)
    assert not (tmp_path / "weights").exists()


def test_weights_that_are_no_numbers_are_never_saved(
    tmp_path: Path, pool: Path, tiny: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine = loop.make_optimiser

    def poisoned(model: Any, config: TrainConfig, device: str) -> torch.optim.AdamW:
        optimiser = genuine(model, config, device)
        optimiser.register_step_post_hook(lambda *_: model.text_projection.bias.data.fill_(torch.inf))
        return optimiser

    monkeypatch.setattr(loop, "make_optimiser", poisoned)
    with pytest.raises(TrainingError, match="a weight became NaN"):
        run(tiny(checkpoint_every=1, log_every=100), tmp_path, pool)
    assert not list((tmp_path / "checkpoints").glob("*"))


def test_a_checkpoint_of_other_settings_is_refused(whole: Path, pool: Path, tiny: Make) -> None:
    with pytest.raises(TrainingError, match=r"lr 0\.001, not 0\.002"):
        run(tiny(lr=2e-3), whole, pool)
    assert (whole / "checkpoints" / "step-00000006").exists()


def test_fresh_starts_over(tmp_path: Path, pool: Path, tiny: Make, whole: Path) -> None:
    run(tiny(samples=16, eval_every=2), tmp_path, pool)
    run(tiny(), tmp_path, pool, resume=False)
    assert same(tmp_path, whole)
    assert losses(tmp_path) == losses(whole)


def test_training_lowers_the_loss(tmp_path: Path, pool: Path, tiny: Make) -> None:
    run(tiny(samples=8 * 24, pool_size=8, dense_every=0, lowres_prob=0.0, log_every=6), tmp_path, pool)
    logged = [line[1] for line in losses(tmp_path) if line[1] is not None]
    assert logged[-1] < 0.8 * logged[0]


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "rope-vit"])
def test_every_family_trains(tmp_path: Path, pool: Path, tiny: Make, family: str) -> None:
    folder = run(tiny(family, samples=24, precision="bf16"), tmp_path, pool)
    assert weights.load(find(family, "micro"), store.open_folder(folder))


def test_an_estimate_scales_what_it_measures(tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimating, "CPU_BATCH", 4)
    guess = estimate(tiny(samples=8000, pool_size=1000), "cpu")
    assert guess.train_s * guess.images_per_s == pytest.approx(8000)
    assert 0 < guess.draw_s < 1000 * 0.5
    assert "images/s" in str(guess)
