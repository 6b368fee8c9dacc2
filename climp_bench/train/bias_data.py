"""Thumbnails with labels for ``train.bias``: CIFAR-10 as torchvision or the hub has it, or scenes."""

from __future__ import annotations

import hashlib
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torchvision.transforms.v2 import functional as F

from climp_bench.data.dataset import Dataset, labels_of
from climp_bench.data.scenes import TASKS
from climp_bench.data.scenes_dataset import ScenesDataset
from climp_bench.data.sources import open_folder
from climp_bench.errors import DataError
from climp_bench.registry import unknown

SIDE = 32
_BATCHES = "cifar-10-batches-py"

Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Thumbnails:
    """Images of 32 x 32 pixels.

    Attributes:
        name: of the data set.
        train_NHWC, test_NHWC: uint8.
        train_labels_N, test_labels_N: indices into ``classes``.
        classes: their names.
    """

    name: str
    train_NHWC: Pixels
    train_labels_N: Labels
    test_NHWC: Pixels
    test_labels_N: Labels
    classes: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        """sha256 of images and labels."""
        digest = hashlib.sha256()
        for array in (self.train_NHWC, self.train_labels_N, self.test_NHWC, self.test_labels_N):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def embedded(train: int, test: int, task: str) -> Thumbnails:
    """Scenes of an embedded task at 32 pixels; test scenes are no training scenes.

    Raises:
        UsageError: no embedded task of that name, or one without classes.
    """
    named = [name for name in TASKS.names() if TASKS.get(name).kind == "classification"]
    if task not in named:
        raise unknown("task with classes", task, named)
    dataset = ScenesDataset(task, train + test)
    pixels, labels = _read(dataset)
    return Thumbnails(task, pixels[:train], labels[:train], pixels[train:], labels[train:], dataset.classes)


def from_folder(folder: Path) -> Thumbnails:
    """CIFAR-10 in torchvision's ``cifar-10-batches-py``, or any data set with splits train and test.

    Larger images are brought to 32 x 32.

    Raises:
        DataError: there is no such data set, or it is damaged.
    """
    inner = folder if folder.name == _BATCHES else folder / _BATCHES
    if inner.is_dir():
        return _from_batches(inner)
    train, test = (open_folder(folder, folder.name, split=split) for split in ("train", "test"))
    if train.kind != "classification" or train.classes != test.classes:
        remedy = "Both splits need the same classes."
        raise DataError("no classification with splits train and test", where=str(folder), remedy=remedy)
    return Thumbnails(folder.name, *_read(train), *_read(test), train.classes)


def _read(dataset: Dataset) -> tuple[Pixels, Labels]:
    images = [dataset.image(i, (SIDE, SIDE)) for i in range(len(dataset))]
    return np.stack([_small(image) for image in images]), labels_of(dataset)


def _small(image: Pixels) -> Pixels:
    if image.shape[:2] == (SIDE, SIDE):
        return image
    planes = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    small: torch.Tensor = F.resize(planes, [SIDE, SIDE], antialias=True)
    return small.numpy().transpose(1, 2, 0)


def _from_batches(folder: Path) -> Thumbnails:
    parts = [_unpickled(folder / f"data_batch_{k}") for k in range(1, 6)]
    test, meta = _unpickled(folder / "test_batch"), _unpickled(folder / "batches.meta")
    try:
        names = tuple(name.decode() if isinstance(name, bytes) else name for name in meta[b"label_names"])
        train = np.concatenate([_pixels(part) for part in parts])
        labels = np.concatenate([np.asarray(part[b"labels"], np.int64) for part in parts])
        return Thumbnails(
            "cifar10", train, labels, _pixels(test), np.asarray(test[b"labels"], np.int64), names
        )
    except (KeyError, ValueError, TypeError) as error:
        raise _damaged(folder, error) from error


def _pixels(part: dict[bytes, Any]) -> Pixels:
    planes = np.asarray(part[b"data"], np.uint8).reshape(-1, 3, SIDE, SIDE)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1))


class _ArraysOnly(pickle.Unpickler):
    """Rebuilds arrays and plain values, and nothing that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        known = {"_reconstruct", "ndarray", "dtype", "encode", "scalar"}
        if name in known and module.split(".")[0] in ("numpy", "_codecs"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _unpickled(path: Path) -> dict[bytes, Any]:
    try:
        with path.open("rb") as handle:
            found: dict[bytes, Any] = _ArraysOnly(handle, encoding="bytes").load()
    except (OSError, pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError) as error:
        raise _damaged(path, error) from error
    return found


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(f"not a batch of CIFAR-10 ({error})", where=str(path), remedy="Fetch CIFAR-10 again.")
