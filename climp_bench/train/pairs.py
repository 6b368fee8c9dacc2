"""Training on pairs that are decoded: of shards, or of a captioned data set, cropped by worker processes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from climp_bench.data import dataset as datasets
from climp_bench.data.dataset import Image
from climp_bench.data.decoding import CorruptImage
from climp_bench.data.transforms import to_tensor
from climp_bench.errors import ClimpError, DataError, UsageError
from climp_bench.metrics.retrieval import recall_at_k
from climp_bench.models.dual_encoder import DualEncoder
from climp_bench.models.spec import ModelSpec
from climp_bench.models.tokenizer import Tokenizer
from climp_bench.models.vit import on_device, pack_images
from climp_bench.train.data import CHOICES, ORDER, Batch
from climp_bench.train.heldout import BATCH, CUTS
from climp_bench.train.recipe import AugmentSection, Recipe
from climp_bench.train.sizing import Sizing

Rows = npt.NDArray[np.int64]
CROPS = 3  # stream of random numbers, beside those of train.data and train.learner
_NEIGHBOURS = 16  # samples that are tried in place of one that does not decode
_CROP_TRIES = 10


class PairSource(Protocol):
    """Pairs by number, the same in every process."""

    fingerprint: str

    def __len__(self) -> int: ...

    def item(self, row: int) -> str:
        """A name for a sample."""

    def pair(self, row: int, size: tuple[int, int]) -> tuple[Image, tuple[str, ...]]:
        """The image, uint8 (H, W, 3), and its captions. Raises ``DataError`` if it is damaged."""

    def order(self, n: int, random: np.random.Generator, window: int) -> Rows:
        """The first ``n`` pairs in an order to train in."""


class DatasetPairs:
    """A captioned data set, the images of which can be read in any order.

    Args:
        dataset: of retrieval.

    Raises:
        UsageError: it has no captions.
    """

    def __init__(self, dataset: datasets.Dataset) -> None:
        if dataset.kind != "retrieval":
            remedy = "Name a data set of retrieval."
            raise UsageError(f"a {dataset.kind} data set has no captions", where=dataset.name, remedy=remedy)
        self._dataset, self.fingerprint = dataset, dataset.fingerprint()

    def __len__(self) -> int:
        return len(self._dataset)

    def item(self, row: int) -> str:
        """See ``PairSource``."""
        return self._dataset.item_id(row)

    def pair(self, row: int, size: tuple[int, int]) -> tuple[Image, tuple[str, ...]]:
        """See ``PairSource``."""
        return self._dataset.image(row, size), self._dataset.captions(row)

    def order(self, n: int, random: np.random.Generator, window: int) -> Rows:
        """See ``PairSource``."""
        return random.permutation(n)


@dataclass(frozen=True)
class Raw:
    """A part as a worker hands it over: images, padded ids, their lengths, how many were replaced."""

    images: Tensor | dict[str, Tensor]
    ids_BL: Tensor
    lengths_B: Tensor
    bad: int

    def pin_memory(self) -> Raw:
        """In memory that a GPU can read by itself."""
        images: Any = self.images
        if isinstance(images, dict):
            images = {key: value.pin_memory() for key, value in images.items()}
        else:
            images = images.pin_memory()
        return Raw(images, self.ids_BL.pin_memory(), self.lengths_B.pin_memory(), self.bad)


class PairFeed:
    """See ``train.feed.Feed``. The last ``data.held_out`` pairs of the source are never trained on.

    Args:
        source: the pairs.
        recipe: what is done with them.
        spec: of the model.
        words: its tokenizer.
        where: ``feed.spans`` of this process.
        device: where batches go.
        workers: processes that decode; 0 decodes here.

    Raises:
        DataError: fewer pairs than a batch and the held-out ones need.
    """

    def __init__(
        self, source: PairSource, recipe: Recipe, spec: ModelSpec, words: Tokenizer, where: list[range],
        device: str, workers: int,
    ) -> None:  # fmt: skip
        held, size = recipe.data.held_out, recipe.budget.batch_size
        if len(source) < held + size:
            raise DataError(
                f"{len(source)} pairs are there; {held} are held out and a batch needs {size}",
                where=recipe.data.path or recipe.data.name or recipe.data.repo,
                remedy="Lower data.held_out or budget.batch_size, or bring more data.",
            )
        self.count, self.bad = len(source) - held, 0
        self.about: dict[str, object] = {
            "source": recipe.data.name or recipe.data.files, "pairs": self.count, "held out": held,
            "fingerprint": source.fingerprint,
        }  # fmt: skip
        self._source, self._recipe, self._spec = source, recipe, spec
        self._words = words.cut(recipe.data.max_tokens)
        self._where, self._device, self._workers = where, device, workers
        self._epoch, self._order = -1, np.zeros(0, np.int64)
        self._sizing = Sizing(recipe.augment, spec, recipe.run.seed)

    def rows(self, step: int) -> Rows:
        """See ``Feed``."""
        size = self._recipe.budget.batch_size
        epoch, batch = divmod(step, self.count // size)
        if epoch != self._epoch:
            random = np.random.default_rng([self._recipe.run.seed, ORDER, epoch])
            self._order = self._source.order(self.count, random, self._recipe.data.window)
            self._epoch = epoch
        return self._order[batch * size : (batch + 1) * size]

    def parts(self, first_step: int, last_step: int) -> Iterator[list[Batch]]:
        """See ``Feed``."""
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # it is the workers that are many
        preparing: Any = _Preparing(self._source, self._recipe, self._spec, self._words, self._sizing)
        loader: DataLoader[Any] = DataLoader(
            preparing, batch_sampler=self._keys(first_step, last_step), num_workers=self._workers,
            collate_fn=_as_it_is, pin_memory=self._device != "cpu",
            prefetch_factor=2 if self._workers else None,
        )  # fmt: skip
        made = iter(loader)
        for step in range(first_step, last_step):
            yield [self._batch(next(made), step) for _ in self._where]

    def scores(self, model: DualEncoder) -> dict[str, float]:
        """See ``Feed``. Held-out pairs that do not decode are left out; ``about`` says how many are there."""
        images, captions = [], []
        for row in range(self.count, len(self._source)):
            with suppress(CorruptImage):
                image, texts = self._source.pair(row, self._spec.preprocess.size)
                images.append(to_tensor(image, self._spec.preprocess))
                captions.append(texts)
        self.about["held out"] = len(images)
        owner = np.repeat(np.arange(len(captions)), [len(texts) for texts in captions])
        ids = self._words.encode([text for texts in captions for text in texts])
        training = model.training
        model.eval()
        with torch.no_grad():
            image_ND = [
                model.encode_image(on_device(stacked(images[k : k + BATCH], self._spec), self._device))
                for k in range(0, len(images), BATCH)
            ]
            text_MD = [
                model.encode_text(*(t.to(self._device) for t in self._words.pad(ids[k : k + BATCH])))
                for k in range(0, len(ids), BATCH)
            ]
        model.train(training)
        outcome = recall_at_k(_array(image_ND), _array(text_MD), owner, CUTS)
        return {
            f"recall@{k}": (outcome.image_retrieval_recall(k) + outcome.text_retrieval_recall(k)) / 2
            for k in CUTS
        }

    def _keys(self, first_step: int, last_step: int) -> Iterator[list[tuple[int, int]]]:
        for step in range(first_step, last_step):
            rows = self.rows(step)
            for part in self._where:
                yield [(step, int(row)) for row in rows[part.start : part.stop]]

    def _batch(self, raw: Raw | ClimpError, step: int) -> Batch:
        if isinstance(raw, ClimpError):
            raise raw
        self.bad += raw.bad
        kwargs = {}
        if self._sizing.patch_sizes:
            random = np.random.default_rng([self._recipe.run.seed, CHOICES, step])
            kwargs = {"patch_size": int(random.choice(self._sizing.patch_sizes))}
        ids, lengths = (t.to(self._device, non_blocking=True) for t in (raw.ids_BL, raw.lengths_B))
        return Batch(on_device(raw.images, self._device), ids, lengths, kwargs)


class _Preparing:
    """In a worker: parts of samples by (step, row), cropped and captioned as (seed, epoch, row) says.

    What goes wrong is returned: raised in a worker, it would arrive as text.
    """

    def __init__(
        self, source: PairSource, recipe: Recipe, spec: ModelSpec, words: Tokenizer, sizing: Sizing
    ) -> None:
        self._source, self._recipe, self._spec, self._words = source, recipe, spec, words
        self._sizing, self._count = sizing, len(source) - recipe.data.held_out

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> Raw | ClimpError:
        try:
            pixels, captions, bad = zip(*(self._sample(*key) for key in keys), strict=True)
            ids_BL, lengths_B = self._words.pad(self._words.encode(captions))
        except ClimpError as error:
            return error
        return Raw(stacked(pixels, self._spec), ids_BL, lengths_B, sum(bad))

    def _sample(self, step: int, row: int) -> tuple[Tensor, str, bool]:
        augment, preprocess = self._recipe.augment, self._sizing.at(step)
        epoch = step // (self._count // self._recipe.budget.batch_size)
        random = np.random.default_rng([self._recipe.run.seed, CROPS, epoch, row])
        image, captions, bad = self._readable(row)
        caption = captions[int(random.integers(len(captions)))]
        return to_tensor(crop(image, augment, random), preprocess), caption, bad

    def _readable(self, row: int) -> tuple[Image, tuple[str, ...], bool]:
        """The pair, or the next one that can be read, and whether it is another."""
        budget = self._recipe.augment.token_budget  # under which pictures have shapes of their own
        size = (self._spec.preprocess if budget else self._sizing.drawn).size
        for further in range(_NEIGHBOURS):
            try:
                pair = self._source.pair((row + further) % self._count, size)
            except DataError as error:
                fault = error
            else:
                return *pair, further > 0
        raise DataError(
            f"{_NEIGHBOURS} samples in a row cannot be read, the last one for: {fault.what}",
            where=fault.where,
            remedy="Fetch the data again.",
        ) from fault


def _as_it_is(raw: Any) -> Any:
    return raw


def crop(image: Image, augment: AugmentSection, random: np.random.Generator) -> Image:
    """A random crop (Szegedy et al. 2015) of an image (H, W, 3), mirrored or not.

    Under a budget of tokens it has the image's own aspect ratio.
    """
    height, width = image.shape[:2]
    low, high = (float(np.log(ratio)) for ratio in augment.crop_ratio)
    for _ in range(_CROP_TRIES):
        area = height * width * random.uniform(*augment.crop_scale)
        ratio = width / height if augment.token_budget else np.exp(random.uniform(low, high))
        w, h = round(float(np.sqrt(area * ratio))), round(float(np.sqrt(area / ratio)))
        if 0 < w <= width and 0 < h <= height:
            top, left = int(random.integers(height - h + 1)), int(random.integers(width - w + 1))
            image = image[top : top + h, left : left + w]
            break
    return image[:, ::-1] if augment.flip and random.random() < 0.5 else image


def stacked(pixels: Sequence[Tensor], spec: ModelSpec) -> Tensor | dict[str, Tensor]:
    """One batch of prepared pictures (3, h, w): packed for a model that takes any shape."""
    if spec.preprocess.mode == "native":
        return pack_images(pixels, spec.preprocess.multiple)
    return torch.stack(list(pixels))


def _array(parts: list[Tensor]) -> npt.NDArray[np.float32]:
    return torch.cat(parts).float().cpu().numpy()
