"""Training beside OpenCLIP's trainer: the same model, the same shards, equal settings; equal losses first.

``python -m tests.scale.training_throughput --model rope-vit@base [--batch 2048 --micro 256] [--device cuda]``

Both sides read JPEG files of 256 pixels and captions of about 20 words from local webdataset shards, crop
them at random, and contrast ``--batch`` pairs on one device, ``--micro`` of which have activations at a time:
ours by ``compute.micro_batch``, OpenCLIP's by ``--accum-freq``. Both run AdamW and clip gradients, under
bfloat16 autocast on a GPU. Theirs is ``open_clip_train.train.train_one_epoch`` with its own loader, loss and
schedule. Left out on both sides: the first steps (``--warm``), evaluation, checkpoints. ``--alone`` leaves
theirs out.
"""

from __future__ import annotations

import argparse
import io
import logging
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip_train import data as their_data
from open_clip_train import train as their_train
from open_clip_train.scheduler import cosine_lr
from PIL import Image
from torch import Tensor, nn
from webdataset.tariterators import tar_file_expander

from climp_bench.models import tokenizer
from climp_bench.models.catalogue import build, find
from climp_bench.models.counting import count_image, count_text
from climp_bench.models.dual_encoder import DualEncoder
from climp_bench.models.spec import ModelSpec
from climp_bench.models.tokenizer import PAD_ID, Tokenizer
from climp_bench.train import recipe as recipes
from climp_bench.train.engine import Session
from climp_bench.train.global_loss import global_loss
from climp_bench.train.progress import Quiet
from climp_bench.train.starting import open_feed
from climp_bench.train.stopping import StopRequest
from climp_bench.train.world import World
from tests.conftest import write_tar

SHARDS, DISTINCT, PIXELS, HELD_OUT = 16, 64, 256, 2
PAPER_PAIRS = 10 * 12_423_374
"""Ten epochs of CC12M, as its authors count it (Changpinyo et al. 2021)."""
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12}
"""Dense bfloat16 products a second, by the vendor's data sheets."""
WORDS = (
    "a",
    "red",
    "small",
    "large",
    "bird",
    "dog",
    "street",
    "near",
    "under",
    "with",
    "and",
    "on",
    "the",
    "tree",
)
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Pace:
    """Images a second (median step), seconds of each step, peak memory of the device in bytes.

    ``waited`` is the share of the time that steps waited for data, where that is known.
    """

    rate: float
    steps: list[float]
    peak: int
    waited: float | None = None


