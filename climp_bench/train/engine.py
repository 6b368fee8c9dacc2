"""Training by recipe, on one process or on many that ``torchrun`` starts: ``train_recipe``.

A run that was stopped at any point, even killed, goes on from its last checkpoint, on any number of
processes, with the same samples. Sums over processes have an order of their own, so losses then agree within
rounding.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from climp_bench.errors import TrainingError
from climp_bench.models.adapters import pick_device
from climp_bench.models.catalogue import build, find, operator
from climp_bench.models.spec import ModelSpec
from climp_bench.ops.dispatch import resolve
from climp_bench.ranks import place
from climp_bench.train import spread_checkpoint as checkpoint
from climp_bench.train.data import Batch
from climp_bench.train.export_recipe import Outcome, export_recipe
from climp_bench.train.feed import Feed
from climp_bench.train.learner import Learner
from climp_bench.train.optim import adamw, cosine
from climp_bench.train.progress import Progress, Quiet, Status, default_progress
from climp_bench.train.recipe import Recipe
from climp_bench.train.spreading import checkpoint_activations
from climp_bench.train.starting import check_data, open_feed, open_tokenizer, start_towers, workers_of
from climp_bench.train.stopping import StopRequest
from climp_bench.train.watching import JsonLines, Watcher, open_watchers
from climp_bench.train.world import World, open_world
from climp_bench.train.zeroshot import Zeroshot

LEAST_SCALE = 1.0
"""With a factor on the cosines below this, the loss has given up on the embeddings."""


def train_recipe(
    recipe: Recipe,
    out_dir: Path,
    device: str = "auto",
    resume: bool = True,
    progress: Progress | None = None,
    pool_dir: Path | None = None,
    spec: ModelSpec | None = None,
    alone: bool = False,
    offline: bool = False,
) -> Path:
    """Train a model as a recipe says, or go on training it. To be called in every process of the run.

    Args:
        recipe: the run.
        out_dir: where its ``checkpoints``, ``metrics.jsonl`` and ``weights`` go; one for all processes.
        device: ``auto``, ``cpu`` or ``cuda``.
        resume: go on from the checkpoints in ``out_dir``; if False they are deleted.
        progress: what the first process reports to; by default a bar on a terminal, else lines.
        pool_dir: where scenes are drawn to and shards indexed, which runs can share; by default ``pool`` in
            ``out_dir``.
        spec: trained in place of the catalogue's model of the recipe's name.
        alone: this process trains without the others that torchrun started.
        offline: fetch nothing that the recipe names.

    Returns:
        The folder of the weights, as ``models.store.open_folder`` reads it.

    Raises:
        TrainingError: the checkpoints are of another recipe or damaged; the loss is not finite or rises; the
            logit scale is dead; too many samples are bad; there is no space. ``TrainingStopped``,
            after a checkpoint, if SIGINT or SIGTERM asked for it (exit code 130).
        RankError: another process is lost.
        BackendError, DataError, UsageError, WeightsError: what the recipe names is not there.
    """
    spec, device = spec or find(recipe.model.name), pick_device(device)
    pool_dir = out_dir / "pool" if pool_dir is None else pool_dir
    shown = (progress or default_progress()) if alone or place().rank == 0 else Quiet()
    check_data(recipe, spec, shown.note, offline=offline)
    with StopRequest() as stop, open_world(device, recipe.run.timeout_s, alone) as world:
        session = Session(recipe, spec, out_dir, world, shown, resume, offline)
        try:
            session.restore()

            def report(what: str, done: int, total: int) -> None:
                shown.advance(what, done, total)
                stop.check(str(pool_dir))

            feed = open_feed(recipe, spec, world, session.words, pool_dir, report)
            session.go_on(feed, stop)
            return session.finish(feed)
        finally:
            session.close()


class Session:
    """A model in training and the files it keeps.

    Args:
        recipe, spec, out_dir: the run.
        world: its processes.
        progress: what to report to.
        resume: go on from the newest checkpoint, if there is one.
        offline: fetch nothing.
    """

    def __init__(
        self,
        recipe: Recipe,
        spec: ModelSpec,
        out_dir: Path,
        world: World,
        progress: Progress,
        resume: bool = True,
        offline: bool = False,
    ) -> None:
        self.recipe, self.spec, self.out_dir = recipe, spec, out_dir
        self.world, self.progress = world, progress
        self.words = open_tokenizer(recipe, spec, progress.note, offline)
        self.zeroshot = Zeroshot(recipe.run, spec, self.words, world, workers_of(recipe))
        bf16 = recipe.compute.precision == "bf16" or (
            recipe.compute.precision == "auto" and world.device != "cpu" and torch.cuda.is_bf16_supported()
        )
        self._checkpoints = out_dir / "checkpoints"
        model = build(spec, seed=recipe.run.seed)
        self._found = checkpoint.complete(self._checkpoints) if resume else []
        self.start = {} if self._found else start_towers(model, spec, recipe, progress.note, offline)
        model = model.to(world.device).train()
        if recipe.compute.checkpoint_activations:
            checkpoint_activations(model)
        if recipe.compute.compile:
            for name in filter(None, (operator(spec.image), operator(spec.text))):
                resolve(name, world.device)  # the compiler cannot trace the import of a backend
            model.vision_encoder.compile()
            model.text_encoder.compile()
        self.learner = Learner(
            model, world, kind=recipe.loss.kind, chunk=recipe.loss.chunk, strategy=recipe.compute.strategy,
            bf16=bf16, seed=recipe.run.seed,
        )  # fmt: skip
        values = recipe.optimiser
        self.optimiser = adamw(
            self.learner.parameters(), world.device, lr=values.lr, weight_decay=values.weight_decay,
            betas=values.betas, eps=values.eps,
        )  # fmt: skip
        self.step, self.seconds, self.scores, self.seen = 0, 0.0, dict[str, float](), ""
        self.lowest, self._since, self._bad = math.inf, 0, 0
        self._window = torch.zeros(3, dtype=torch.float64, device=world.device)  # loss, accuracy, norm
        self._padding = torch.zeros(2, dtype=torch.int64, device=world.device)  # padded places, all places
        self._waited = 0.0
        self._metrics: JsonLines | None = None
        self._watchers: list[Watcher] = []

    def restore(self) -> None:
        """Go on from the newest checkpoint that was found, else start from nothing.

        Raises:
            TrainingError: the checkpoint is damaged, of another recipe, or not the same for every process.
        """
        found = self._found
        step = int(found[-1].name.removeprefix("step-")) if found else 0
        steps = self.world.gather(torch.tensor([step]), self.world.size)
        if (steps != step).any():
            raise TrainingError(
                f"processes see different checkpoints (of steps {', '.join(map(str, steps.tolist()))})",
                where=str(self._checkpoints), remedy="Give --out a folder that all machines share.",
            )  # fmt: skip
        if found:
            state = checkpoint.load(found[-1], self.learner, self.optimiser)
            self._check_recipe(state["recipe"], found[-1])
            self.step, self.seconds, self.scores = state["step"], state["seconds"], state["scores"]
            self.seen, self.start, self._since = state["seen"], state["start"], state["since"]
            self.lowest = math.inf if state["lowest"] is None else state["lowest"]
            self._bad = state["bad"] if self.world.rank == 0 else 0
            if self.world.rank == 0:
                self._padding.copy_(torch.tensor(state.get("padding", [0, 0])))
            self._window.copy_(torch.tensor(state["window"], dtype=torch.float64))
            self.progress.note(f"{self.spec.name} goes on after step {self.step:,}")
        elif self.world.rank == 0:
            checkpoint.discard(self._checkpoints)
        if self.world.rank == 0:
            self._metrics = JsonLines(self.out_dir, self.step)
            resolved = self.recipe.resolved()
            self._watchers = open_watchers(self.recipe.run.watch, self.out_dir, self.recipe.name, resolved)

    def go_on(self, feed: Feed, stop: StopRequest) -> None:
        """Take the steps that are left.

        Raises:
            TrainingError: see ``train_recipe``.
        """
        run, steps = self.recipe.run, self.recipe.budget.steps(feed.count)
        begun, before, clock = self.step, self.seconds, time.perf_counter()
        logged = clock
        bad_before = self._bad
        for parts in self._timed(feed.parts(self.step, steps)):
            self._take(parts, feed, steps)
            self._bad = bad_before + feed.bad
            last, now = self.step == steps, time.perf_counter()
            self.seconds = before + now - clock
            status = None
            if last or self.step % run.log_every == 0:
                status = self._log(now - logged, (now - clock) / (self.step - begun), steps)
                logged = now
            self.progress.advance(f"training {self.spec.name}", self.step, steps, status)
            if last or self.step % run.eval_every == 0:
                self._evaluate(feed)
            stopping = self.world.any(stop.pending)
            if last or stopping or self.step % run.checkpoint_every == 0:
                self._save()
            if stopping and not last:
                stop.pending = True
                stop.check(f"{self.spec.name} after {self.step} of {steps} steps")

    def finish(self, feed: Feed) -> Path:
        """Write the weights and their card; the folder they are in."""
        outcome = Outcome(
            steps=self.step, seconds=self.seconds, scores=self.scores, start=self.start, seen=self.seen,
            bad=self._total_bad(), data=feed.about, precision="bf16" if self.learner.bf16 else "fp32",
        )  # fmt: skip
        folder = export_recipe(self.learner, self.spec, self.recipe, self.words, self.out_dir, outcome)
        self.world.barrier()
        return folder

    def close(self) -> None:
        """Nothing more will be told."""
        for watcher in self._watchers:
            watcher.close()
        self.progress.close()

    def _timed(self, parts: Iterator[list[Batch]]) -> Iterator[list[Batch]]:
        """The same, noting how long each was waited for."""
        while True:
            begun = time.perf_counter()
            made = next(parts, None)
            self._waited += time.perf_counter() - begun
            if made is None:
                return
            yield made

    def _take(self, parts: list[Batch], feed: Feed, steps: int) -> None:
        values = self.recipe.optimiser
        for group in self.optimiser.param_groups:
            group["lr"] = cosine(self.step, values.lr, values.warmup_steps(steps), steps)
        size = self.recipe.budget.batch_size
        outcome = self.learner.step(parts, self.step, size, self.optimiser, values.grad_clip)
        self._window += torch.stack([outcome.loss, outcome.accuracy, outcome.norm])
        for part in parts:
            self._padding += part.padding
        self.seen = hashlib.sha256(self.seen.encode() + feed.rows(self.step).tobytes()).hexdigest()[:32]
        self.step += 1
        self._since += 1

    def _log(self, seconds: float, pace: float, steps: int) -> Status:
        """Read the window, record it, start a new one; stop a run that has gone wrong."""
        loss, accuracy, norm = self._means()
        scale = float(self.learner.model.logit_scale.detach().exp())
        values, size = self.recipe.optimiser, self.recipe.budget.batch_size
        status = Status(loss, accuracy, self._since * size / seconds, (steps - self.step) * pace)
        self._tell({
            "loss": loss, "accuracy": accuracy, "grad_norm": norm, "scale": scale,
            "lr": cosine(self.step - 1, values.lr, values.warmup_steps(steps), steps),
            "images_per_s": status.images_per_s, "wait_share": min(1.0, self._waited / seconds),
            "bad": self._total_bad(), "seconds": self.seconds, "seen": self.seen, **self._padding_share(),
        })  # fmt: skip
        self._refuse(loss, scale)
        self._window.zero_()
        self._padding.zero_()
        self._since, self._waited = 0, 0.0
        self.lowest = min(self.lowest, loss)
        return status

    def _refuse(self, loss: float, scale: float) -> None:
        rise, bad = self.recipe.run.max_rise, self._total_bad()
        if rise and loss > self.lowest + rise:
            raise self._failed(
                f"the loss rose to {loss:.3f}, from {self.lowest:.3f} at its lowest",
                "Lower optimiser.lr or lengthen the warm-up; run.max_rise sets what is too much.",
            )
        if not scale >= LEAST_SCALE:
            raise self._failed(
                f"the logit scale is dead: the factor on the cosines fell to {scale:.3g}",
                "Lower optimiser.lr; look whether captions belong to their images.",
            )
        if bad > self.recipe.data.max_bad * self.step * self.recipe.budget.batch_size:
            raise self._failed(
                f"{bad} samples could not be read, more than data.max_bad allows",
                "Fetch the data again, or raise data.max_bad.",
            )

    def _evaluate(self, feed: Feed) -> None:
        self._check_finite()
        with self.learner.autocast(), self.learner.spread.scans():
            self.scores = feed.scores(self.learner.model)
            zeroshot, counts = self.zeroshot.scores(self.learner.model)
        told = {"zeroshot": zeroshot, "zeroshot_n": counts} if zeroshot else {}
        self._tell({"held_out": self.scores, **told})
        listed = ", ".join(f"{name} {value:.1%}" for name, value in (self.scores | zeroshot).items())
        self.progress.note(f"{self.spec.name} after {self.step:,} steps: {listed}")

    def _tell(self, values: dict[str, Any]) -> None:
        if self._metrics is not None:
            self._metrics.write({"step": self.step, **values})
        numbers = {key: value for key, value in values.items() if isinstance(value, int | float)}
        for watcher in self._watchers:
            watcher.record(self.step, numbers | values.get("held_out", {}) | values.get("zeroshot", {}))

    def _means(self) -> tuple[float, float, float]:
        """Of the window. Raises ``TrainingError`` if the loss or a gradient is not finite."""
        loss, accuracy, norm = (self._window / max(self._since, 1)).tolist()
        if not math.isfinite(loss) or not math.isfinite(norm):
            what = f"the loss became {loss}" if not math.isfinite(loss) else f"a gradient became {norm}"
            raise self._failed(
                f"{what} within the last {self._since} steps",
                "Train again with a lower optimiser.lr, or compute.precision=fp32.",
            )
        return loss, accuracy, norm

    def _check_finite(self) -> None:
        self._means()
        local = [getattr(p, "_local_tensor", p).detach() for p in self.learner.parameters().values()]
        if self.world.any(not bool(torch.stack([weight.isfinite().all() for weight in local]).all())):
            raise self._failed("a weight became NaN or infinite", "Train again with a lower optimiser.lr.")

    def _total_bad(self) -> int:
        return int(self.world.sum_(torch.tensor(self._bad)).item())

    def _total_padding(self) -> list[int]:
        total: list[int] = self.world.sum_(self._padding.clone()).tolist()
        return total

    def _padding_share(self) -> dict[str, float]:
        """Of the places of packed images since the last line of the log."""
        padded, places = self._total_padding()
        return {"padding_share": padded / places} if places else {}

    def _failed(self, what: str, remedy: str) -> TrainingError:
        kept = checkpoint.complete(self._checkpoints)
        if kept:
            remedy += f" The checkpoint before is kept: {kept[-1]}."
        return TrainingError(what, where=f"{self.spec.name} at step {self.step}", remedy=remedy)

    def _save(self) -> None:
        """Write a checkpoint, but never one that cannot be gone on from."""
        self._check_finite()
        state = {
            "seconds": self.seconds, "since": self._since, "scores": self.scores, "start": self.start,
            "seen": self.seen, "lowest": self.lowest if math.isfinite(self.lowest) else None,
            "bad": self._total_bad(), "window": self._window.tolist(), "padding": self._total_padding(),
            "recipe": self.recipe.resolved(), "processes": self.world.size,
        }  # fmt: skip
        checkpoint.save(
            self._checkpoints, self.step, self.learner, self.optimiser, state, self.recipe.run.keep
        )

    def _check_recipe(self, stored: dict[str, Any], folder: Path) -> None:
        differing = self.recipe.differences(stored)
        if differing:
            raise TrainingError(
                f"the checkpoint was made with {'; '.join(differing)}", where=str(folder),
                remedy="Go on with its recipe, choose another folder, or start afresh.",
            )  # fmt: skip
