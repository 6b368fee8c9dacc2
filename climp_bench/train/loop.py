"""The training loop: ``train`` makes a model from a configuration, and goes on where it was stopped."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch

from climp_bench.errors import TrainingError
from climp_bench.files import write_text
from climp_bench.models.adapters import pick_device
from climp_bench.models.catalogue import build, find
from climp_bench.models.initialise import initialise
from climp_bench.models.spec import ModelSpec
from climp_bench.ops.precision import float32_products
from climp_bench.train import checkpoint
from climp_bench.train.config import TrainConfig
from climp_bench.train.data import Batch, Batches, Scenes, load_scenes
from climp_bench.train.export import export
from climp_bench.train.heldout import held_out_recall
from climp_bench.train.losses import contrastive_loss
from climp_bench.train.optim import learning_rate, make_optimiser
from climp_bench.train.progress import Progress, Status, default_progress
from climp_bench.train.stopping import StopRequest

METRICS = "metrics.jsonl"
FREE_TO_CHANGE = frozenset({"log_every", "eval_every", "checkpoint_every", "workers"})
"""Fields that may differ when a run goes on: they do not change the weights."""


def train(
    config: TrainConfig,
    out_dir: Path,
    device: str = "auto",
    resume: bool = True,
    progress: Progress | None = None,
    pool_dir: Path | None = None,
) -> Path:
    """Train a model, or go on training it.

    A run that was stopped at any point goes on from its last checkpoint and ends with the same weights, bit
    for bit on a CPU with the same number of threads.

    Args:
        config: the run.
        out_dir: where its ``checkpoints``, ``metrics.jsonl`` and ``weights`` go.
        device: ``auto``, ``cpu`` or ``cuda``.
        resume: go on from the checkpoints in ``out_dir``; if False they are deleted.
        progress: what to report to; by default a bar on a terminal, else lines on stderr.
        pool_dir: folder of the pool of scenes, which runs can share; ``pool`` in ``out_dir`` by default.

    Returns:
        The folder of the weights, as ``models.store.open_folder`` reads it.

    Raises:
        TrainingError: the checkpoints are of another configuration or damaged; the loss is not finite; there
            is no space. ``TrainingStopped`` if SIGINT or SIGTERM asked for it.
        BackendError: the device is not there.
        UsageError: there is no such model.
    """
    spec = find(config.family, config.scale)
    device = pick_device(device)
    progress = default_progress() if progress is None else progress
    pool_dir = out_dir / "pool" if pool_dir is None else pool_dir
    try:
        with StopRequest() as stop, torch.random.fork_rng(), float32_products("high"):
            torch.manual_seed(config.seed)
            run = Run(config, spec, out_dir, device)
            run.restore(resume)

            def report(what: str, done: int, total: int) -> None:
                progress.advance(what, done, total)
                stop.check(str(pool_dir))

            scenes, held_out = (
                load_scenes(spec, config, pool_dir, device, held_out=apart, report=report)
                for apart in (False, True)
            )
            run.go_on(scenes, held_out, progress, stop)
            return run.finish()
    finally:
        progress.close()


class Run:
    """A model in training and the files it keeps.

    Args:
        config: the run.
        spec: of the model.
        out_dir: where files go.
        device: ``cpu`` or ``cuda``.
    """

    def __init__(self, config: TrainConfig, spec: ModelSpec, out_dir: Path, device: str) -> None:
        self.config, self.spec, self.out_dir, self.device = config, spec, out_dir, device
        self.precision = pick_precision(config, device)
        self.model = build(spec, seed=config.seed).to(device).train()
        self.optimiser = make_optimiser(self.model, config, device)
        self.step = 0
        self.seconds = 0.0
        self.scores: dict[str, float] = {}  # of the last evaluation
        self.start: dict[str, str] = {}  # digests of the checkpoints that towers started from
        self._since = 0  # steps in the window
        self._window = torch.zeros(2, dtype=torch.float64, device=device)  # sums of loss and accuracy

    @property
    def _checkpoints(self) -> Path:
        return self.out_dir / "checkpoints"

    def restore(self, resume: bool) -> None:
        """Go on from the newest checkpoint if there is one and ``resume``, else start from nothing.

        Raises:
            TrainingError: the checkpoint is damaged, or of another configuration.
            WeightsError: a tower's first weights are damaged, or of another tower.
        """
        folder = checkpoint.latest(self._checkpoints) if resume else None
        if folder is None:
            checkpoint.discard(self._checkpoints)
            self._start_towers()
        else:
            state, tensors = checkpoint.load(folder, self.model, self.optimiser)
            self._check_config(state["config"], folder)
            self.step, self.seconds, self._since = state["step"], state["seconds"], state["since"]
            self.scores, self.start = state["scores"], state["start"]
            self._window = tensors["window"].to(self.device)
        metrics = self.out_dir / METRICS
        kept = metrics.read_text().splitlines(keepends=True) if self.step and metrics.is_file() else []
        whole = [line for line in kept if line.endswith("\n")]  # a kill can cut the last one
        lines = [line for line in whole if json.loads(line)["step"] <= self.step]
        write_text(metrics, "".join(lines), TrainingError)

    def _start_towers(self) -> None:
        """Take over the pretrained towers that the configuration names."""
        paths = {"image": self.config.init_image, "text": self.config.init_text}
        named = {tower: Path(path).expanduser() for tower, path in paths.items() if path}
        self.start = initialise(self.model, self.spec, **named)

    def go_on(self, scenes: Scenes, held_out: Scenes, progress: Progress, stop: StopRequest) -> None:
        """Take the steps that are left.

        Raises:
            TrainingError: the loss is not finite, or a checkpoint cannot be written.
            TrainingStopped: ``stop`` is pending; a checkpoint was written.
        """
        config, batches = self.config, Batches(scenes, self.config, self.spec)
        begun_at, window_at = time.perf_counter(), time.perf_counter()
        begun, seconds_before = self.step, self.seconds
        while self.step < config.steps:
            self.take_step(batches.batch(self.step))
            last = self.step == config.steps
            self.seconds = seconds_before + time.perf_counter() - begun_at
            status = None
            if last or self.step % config.log_every == 0:
                now = time.perf_counter()
                pace = (now - begun_at) / (self.step - begun)
                status = self._log(now - window_at, pace)
                window_at = now
            progress.advance(f"training {self.spec.name}", self.step, config.steps, status)
            if last or self.step % config.eval_every == 0:
                progress.note(self._evaluate(held_out))
            if last or stop.pending or self.step % config.checkpoint_every == 0:
                self._save()
            if not last:
                stop.check(f"{self.spec.name} after {self.step} of {config.steps} steps")

    def take_step(self, batch: Batch) -> None:
        """One optimiser step; nothing waits for the device."""
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.step, self.config)
        with self._autocast():
            image_BP, text_BP, scale = self.model(
                batch.images, batch.ids_BL, batch.lengths_B, **batch.image_kwargs
            )
        loss, accuracy = contrastive_loss(image_BP, text_BP, scale)
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip)
        self.optimiser.step()
        self.model.clamp_logit_scale_()
        self._window += torch.stack([loss.detach(), accuracy])
        self.step += 1
        self._since += 1

    def finish(self) -> Path:
        """Write the weights and their card; the folder they are in."""
        return export(
            self.model, self.spec, self.config, self.out_dir, device=self.device, precision=self.precision,
            seconds=self.seconds, scores=self.scores, start=self.start,
        )  # fmt: skip

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.precision == "bf16")

    def _evaluate(self, held_out: Scenes) -> str:
        """Measure and record retrieval on the held-out scenes; a line that says how it went."""
        self._check_finite()
        with self._autocast():
            self.scores = held_out_recall(self.model, held_out)
        self._record({"step": self.step, "held_out": self.scores})
        listed = ", ".join(f"{name} {value:.1%}" for name, value in self.scores.items())
        return f"{self.spec.name} after {self.step:,} steps: {listed}"

    def _log(self, seconds: float, seconds_per_step: float) -> Status:
        """Read the window, record it and start a new one."""
        loss, accuracy = self._means()
        status = Status(
            loss=loss,
            accuracy=accuracy,
            images_per_s=self._since * self.config.batch_size / seconds,
            seconds_left=(self.config.steps - self.step) * seconds_per_step,
        )
        self._record({
            "step": self.step, "loss": loss, "accuracy": accuracy,
            "lr": learning_rate(self.step - 1, self.config),
            "scale": float(self.model.logit_scale.detach().exp()), "images_per_s": status.images_per_s,
            "seconds": self.seconds,
        })  # fmt: skip
        self._window.zero_()
        self._since = 0
        return status

    def _means(self) -> tuple[float, float]:
        """Loss and accuracy of the window. Raises ``TrainingError`` if the loss is not finite."""
        loss, accuracy = (self._window / max(self._since, 1)).tolist()
        if not math.isfinite(loss):
            raise self._diverged(f"the loss became {loss} within the last {self._since} steps")
        return loss, accuracy

    def _check_finite(self) -> None:
        """Raises ``TrainingError`` if a loss of the window or a weight is NaN or infinite."""
        self._means()
        if not torch.stack([weight.isfinite().all() for weight in self.model.parameters()]).all():
            raise self._diverged("a weight became NaN or infinite")

    def _diverged(self, what: str) -> TrainingError:
        kept = checkpoint.latest(self._checkpoints)
        return TrainingError(
            what,
            where=f"{self.spec.name} at step {self.step}",
            remedy="Train again with a lower learning rate or in fp32."
            + (f" The checkpoint before is kept: {kept}." if kept else ""),
        )

    def _save(self) -> None:
        """Write a checkpoint, but never one that cannot be gone on from."""
        self._check_finite()
        checkpoint.save(
            self._checkpoints, self.step, self.model, self.optimiser,
            state={
                "seconds": self.seconds, "since": self._since, "scores": self.scores,
                "start": self.start, "config": asdict(self.config),
            },
            tensors={"window": self._window},
        )  # fmt: skip

    def _record(self, line: dict[str, Any]) -> None:
        with (self.out_dir / METRICS).open("a") as handle:
            handle.write(json.dumps(line, allow_nan=False) + "\n")

    def _check_config(self, stored: dict[str, Any], folder: Path) -> None:
        mine = json.loads(json.dumps(asdict(self.config)))
        differing = [
            f"{field.name} {stored.get(field.name)!r}, not {mine[field.name]!r}"
            for field in fields(self.config)
            if field.name not in FREE_TO_CHANGE and stored.get(field.name) != mine[field.name]
        ]
        if differing:
            raise TrainingError(
                f"the checkpoint was made with {'; '.join(differing)}", where=str(folder),
                remedy="Go on with its settings, choose another folder, or start afresh.",
            )  # fmt: skip


def pick_precision(config: TrainConfig, device: str) -> str:
    """``fp32`` or ``bf16``: as the configuration says, ``auto`` being bf16 on a GPU that has it."""
    if config.precision != "auto":
        return config.precision
    return "bf16" if device != "cpu" and torch.cuda.is_bf16_supported() else "fp32"
