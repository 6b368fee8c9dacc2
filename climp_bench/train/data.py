"""Batches that are made where the model is: uint8 pixels and int16 tokens in, normalised tensors out.

Everything random about a batch is a function of (seed, step), so a run that goes on at a step sees what it
would have seen. What decides shapes is drawn on the host: making a batch never waits for the device.
"""

from __future__ import annotations

import math
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
from climp_bench.models.spec import ModelSpec
from climp_bench.specs import ImagePreprocess
from climp_bench.train.config import HELD_OUT_FIRST, TrainConfig
from climp_bench.train.pool import Arrays, CaptionPart, Part, PatchPart, PicturePart, native_sizes, open_part
from climp_bench.train.recipe import AugmentSection
from climp_bench.train.sizing import Sizing

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

    @property
    def padding(self) -> Tensor:
        """Places without a patch, and all places, of packed images, (2,) int64; 0 for others."""
        if isinstance(self.images, Tensor):
            return torch.zeros(2, dtype=torch.int64, device=self.images.device)
        valid_BL = self.images["patch_valid"]
        return torch.stack([~valid_BL, torch.ones_like(valid_BL)]).sum((1, 2))


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

    def take(self, rows: Rows, lowres: LowRes | None = None, side: int | None = None) -> Tensor:
        """Normalised float32 images (B, 3, H, W) of these rows, scaled to ``side`` pixels a side if given."""
        pixels = self._pixels.index_select(0, _send(rows, str(self._pixels.device))).to(self._device)
        images = pixels.permute(0, 3, 1, 2).float()
        if lowres is not None and lowres.count:
            images[: lowres.count] = scale_down_and_up(images[: lowres.count], lowres.side)
        if side is not None:
            images = scale(images, (side, side))
        return (images / 255.0 - self._mean) / self._std


class _Layout:
    """Where the patches of pictures of ``sizes`` stand.

    Attributes:
        coord_SL2: (y, x) of each patch in its grid, on the host.
        valid_SL: whether there is one.
    """

    def __init__(self, sizes: tuple[tuple[int, int], ...], patch: int, device: str) -> None:
        self.sizes = sizes
        longest = max(height * width for height, width in sizes) // patch**2
        self.coord_SL2 = torch.zeros(len(sizes), longest, 2, dtype=torch.int64)
        valid_SL = torch.zeros(len(sizes), longest, dtype=torch.bool)
        for i, (height, width) in enumerate(sizes):
            grid = torch.cartesian_prod(torch.arange(height // patch), torch.arange(width // patch))
            self.coord_SL2[i, : len(grid)] = grid
            valid_SL[i, : len(grid)] = True
        self.valid_SL = valid_SL.to(device)


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
        self._side = math.isqrt(preprocess.size[0] * preprocess.size[1])
        self._layouts = {self._side: _Layout(part.sizes, part.patch, device)}

    def take(self, rows: Rows, lowres: LowRes | None = None, side: int | None = None) -> dict[str, Tensor]:
        """A packed batch of these rows, scaled by ``side`` over that of the pool's area if given.

        ``patch_coord`` stays on the host: NaFlexViT reads grid sizes off it one by one.
        """
        kinds = (rows + self._first) % len(self._part.sizes)
        patches = self._patches.index_select(0, _send(rows, str(self._patches.device))).to(self._device)
        values = patches.float()
        if lowres is not None and lowres.count:
            self._blur(values, kinds[: lowres.count], lowres.side)
        layout = self._layout(self._side if side is None else side)
        if layout.sizes != self._part.sizes:
            values = self._scale(values, kinds, layout)
        valid_BL = layout.valid_SL[_send(kinds, self._device)]
        normalised = (values / 255.0 - self._mean) / self._std * valid_BL[..., None]
        return {
            "patches": normalised,
            "patch_coord": layout.coord_SL2[torch.from_numpy(kinds)],
            "patch_valid": valid_BL,
        }

    def _blur(self, values_BLD: Tensor, kinds: Rows, side: int) -> None:
        """Scale the pictures behind the first rows down and up, size by size, in place."""
        for kind in np.unique(kinds):
            rows = _send(np.flatnonzero(kinds == kind), self._device)
            cells = self._cells(scale_down_and_up(self._pictures(values_BLD[rows], kind), side))
            values_BLD[rows, : cells.shape[1]] = cells

    def _layout(self, side: int) -> _Layout:
        """The layout of pictures that are so much smaller, their sides cut to whole patches."""
        if side not in self._layouts:
            p = self._part.patch

            def short(length: int) -> int:
                return max(1, length * side // (self._side * p)) * p

            sizes = tuple((short(height), short(width)) for height, width in self._part.sizes)
            self._layouts[side] = _Layout(sizes, p, self._device)
        return self._layouts[side]

    def _scale(self, values_BLD: Tensor, kinds: Rows, layout: _Layout) -> Tensor:
        """The patches of the same pictures in another layout."""
        scaled = values_BLD.new_zeros(len(kinds), layout.valid_SL.shape[1], values_BLD.shape[2])
        for kind in np.unique(kinds):
            rows = _send(np.flatnonzero(kinds == kind), self._device)
            cells = self._cells(scale(self._pictures(values_BLD[rows], kind), layout.sizes[kind]))
            scaled[rows, : cells.shape[1]] = cells
        return scaled

    def _pictures(self, values_BLD: Tensor, kind: int) -> Tensor:
        """Pictures (B, 3, H, W) from the patches of pictures of one size."""
        (height, width), p = self._part.sizes[kind], self._part.patch
        h, w = height // p, width // p
        cells = values_BLD[:, : h * w].view(-1, h, w, p, p, 3)
        return cells.permute(0, 5, 1, 3, 2, 4).reshape(-1, 3, height, width)

    def _cells(self, images_BCHW: Tensor) -> Tensor:
        """The patches of pictures of one size, (B, N, p*p*3)."""
        p = self._part.patch
        h, w = (length // p for length in images_BCHW.shape[-2:])
        cells = images_BCHW.view(-1, 3, h, p, w, p).permute(0, 2, 4, 3, 5, 1)
        return cells.reshape(-1, h * w, p * p * 3)


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
        sizing: of the pictures, by default as the model says; the pool is as it has them ``drawn``.
    """

    def __init__(
        self, scenes: Scenes, config: TrainConfig, spec: ModelSpec, sizing: Sizing | None = None
    ) -> None:
        self._scenes, self._config = scenes, config
        self._sizing = sizing or Sizing(AugmentSection(), spec, config.seed)
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
        patch_sizes, size = self._sizing.patch_sizes, self._sizing.at(step).size
        kwargs = {"patch_size": int(random.choice(patch_sizes))} if patch_sizes else {}
        side = None if size == self._sizing.drawn.size else math.isqrt(size[0] * size[1])
        return Batch(self._scenes.images.take(rows, lowres, side), ids, lengths, kwargs)


def scale(images_BCHW: Tensor, size: tuple[int, int]) -> Tensor:
    """Images brought to a size, bilinear with antialiasing, in whole steps of 1/255.

    Args:
        images_BCHW: float images in [0, 255].
        size: height and width in pixels.
    """
    return F.interpolate(images_BCHW, size, mode="bilinear", antialias=True).round()


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
    return scale(scale(images_BCHW, small), (height, width))


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