def write_shards(folder: Path, pairs: int) -> list[str]:
    """Pairs in ``SHARDS`` tars; pictures repeat after ``DISTINCT``, captions do not. Returns the captions."""
    random = np.random.default_rng(0)
    pictures, captions = [], []
    for _ in range(DISTINCT):
        small = random.integers(0, 256, (16, 16, 3), np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(small).resize((PIXELS, PIXELS), Image.Resampling.BICUBIC).save(buffer, "JPEG")
        pictures.append(buffer.getvalue())
    each = -(-pairs // SHARDS)
    for shard in range(SHARDS):
        members = []
        for k in range(shard * each, (shard + 1) * each):
            captions.append(" ".join(random.choice(WORDS, random.integers(15, 26))))
            members += [(f"{k:07}.jpg", pictures[k % DISTINCT]), (f"{k:07}.txt", captions[-1].encode())]
        write_tar(folder / f"{shard:02}.tar", members)
    return captions


class Theirs(nn.Module):
    """A model of ours as OpenCLIP's trainer calls one."""

    def __init__(self, model: DualEncoder) -> None:
        super().__init__()
        self.model, self.logit_scale = model, model.logit_scale

    def forward(self, images: Tensor, texts: Tensor) -> dict[str, Tensor]:
        """Features of both sides and the scale."""
        lengths = (texts != PAD_ID).sum(1)
        return {
            "image_features": self.model.encode_image(images),
            "text_features": self.model.encode_text(texts, lengths),
            "logit_scale": self.logit_scale.exp(),
        }


def check_equal(model: DualEncoder, spec: ModelSpec, words: Tokenizer, device: str) -> float:
    """Largest relative difference of loss and its gradients by features and scale, both sides in float32.

    Features are the model's own, made once: stochastic depth makes them others each time.
    """
    images = torch.randn(8, 3, *spec.preprocess.size, device=device)
    ids, lengths = (t.to(device) for t in words.pad(words.encode([f"{w} bird" for w in WORDS[:8]])))
    with torch.no_grad():
        features = model.encode_image(images), model.encode_text(ids, lengths), model.logit_scale.exp()
    found = []
    for ours in (True, False):
        image, text, scale = leaves = [part.clone().requires_grad_() for part in features]
        if ours:
            loss = global_loss("infonce", image, text, scale)[0]
        else:
            loss = open_clip.ClipLoss()(image, text, scale)
        loss.backward()
        found.append([loss.detach(), *(leaf.grad for leaf in leaves)])
    return max(float((one - other).norm() / other.norm()) for one, other in zip(*found, strict=True))


class Timed(Session):
    """A session that notes when steps end, and keeps nothing."""

    ends: list[float]
    waits: list[float]

    def _take(self, *arguments: Any) -> None:
        super()._take(*arguments)
        _wait(self.world.device)
        self.ends = [*getattr(self, "ends", []), time.perf_counter()]
        self.waits = [*getattr(self, "waits", []), self._waited]

    def _save(self) -> None:
        pass

    def _evaluate(self, feed: Any) -> None:
        pass


def our_pace(asked: argparse.Namespace, spec: ModelSpec, device: str, folder: Path) -> Pace:
    """The recipe engine's."""
    samples = asked.batch * (asked.warm + asked.steps)
    changes = [
        f"model.name={asked.model}", 'model.init_image=""', 'model.init_text=""', f"data.path={folder}",
        f"data.held_out={HELD_OUT}", f"budget.batch_size={asked.batch}", f"budget.samples={samples}",
        f"compute.micro_batch={asked.micro}", f"run.workers={asked.workers}", "run.max_rise=0",
        f"run.log_every={asked.warm + asked.steps}",
        f"model.tokenizer={folder / 'tokenizer.json'}", f"compute.compile={str(asked.compile).lower()}",
    ]  # fmt: skip
    recipe = recipes.load("climp-cc12m", changes)
    world = World(device=device)
    _reset(device)
    with StopRequest() as stop:
        session = Timed(recipe, spec, folder / "run", world, Quiet())
        session.restore()
        feed = open_feed(recipe, spec, world, session.words, folder / "pool", lambda *told: None)
        session.go_on(feed, stop)
    pace = _pace(session.ends, asked, device)
    waited = session.waits[-1] - session.waits[-asked.steps - 1]
    return replace(pace, waited=waited / sum(pace.steps))


def their_pace(
    asked: argparse.Namespace, spec: ModelSpec, words: Tokenizer, longest: int, device: str, folder: Path
) -> Pace:
    """OpenCLIP's; captions are padded to ``longest`` tokens."""
    _reset(device)
    steps, size = asked.warm + asked.steps, spec.preprocess.size[0]
    model = Theirs(build(spec).to(device))
    if asked.compile:
        model.model.vision_encoder.compile()
        model.model.text_encoder.compile()
    args = SimpleNamespace(
        device=device, precision="amp_bf16" if device == "cuda" else "fp32", distill=False,
        skip_scheduler=False, accum_freq=asked.batch // asked.micro, batch_size=asked.micro, world_size=1,
        rank=0, local_rank=0, grad_clip_norm=1.0, log_every_n_steps=1, horovod=False, wandb=False,
        seed=0, workers=asked.workers,
        train_data=str(folder / f"{{00..{SHARDS - 1}}}.tar"), train_num_samples=steps * asked.batch,
        train_data_upsampling_factors=None, dataset_resampled=True, epochs=1,
    )  # fmt: skip
    config = open_clip.AugmentationCfg(scale=(0.9, 1.0))
    mean, std = spec.preprocess.mean, spec.preprocess.std
    prepare = open_clip.image_transform(size, is_train=True, mean=mean, std=std, aug_cfg=config)

    def tokenize(text: str) -> Tensor:
        ids = words.encode([text])[0]
        return nn.functional.pad(torch.tensor([ids]), (0, longest - len(ids)), value=PAD_ID)

    # webdataset 1.0 marks where a shard ends, which the loader of OpenCLIP 3.3 stumbles over
    their_data.tar_file_expander = partial(tar_file_expander, eof_value=None)
    data = {"train": their_data.get_wds_dataset(args, prepare, True, 0, tokenizer=tokenize)}
    bare = [p for name, p in model.named_parameters() if p.ndim < 2]
    rest = [p for name, p in model.named_parameters() if p.ndim >= 2]
    groups = [{"params": bare, "weight_decay": 0.0}, {"params": rest, "weight_decay": 0.2}]
    optimiser = torch.optim.AdamW(groups, lr=5e-5, betas=(0.9, 0.98), eps=1e-6)
    schedule, ends = cosine_lr(optimiser, 5e-5, 2000, steps), []
    kept = optimiser.step

    def step(*arguments: Any, **more: Any) -> Any:
        result = kept(*arguments, **more)
        _wait(device)
        ends.append(time.perf_counter())
        return result

    optimiser.step = step  # type: ignore[method-assign]
    loss = open_clip.ClipLoss()
    their_train.train_one_epoch(model, data, loss, 0, optimiser, None, schedule, None, args)
    return _pace(ends, asked, device)


def _pace(ends: list[float], asked: argparse.Namespace, device: str) -> Pace:
    steps = [float(s) for s in np.diff(ends[-asked.steps - 1 :])]
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else 0
    return Pace(asked.batch / median(steps), steps, peak)


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _reset(device: str) -> None:
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def said(who: str, pace: Pace, flops: float, device: str) -> Iterator[str]:
    """A line of figures; absolute ones from a GPU only."""
    spread = (max(pace.steps) - min(pace.steps)) / median(pace.steps)
    if pace.waited is not None:
        yield f"{who}: waits for data {100 * pace.waited:.1f}% of the time"
    if device != "cuda":
        yield f"{who}: spread of steps {100 * spread:.0f}%"
        return
    name = torch.cuda.get_device_name()
    peak = next((value for key, value in PEAK_FLOPS.items() if key in name), None)
    used = f", {100 * flops * pace.rate / peak:.1f}% of the peak (MFU)" if peak else ""
    yield (
        f"{who}: {pace.rate:,.0f} images/s{used}, peak {pace.peak / 2**30:.1f} GiB, spread of steps "
        f"{100 * spread:.0f}%; ten epochs of CC12M: {PAPER_PAIRS / pace.rate / 3600:,.0f} GPU hours"
    )


def main() -> None:
    """Check, then time, then print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="rope-vit@base")
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--micro", type=int, default=256)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--warm", type=int, default=2)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--alone", action="store_true")
    asked = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    spec, words = find(asked.model), tokenizer.load("scenes-bpe")
    device = asked.device
    model = build(spec).to(device).train()
    far = check_equal(model, spec, words, device)
    print(f"{asked.model}: loss and gradients differ by {far:.1e} of their norm")
    if not far < TOLERANCE:
        raise SystemExit("the two sides do not compute the same")
    del model
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "tokenizer.json").write_text(words.to_json())
        lengths = [len(ids) for ids in words.encode(write_shards(place, asked.batch * 2 + HELD_OUT))]
        mean = sum(lengths) // len(lengths)
        flops = 3 * (count_image(spec.image, spec.preprocess.size).flops + count_text(spec.text, mean).flops)
        ours = our_pace(asked, spec, device, place)
        print(*said("climp-bench", ours, flops, device), sep="\n", flush=True)
        if not asked.alone:
            theirs = their_pace(asked, spec, words, max(lengths), device, place)
            print(*said("OpenCLIP", theirs, flops, device), sep="\n")
            print(f"ours over theirs: {ours.rate / theirs.rate:.2f}")


if __name__ == "__main__":
    with suppress(BrokenPipeError):
        main()
