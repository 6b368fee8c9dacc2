"""Inductive bias (CLIMP, table 14 and figure 6): how a scan and attention learn images, and the same images
with their patches in one fixed other order, which leaves all information but no neighbourhood.

Two towers of three blocks, a linear classifier on each. Runs of one seed share the order of samples over
towers, and the first weights too over both orders of patches.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from climp_bench.errors import TrainingError
from climp_bench.files import write_text
from climp_bench.models.adapters import pick_device
from climp_bench.models.catalogue import build_tower, count_parameters
from climp_bench.models.configs import FlexiVitConfig
from climp_bench.models.vmamba import VMambaConfig
from climp_bench.ranks import exchange, place, take_gpu
from climp_bench.train.bias_data import SIDE, Thumbnails
from climp_bench.train.optim import adamw, cosine
from climp_bench.train.sharing import settled

PATCH = 4
PERMUTATION_SEED = 0
WARMUP = 0.1
Order = Literal["natural", "permuted"]
Job = tuple[str, Order, int]
ORDERS: tuple[Order, ...] = ("natural", "permuted")
_ONE_THREAD = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")
TOWERS: dict[str, Any] = {
    "VMamba": VMambaConfig(dims=(96,), depths=(3,), ssm_ratio=1.0),
    "ViT": FlexiVitConfig(embed_dim=96, depth=3, num_heads=3, patch_size=PATCH, img_size=SIDE),
}
"""0.35M parameters each with ten classes (the paper: 0.33M and 0.35M); both see 8 x 8 patches."""


@dataclass(frozen=True)
class BiasConfig:
    """How every run is made. The paper states towers and data; the rest is ours.

    Attributes:
        epochs: passes over the training images.
        batch_size, lr, weight_decay: AdamW under a warm-up over a tenth of the steps, then a cosine.
    """

    epochs: int
    batch_size: int = 32
    lr: float = 2e-3
    weight_decay: float = 0.05


@dataclass(frozen=True)
class BiasRun:
    """One run.

    Attributes:
        tower, order, seed: which.
        parameters: of tower and classifier.
        losses: mean training loss of each epoch, in nats.
        correct, n: test images that were classified right, of how many.
        seconds: of training.
    """

    tower: str
    order: Order
    seed: int
    parameters: int
    losses: tuple[float, ...]
    correct: int
    n: int
    seconds: float

    @property
    def accuracy(self) -> float:
        """Share of test images that are right."""
        return self.correct / self.n

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.tower}, {self.order}, seed {self.seed}: {self.accuracy:.1%}"


def permute_patches(
    pixels_NHWC: npt.NDArray[np.uint8], seed: int = PERMUTATION_SEED
) -> npt.NDArray[np.uint8]:
    """The same images with their patches of ``PATCH`` pixels in another order, one for all images."""
    n, height, width, channels = pixels_NHWC.shape
    rows, cols = height // PATCH, width // PATCH
    cells = pixels_NHWC.reshape(n, rows, PATCH, cols, PATCH, channels).transpose(0, 1, 3, 2, 4, 5)
    order = np.random.default_rng(seed).permutation(rows * cols)
    shuffled = cells.reshape(n, rows * cols, PATCH, PATCH, channels)[:, order]
    laid = shuffled.reshape(n, rows, cols, PATCH, PATCH, channels).transpose(0, 1, 3, 2, 4, 5)
    return np.ascontiguousarray(laid.reshape(pixels_NHWC.shape))


def run_bias(
    data: Thumbnails, config: BiasConfig, seeds: int, out: Path, device: str = "auto",
    report: Callable[[BiasRun], None] = lambda run: None, fresh: bool = False,
) -> list[BiasRun]:  # fmt: skip
    """Every tower on both orders with every seed. What ``out`` has already is not run again.

    The processes that torchrun started share the runs out; the first one then returns all, the others none.

    Args:
        data: images and labels.
        config: of every run.
        seeds: how many, from 0.
        out: where ``runs-{digest}/{tower}-{order}-{seed}.json`` go; the digest is of data, towers and config.
        device: ``auto``, ``cpu`` or ``cuda``.
        report: told of each run that is trained now.
        fresh: run everything again.

    Raises:
        TrainingError: a loss is not finite, or a file cannot be written.
        BackendError: the device is not there.
        RankError: a run of another process failed.
    """
    device, here = pick_device(device), place()
    take_gpu(device)
    towers = {name: [type(tower).__name__, asdict(tower)] for name, tower in TOWERS.items()}
    described = json.dumps([data.fingerprint, asdict(config), towers, PATCH, PERMUTATION_SEED])
    folder = out / f"runs-{hashlib.sha256(described.encode()).hexdigest()[:12]}"
    jobs: list[Job] = [(t, order, seed) for seed in range(seeds) for t in TOWERS for order in ORDERS]
    paths = {job: folder / f"{job[0]}-{job[1]}-{job[2]}.json" for job in jobs}
    todo = exchange([job for job in jobs if fresh or not paths[job].is_file()])[0]
    own = todo[here.rank :: here.size]
    with settled():
        for run in _trained(data, config, own, device):
            path = paths[run.tower, run.order, run.seed]
            write_text(path, json.dumps(asdict(run)) + "\n", TrainingError)
            report(run)
    if here.rank > 0:
        return []
    runs = {job: _read(path) for job, path in paths.items()}
    for job in set(todo) - set(own):
        report(runs[job])
    return list(runs.values())


def _trained(data: Thumbnails, config: BiasConfig, jobs: list[Job], device: str) -> Iterator[BiasRun]:
    """Each run as it is done. On a CPU one a core: towers are too small to be shared by cores."""
    cores = (os.cpu_count() or 1) // place().local_size
    workers = min(len(jobs), cores) if device == "cpu" else 1
    if workers < 2:
        yield from (train_one(data, config, *job, device) for job in jobs)
        return
    before = {name: os.environ.get(name) for name in _ONE_THREAD}
    os.environ.update(dict.fromkeys(_ONE_THREAD, "1"))
    try:
        with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
            for done in as_completed([pool.submit(train_one, data, config, *job, device) for job in jobs]):
                yield done.result()
    except BrokenProcessPool as fault:
        remedy = "Is there memory enough? Run the same command again: it goes on."
        raise TrainingError("a process that trained was killed", remedy=remedy) from fault
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _read(path: Path) -> BiasRun:
    try:
        raw = json.loads(path.read_text())
        return BiasRun(**{**raw, "losses": tuple(raw["losses"])})
    except (OSError, ValueError, TypeError, KeyError) as fault:
        remedy = "Delete it, and it is run again."
        raise TrainingError(f"not a run that was kept ({fault})", where=str(path), remedy=remedy) from fault


def train_one(
    data: Thumbnails, config: BiasConfig, tower: str, order: Order, seed: int, device: str
) -> BiasRun:
    """Train one tower with its classifier, and test it.

    Raises:
        TrainingError: the loss is not finite.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        body = build_tower(TOWERS[tower])
        head = nn.Linear(int(body.out_dim), len(data.classes))  # type: ignore[arg-type]
        model = nn.Sequential(body, head).to(device).train()
    images, tests = (
        _normalised(permute_patches(pixels) if order == "permuted" else pixels, device)
        for pixels in (data.train_NHWC, data.test_NHWC)
    )
    labels = torch.from_numpy(data.train_labels_N).to(device)
    optimiser = adamw(dict(model.named_parameters()), device, lr=config.lr, weight_decay=config.weight_decay)
    per_epoch = len(images) // config.batch_size
    steps, losses, begun = config.epochs * per_epoch, [], time.perf_counter()
    for epoch in range(config.epochs):
        rows_N = torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(len(images))).to(device)
        total = torch.zeros((), device=device)
        for k in range(per_epoch):
            for group in optimiser.param_groups:
                group["lr"] = cosine(epoch * per_epoch + k, config.lr, round(WARMUP * steps), steps)
            rows = rows_N[k * config.batch_size : (k + 1) * config.batch_size]
            loss = F.cross_entropy(model(images[rows]), labels[rows])
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            total += loss.detach()
        losses.append(float(total) / per_epoch)
        if not np.isfinite(losses[-1]):
            where = f"{tower}, {order}, seed {seed}, epoch {epoch}"
            raise TrainingError(f"the loss became {losses[-1]}", where=where, remedy="Lower --lr.")
    seconds = time.perf_counter() - begun
    right = _correct(model.eval(), tests, torch.from_numpy(data.test_labels_N).to(device))
    return BiasRun(
        tower, order, seed, count_parameters(model), tuple(losses), right, len(tests), round(seconds, 1)
    )


@torch.no_grad()
def _correct(model: nn.Module, images_NCHW: Tensor, labels_N: Tensor) -> int:
    answers = [model(part).argmax(1) for part in images_NCHW.split(256)]
    return int((torch.cat(answers) == labels_N).sum())


def _normalised(pixels_NHWC: npt.NDArray[np.uint8], device: str) -> Tensor:
    """float32 (N, 3, H, W), from -1 to 1."""
    return torch.from_numpy(pixels_NHWC).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
