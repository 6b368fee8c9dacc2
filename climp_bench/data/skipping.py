"""A data set without the images that do not decode: counted and named, never silent."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor

from climp_bench.data.dataset import Dataset, Image
from climp_bench.data.decoding import CorruptImage
from climp_bench.errors import DataError

_ANY_SIZE = (64, 64)
_BLOCK = 256


class SkipCorrupt(Dataset):
    """The samples of another data set whose images decode, in its order.

    Every image is decoded once to find the others out. A data set whose images are drawn is taken as it is.
    With nothing skipped, its fingerprint is that of the other data set, so that embeddings are shared.

    Args:
        whole: the data set; an unreadable file or shard, unlike a damaged image, still raises.
        workers: threads that decode.

    Raises:
        DataError: no image decodes.
    """

    def __init__(self, whole: Dataset, workers: int = 0) -> None:
        self.whole = whole
        self.name, self.kind, self.split = whole.name, whole.kind, whole.split
        self.classes, self.templates, self.revision = whole.classes, whole.templates, whole.revision
        corrupt = set() if whole.drawn else _corrupt(whole, workers)
        self._kept = [i for i in range(len(whole)) if i not in corrupt]
        self.skipped_items = tuple(whole.item_id(i) for i in sorted(corrupt))
        self.n_expected = whole.n_expected - len(corrupt)
        if not self._kept:
            remedy = "Fetch the data set again."
            raise DataError(f"none of its {len(whole)} images decodes", where=self.name, remedy=remedy)

    @property
    def skipped(self) -> int:
        """How many samples are left out."""
        return len(self.skipped_items)

    def __len__(self) -> int:
        return len(self._kept)

    def image(self, index: int, size: tuple[int, int]) -> Image:
        return self.whole.image(self._kept[index], size)

    def item_id(self, index: int) -> str:
        return self.whole.item_id(self._kept[index])

    def source_fingerprint(self) -> str:
        own = self.whole.source_fingerprint()
        if not self.skipped:
            return own
        return hashlib.sha256(json.dumps([own, self.skipped_items]).encode()).hexdigest()

    def images_fingerprint(self) -> str:
        own = self.whole.images_fingerprint()
        if not self.skipped:
            return own
        return hashlib.sha256(json.dumps([own, self._kept]).encode()).hexdigest()

    def label(self, index: int) -> int:
        return self.whole.label(self._kept[index])

    def positives(self, index: int) -> tuple[int, ...]:
        return self.whole.positives(self._kept[index])

    def captions(self, index: int) -> tuple[str, ...]:
        return self.whole.captions(self._kept[index])

    def group(self, index: int) -> str | None:
        return self.whole.group(self._kept[index])


def _corrupt(dataset: Dataset, workers: int) -> set[int]:
    """Indices of the images that do not decode. Pillow decodes outside of the interpreter's lock."""

    def broken(block: range) -> list[int]:
        return [i for i in block if not _decodes(dataset, i)]

    n = len(dataset)
    blocks = [range(start, min(start + _BLOCK, n)) for start in range(0, n, _BLOCK)]
    with ThreadPoolExecutor(max(1, workers)) as pool:
        return {i for found in pool.map(broken, blocks) for i in found}


def _decodes(dataset: Dataset, index: int) -> bool:
    try:
        dataset.image(index, _ANY_SIZE)
    except CorruptImage:
        return False
    return True
