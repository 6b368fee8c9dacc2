"""Batches that are made where the model is: uint8 pixels and int16 tokens in, normalised tensors out.

Everything random about a batch is a function of (seed, step), so a run that goes on at a step sees what it
would have seen. What decides shapes is drawn on the host: making a batch never waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from climp_bench.errors import TrainingError
from climp_bench.models import tokenizer
from climp_bench.models.configs import FlexiVitConfig
from climp_bench.models.spec import ModelSpec
from climp_bench.specs import ImagePreprocess
from climp_bench.train.config import HELD_OUT_FIRST, TrainConfig
from climp_bench.train.pool import Arrays, CaptionPart, Part, PatchPart, PicturePart, native_sizes, open_part

Rows = npt.NDArray[np.int64]
Images = Tensor | Mapping[str, Tensor]
CaptionKind = Literal["short", "dense"]

LOWRES_SIDES = (8, 32)
"""Range of the shorter side, in pixels, that part of a batch is scaled down to."""
MAX_SHORT_TOKENS = 64
ORDER, CHOICES = 0, 1  # streams of random numbers


@dataclass(frozen=True)
class Batch:
    """One step's input: ``model(images, ids, lengths, **image_kwargs)``."""

    images: Images
    ids_BL: Tensor
    lengths_B: Tensor
    image_kwargs: dict[str, Any]


@dataclass(frozen=True)
class LowRes:
    """Scale the first ``count`` images down to ``side`` pixels (the shorter side) and back."""

    count: int
    side: int


class Pictures:
    """Pictures of one size.

    Args:
        pixels_NHWC: uint8, on the host or on the device.
        preprocess: mean and standard deviation.
        device: where batches go.
    """

    def __init__(self, pixels_NHWC: Tensor, preprocess: ImagePreprocess, device: str) -> None:
        self._pixels, self._device = pixels_NHWC, device
        self._mean, self._std = (
            torch.tensor(values, device=device).view(3, 1, 1) for values in (preprocess.mean, preprocess.std)
        )

    def take(self, rows: Rows, lowres: LowRes | None = None) -> Tensor:
        """Normalised float32 images (B, 3, H, W) of these rows."""
        pixels = self._pixels.index_select(0, _send(rows, str(self._pixels.device))).to(self._device)
        images = pixels.permute(0, 3, 1, 2).float()
        if lowres is not None and lowres.count:
            images[: lowres.count] = scale_down_and_up(images[: lowres.count], lowres.side)
        return (images / 255.0 - self._mean) / self._std


