"""What every data set offers: images and what belongs to them, by index.

Map-style on purpose: sample ``i`` is the same whatever the number of workers, nothing is lost or doubled.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from climp_bench.errors import DataError
from climp_bench.specs import TaskKind

Image = npt.NDArray[np.uint8]


class Dataset(ABC):
    """Images with labels or captions.

    Attributes:
        name: catalogue name or folder name.
        kind: classification, multilabel or retrieval.
        split: which split the samples come from.
        classes: class names in label order (empty for retrieval).
        templates: prompt templates with ``{c}`` (empty for retrieval).
        n_expected: how many images the source says it has.
        expected_histogram: how many images each class has, in label order, where the catalogue says it.
        revision: commit that a pulled copy is of; None where nobody pulled it.
        drawn: images are made here, so that none can be damaged.
        skipped_items: samples that were left out because their images do not decode.
    """

    name: str
    kind: TaskKind
    split: str = "test"
    classes: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    n_expected: int
    expected_histogram: tuple[int, ...] | None = None
    revision: str | None = None
    drawn: bool = False
    skipped_items: tuple[str, ...] = ()

    @abstractmethod
    def __len__(self) -> int:
        """Number of images present."""

    @abstractmethod
    def image(self, index: int, size: tuple[int, int]) -> Image:
        """Image ``index`` as uint8 (H, W, 3).

        ``size`` is what the model will ask for: a source that can draw natively at any size (scenes) draws
        at it; others ignore it and return the image as stored.

        Raises:
            DataError: the image is missing or corrupt; names the item.
        """

    @abstractmethod
    def item_id(self, index: int) -> str:
        """A name for the sample that a user can find it by."""

    @abstractmethod
    def source_fingerprint(self) -> str:
        """Digest of the data's content or of the generator's version: what the images and labels are."""

    def images_fingerprint(self) -> str:
        """Digest of the images in their order: where it is equal, so are the images, whatever the captions.

        A source that can tell its images from the rest says so; here both are one.
        """
        return digest_texts([self.split, str(len(self)), self.source_fingerprint(), self.name])

    def label(self, index: int) -> int:
        """Class index (classification)."""
        raise DataError(f"a {self.kind} data set has no class labels", where=self.name)

    def positives(self, index: int) -> tuple[int, ...]:
        """Class indices present in the image (multilabel)."""
        raise DataError(f"a {self.kind} data set has no multilabel targets", where=self.name)

    def captions(self, index: int) -> tuple[str, ...]:
        """Captions of the image (retrieval), at least one."""
        raise DataError(f"a {self.kind} data set has no captions", where=self.name)

    def group(self, index: int) -> str | None:
        """Subgroup for worst-group accuracy, or None."""
        return None

    def fingerprint(self) -> str:
        """Digest of everything that shapes a score: content, classes and split (not the prompts)."""
        described = [self.name, self.kind, self.split, self.classes, len(self), self.source_fingerprint()]
        return hashlib.sha256(json.dumps(described).encode()).hexdigest()


def labels_of(dataset: Dataset) -> npt.NDArray[np.int64]:
    """All class labels, shape (N,). Raises ``DataError`` naming the first label out of range."""
    labels = np.array([dataset.label(i) for i in range(len(dataset))], dtype=np.int64)
    bad = np.flatnonzero((labels < 0) | (labels >= len(dataset.classes)))
    if bad.size:
        i = int(bad[0])
        raise DataError(
            f"label {labels[i]} is outside 0..{len(dataset.classes) - 1} ({bad.size} such labels)",
            where=f"{dataset.name}: {dataset.item_id(i)}",
            remedy="Check that classnames.txt belongs to these shards.",
        )
    return labels


def targets_of(dataset: Dataset) -> npt.NDArray[np.bool_]:
    """Multi-hot targets, shape (N, C). Raises ``DataError`` for a class index out of range."""
    targets = np.zeros((len(dataset), len(dataset.classes)), dtype=bool)
    for i in range(len(dataset)):
        for c in dataset.positives(i):
            check_label(dataset, i, c)
            targets[i, c] = True
    return targets


def check_label(dataset: Dataset, index: int, label: int) -> None:
    """Raise ``DataError`` naming the sample if its class index is out of range."""
    if not 0 <= label < len(dataset.classes):
        raise DataError(
            f"class {label} is outside 0..{len(dataset.classes) - 1}",
            where=f"{dataset.name}: {dataset.item_id(index)}",
            remedy="Check that classnames.txt belongs to these shards.",
        )


def captions_of(dataset: Dataset) -> tuple[list[str], npt.NDArray[np.int64]]:
    """All captions and the image index of each, shapes (M,) and (M,).

    Raises:
        DataError: an image without captions, or an empty caption; names the item.
    """
    texts: list[str] = []
    image_of: list[int] = []
    for i in range(len(dataset)):
        captions = dataset.captions(i)
        where = f"{dataset.name}: {dataset.item_id(i)}"
        if not captions:
            raise DataError("no caption", where=where, remedy="Every image of a retrieval set needs one.")
        for k, caption in enumerate(captions):
            if not caption.strip():
                raise DataError(f"caption {k} is empty", where=where, remedy="Remove or fill it.")
        texts.extend(captions)
        image_of.extend([i] * len(captions))
    return texts, np.array(image_of, dtype=np.int64)


def check_count(dataset: Dataset, expected: int | None) -> None:
    """Raise ``DataError`` if the images, or those of a class, are not as many as source and suite say."""
    for n, who in ((dataset.n_expected, "its source"), (expected, "the suite")):
        if n is not None and n != len(dataset):
            raise DataError(
                f"{len(dataset)} images are there, {who} says {n}",
                where=dataset.name,
                remedy="A partial data set gives a wrong score: fetch it again or correct the count.",
            )
    if dataset.expected_histogram is not None:
        check_histogram(dataset, dataset.expected_histogram)


def check_histogram(dataset: Dataset, expected: Sequence[int]) -> None:
    """Raise ``DataError`` if the classes do not have as many images as they should, naming the worst.

    Args:
        dataset: of classification.
        expected: images of each class, in label order.
    """
    counts = np.bincount(labels_of(dataset), minlength=len(dataset.classes))
    if len(counts) != len(expected):
        what = f"{len(counts)} classes are there, the catalogue says {len(expected)}"
        raise DataError(what, where=dataset.name, remedy="Check that classnames.txt belongs to these images.")
    wrong = np.flatnonzero(counts != np.asarray(expected))
    if wrong.size:
        worst = int(wrong[np.argmax(np.abs(counts - np.asarray(expected))[wrong])])
        raise DataError(
            f"class {worst} ({dataset.classes[worst]!r}) has {counts[worst]} images, the catalogue says "
            f"{expected[worst]} ({wrong.size} such classes)",
            where=dataset.name,
            remedy="The labels are not those of this data set, or it is not whole: fetch it again.",
        )


def digest_texts(texts: Sequence[str]) -> str:
    """sha256 of a list of texts, order and boundaries included."""
    return hashlib.sha256(json.dumps(list(texts), ensure_ascii=False).encode()).hexdigest()
