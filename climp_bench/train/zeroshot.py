"""Zero-shot classification, measured while training as ``climp-bench zeroshot`` measures it afterwards:
protocol ``corrected``, see ``eval.zeroshot``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from climp_bench.data.catalogue import open_dataset
from climp_bench.data.dataset import Dataset, Image, check_count
from climp_bench.data.decoding import CorruptImage
from climp_bench.data.transforms import to_tensor
from climp_bench.embed.loading import as_it_is, load_blocks
from climp_bench.embed.sets import Ints, annotate, merge_shared_names
from climp_bench.errors import ClimpError, DataError, UsageError
from climp_bench.metrics.classification import class_scores, prompt_weights, top_k_correct
from climp_bench.models.dual_encoder import DualEncoder
from climp_bench.models.spec import ModelSpec
from climp_bench.models.tokenizer import Tokenizer
from climp_bench.models.vit import on_device
from climp_bench.train.heldout import BATCH
from climp_bench.train.pairs import stacked
from climp_bench.train.recipe import RunSection
from climp_bench.train.world import World

_KEY = "run.zeroshot"
_NOTHING, _BLACK = np.zeros((0, 0, 3), np.uint8), np.zeros((8, 8, 3), np.uint8)


class Zeroshot:
    """The data sets that a run is scored on. Every process encodes its share of prompts and images.

    Args:
        run: ``zeroshot``, ``data_root`` and ``zeroshot_limit`` of a recipe.
        spec: of the model.
        words: its tokenizer.
        world: the processes.
        workers: processes that decode for this one.

    Raises:
        UsageError: there is no such data set (with near matches), or it has no classes.
        DataError: it is not on this machine, or not whole.
    """

    def __init__(
        self, run: RunSection, spec: ModelSpec, words: Tokenizer, world: World, workers: int
    ) -> None:
        self._spec, self._words, self._world, self._workers = spec, words, world, workers
        self._sets = [_open(name, run, words) for name in dict.fromkeys(run.zeroshot)]

    @torch.no_grad()
    def scores(self, model: DualEncoder) -> tuple[dict[str, float], dict[str, int]]:
        """``NAME acc@1`` in [0, 1], and by name how many images that is of. To be called in every process.

        Images that do not decode are left out.

        Args:
            model: left in the mode (training or not) it came in.

        Raises:
            DataError: no image of a set decodes.
            RankError: another process is lost.
        """
        training = model.training
        model.eval()
        try:
            counted = {one.name: self._count(model, one).tolist() for one in self._sets}
        finally:
            model.train(training)
        for name, (_, n) in counted.items():
            if not n:
                raise DataError("no image decodes", where=f"{_KEY}: {name}", remedy="Fetch it again.")
        return (
            {f"{name} acc@1": right / n for name, (right, n) in counted.items()},
            {name: n for name, (_, n) in counted.items()},
        )

    def _count(self, model: DualEncoder, one: _Set) -> Tensor:
        """How many images are classified right and how many there are, over all processes, (2,) int64."""
        prompts, images = len(one.ids), len(one.pictures)
        text_bP = torch.cat([self._texts(model, one, batch) for batch in self._batches(prompts)])
        text_TP = self._world.gather(text_bP[: len(self._world.share(prompts))], prompts)
        weights_PC = prompt_weights(text_TP.numpy(), one.owner, one.n_classes)
        counts, own, batches = np.zeros(2, np.int64), self._world.share(images), self._batches(images)
        loaded = load_blocks(one.pictures, batches, self._spec.preprocess.size, self._workers, as_it_is)
        for batch, pixels in zip(batches, loaded, strict=True):
            scores_BC = class_scores(self._images(model, pixels), weights_PC)
            right = top_k_correct(scores_BC, one.labels[np.minimum(batch, images - 1)])
            counted = np.array([i in own and image.size > 0 for i, image in zip(batch, pixels, strict=True)])
            counts += (right & counted).sum(), counted.sum()
        return self._world.sum_(torch.from_numpy(counts))

    def _batches(self, n: int) -> list[range]:
        """This process's share of ``n`` things. Each has as many batches, since the shards of a model come
        together at each: where a share is one short, one more stands in, perhaps past the last thing.
        """
        first, most = self._world.share(n).start, -(-n // self._world.size)
        return [range(first + k, first + min(k + BATCH, most)) for k in range(0, most, BATCH)]

    def _texts(self, model: DualEncoder, one: _Set, batch: range) -> Tensor:
        ids, lengths = self._words.pad([one.ids[min(i, len(one.ids) - 1)] for i in batch])
        return model.encode_text(ids.to(self._world.device), lengths.to(self._world.device)).float().cpu()

    def _images(self, model: DualEncoder, images: Sequence[Image]) -> npt.NDArray[np.float32]:
        pixels = [to_tensor(image if image.size else _BLACK, self._spec.preprocess) for image in images]
        return _array(model.encode_image(on_device(stacked(pixels, self._spec), self._world.device)))


@dataclass(frozen=True)
class _Pictures:
    """Some images of a data set; behind the last one it goes on. One that does not decode has no pixels."""

    dataset: Dataset
    rows: Ints

    @property
    def name(self) -> str:
        return self.dataset.name

    def __len__(self) -> int:
        return len(self.rows)

    def image(self, index: int, size: tuple[int, int]) -> Image:
        try:
            return self.dataset.image(int(self.rows[min(index, len(self.rows) - 1)]), size)
        except CorruptImage:
            return _NOTHING


@dataclass(frozen=True)
class _Set:
    """Some images (N) of a data set with their labels, and its prompts (T): token ids, and their classes."""

    name: str
    pictures: _Pictures
    labels: Ints
    ids: list[list[int]]
    owner: Ints
    n_classes: int


def _open(name: str, run: RunSection, words: Tokenizer) -> _Set:
    roots = [Path(run.data_root).expanduser()] if run.data_root else []
    try:
        dataset = open_dataset(name, roots)
        check_count(dataset, None)
    except ClimpError as error:
        where, remedy = (text.replace("--data-root", "run.data_root") for text in (error.where, error.remedy))
        raise type(error)(error.what, where=f"{_KEY}: {where or name}", remedy=remedy) from error
    if dataset.kind != "classification":
        remedy = "Name a data set of classification."
        raise UsageError(
            f"a {dataset.kind} data set is not classified", where=f"{_KEY}: {name}", remedy=remedy
        )
    notes = merge_shared_names(annotate(dataset))
    assert notes.labels is not None
    rows = np.arange(len(dataset))
    if 0 < run.zeroshot_limit < len(rows):
        rows = np.sort(np.random.default_rng(0).permutation(rows)[: run.zeroshot_limit])
    ids = words.encode(notes.texts)
    return _Set(name, _Pictures(dataset, rows), notes.labels[rows], ids, notes.owner, len(notes.classes))


def _array(rows: Tensor) -> npt.NDArray[np.float32]:
    return rows.float().cpu().numpy()