class Patches:
    """Pictures of several sizes as packed patches, see ``models.vit.pack_images``.

    Args:
        patches_NLD: uint8, on the host or on the device.
        part: how they were cut.
        first: index of the first scene, which decides each row's size.
        preprocess: mean and standard deviation.
        device: where batches go.
    """

    def __init__(
        self, patches_NLD: Tensor, part: PatchPart, first: int, preprocess: ImagePreprocess, device: str
    ) -> None:
        self._patches, self._part, self._first, self._device = patches_NLD, part, first, device
        self._mean, self._std = (
            torch.tensor(values * part.patch**2, device=device)
            for values in (preprocess.mean, preprocess.std)
        )
        self._coord_SL2 = torch.zeros(len(part.sizes), part.longest, 2, dtype=torch.int64)
        valid_SL = torch.zeros(len(part.sizes), part.longest, dtype=torch.bool)
        for i, (height, width) in enumerate(part.sizes):
            grid = torch.cartesian_prod(torch.arange(height // part.patch), torch.arange(width // part.patch))
            self._coord_SL2[i, : len(grid)] = grid
            valid_SL[i, : len(grid)] = True
        self._valid_SL = valid_SL.to(device)

    def take(self, rows: Rows, lowres: LowRes | None = None) -> dict[str, Tensor]:
        """A packed batch of these rows.

        ``patch_coord`` stays on the host: NaFlexViT reads grid sizes off it one by one.
        """
        kinds = (rows + self._first) % len(self._part.sizes)
        patches = self._patches.index_select(0, _send(rows, str(self._patches.device))).to(self._device)
        values = patches.float()
        if lowres is not None and lowres.count:
            self._blur(values, kinds[: lowres.count], lowres.side)
        valid_BL = self._valid_SL[_send(kinds, self._device)]
        normalised = (values / 255.0 - self._mean) / self._std * valid_BL[..., None]
        return {
            "patches": normalised,
            "patch_coord": self._coord_SL2[torch.from_numpy(kinds)],
            "patch_valid": valid_BL,
        }

    def _blur(self, values_BLD: Tensor, kinds: Rows, side: int) -> None:
        """Scale the pictures behind the first rows down and up, size by size, in place."""
        p = self._part.patch
        for kind in np.unique(kinds):
            height, width = self._part.sizes[kind]
            h, w = height // p, width // p
            rows = _send(np.flatnonzero(kinds == kind), self._device)
            cells = values_BLD[rows, : h * w].view(-1, h, w, p, p, 3)
            images = cells.permute(0, 5, 1, 3, 2, 4).reshape(-1, 3, height, width)
            cells = scale_down_and_up(images, side).view(-1, 3, h, p, w, p).permute(0, 2, 4, 3, 5, 1)
            values_BLD[rows, : h * w] = cells.reshape(-1, h * w, p * p * 3)


class Captions:
    """Token ids of every caption of every scene.

    Args:
        ids_NVL: int16, V variants a scene, padded on the right.
        lengths_NV: int16, on the host.
        device: where batches go.
    """

    def __init__(self, ids_NVL: Tensor, lengths_NV: npt.NDArray[np.int16], device: str) -> None:
        self.variants = ids_NVL.shape[1]
        self._ids = ids_NVL.flatten(0, 1)
        self._lengths = lengths_NV.reshape(-1).astype(np.int64)
        self._device = device

    def take(self, rows: Rows, variants: Rows) -> tuple[Tensor, Tensor]:
        """Ids (B, L) int64, as long as the longest of them, and lengths (B,) int64."""
        picked = rows * self.variants + variants
        lengths = self._lengths[picked]
        ids = self._ids.index_select(0, _send(picked, str(self._ids.device)))[:, : int(lengths.max())]
        return ids.to(self._device).long(), _send(lengths, self._device)


@dataclass(frozen=True)
class Scenes:
    """Scenes ready to be taken from: pictures (or patches) and both kinds of captions."""

    count: int
    images: Pictures | Patches
    captions: dict[CaptionKind, Captions]


class Batches:
    """The batches of a run, by step.

    Every epoch goes through the pool in an order of its own; scenes that do not fill a batch are left out.

    Args:
        scenes: the pool.
        config: of the run.
        spec: of the model.
    """

    def __init__(self, scenes: Scenes, config: TrainConfig, spec: ModelSpec) -> None:
        self._scenes, self._config = scenes, config
        self._patch_sizes = spec.image.patch_sizes if isinstance(spec.image, FlexiVitConfig) else ()
        self._epoch, self._order = -1, np.zeros(0, np.int64)

    def rows(self, step: int) -> Rows:
        """Which scenes are in the batch of ``step``."""
        config = self._config
        epoch, batch = divmod(step, self._scenes.count // config.batch_size)
        if epoch != self._epoch:
            order = np.random.default_rng([config.seed, ORDER, epoch]).permutation(self._scenes.count)
            self._epoch, self._order = epoch, order
        return self._order[batch * config.batch_size : (batch + 1) * config.batch_size]

    def batch(self, step: int, part: range | None = None) -> Batch:
        """The batch of ``step``, counted from 0, or the pairs of it that stand at ``part``."""
        config, whole = self._config, self.rows(step)
        part = range(len(whole)) if part is None else part
        rows = whole[part.start : part.stop]
        random = np.random.default_rng([config.seed, CHOICES, step])
        low, high = LOWRES_SIDES
        blurred = round(config.lowres_prob * len(whole)) - part.start
        lowres = LowRes(min(max(blurred, 0), len(rows)), int(random.integers(low, high + 1)))
        dense = config.dense_every > 0 and step % config.dense_every == config.dense_every - 1
        captions = self._scenes.captions["dense" if dense else "short"]
        variants = random.integers(0, captions.variants, len(whole))[part.start : part.stop]
        ids, lengths = captions.take(rows, variants)
        kwargs = {"patch_size": int(random.choice(self._patch_sizes))} if self._patch_sizes else {}
        return Batch(self._scenes.images.take(rows, lowres), ids, lengths, kwargs)


def scale_down_and_up(images_BCHW: Tensor, side: int) -> Tensor:
    """Images scaled to ``side`` pixels on the shorter side and back, bilinear, in whole steps of 1/255.

    Args:
        images_BCHW: float images in [0, 255].
        side: in pixels; images that are smaller already are returned as they are.
    """
    height, width = images_BCHW.shape[-2:]
    ratio = side / min(height, width)
    if ratio >= 1:
        return images_BCHW
    small = (max(round(height * ratio), 1), max(round(width * ratio), 1))
    shrunk = F.interpolate(images_BCHW, small, mode="bilinear", antialias=True).round()
    return F.interpolate(shrunk, (height, width), mode="bilinear", antialias=True).round()


def image_part(spec: ModelSpec) -> PicturePart | PatchPart:
    """What a model's image tower needs drawn."""
    if spec.preprocess.mode == "native":
        patch = spec.preprocess.multiple
        return PatchPart(native_sizes(spec.preprocess.size, patch), patch)
    return PicturePart(*spec.preprocess.size)


def caption_part(spec: ModelSpec, config: TrainConfig) -> CaptionPart:
    """The captions, in the tokens of the model. Raises ``TrainingError`` if ids do not fit 16 bits."""
    words = tokenizer.load(spec.tokenizer)
    if words.vocab_size > np.iinfo(np.int16).max:
        raise TrainingError(
            f"a vocabulary of {words.vocab_size} does not fit the pool's 16-bit ids", where=spec.name,
            remedy="Train a model with a smaller vocabulary.",
        )  # fmt: skip
    short = min(MAX_SHORT_TOKENS, config.max_tokens)
    return CaptionPart(spec.tokenizer, words.digest, short, config.max_tokens)


def load_scenes(
    spec: ModelSpec,
    config: TrainConfig,
    root: Path,
    device: str,
    *,
    held_out: bool = False,
    report: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Scenes:
    """Open the run's pool, or its held-out scenes, and bring it to the device if it fits there.

    Args:
        spec: decides what is drawn.
        config: decides how much.
        root: folder of the pool; drawn there first if need be.
        device: ``cpu`` or ``cuda``.
        held_out: the held-out scenes instead of the pool.
        report: called with what is drawn, how many scenes are done and how many there are.
    """
    first, count = (HELD_OUT_FIRST, config.held_out) if held_out else (0, config.pool_size)

    def arrays(part: Part) -> Arrays:
        return open_part(
            root, part, first, count, workers=config.workers,
            report=lambda done: report(f"drawing {part.kind}", done, count),
        )  # fmt: skip

    pictures = image_part(spec)
    (pixels,) = arrays(pictures).values()
    tokens = arrays(caption_part(spec, config))
    on_device = _resident(pixels, device)
    images: Pictures | Patches
    if isinstance(pictures, PatchPart):
        images = Patches(on_device, pictures, first, spec.preprocess, device)
    else:
        images = Pictures(on_device, spec.preprocess, device)
    kinds: tuple[CaptionKind, ...] = ("short", "dense")
    captions = {
        kind: Captions(_resident(tokens[kind], device), tokens[f"{kind}_lengths"], device) for kind in kinds
    }
    return Scenes(count, images, captions)


def _resident(array: npt.NDArray[Any], device: str) -> Tensor:
    """The array as a tensor on the device if it takes less than half of its free memory, else on the host."""
    tensor = torch.from_numpy(array)
    if device == "cpu" or array.nbytes > torch.cuda.mem_get_info()[0] / 2:
        return tensor
    return tensor.to(device)


def _send(values: Rows, device: str) -> Tensor:
    """Whole numbers to a device, without waiting for it."""
    tensor = torch.from_numpy(values)
    return tensor if device == "cpu" else tensor.pin_memory().to(device, non_blocking=True)
