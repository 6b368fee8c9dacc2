"""Folders of images, one folder a class, as torchvision's ``ImageFolder`` reads them."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from climp_bench.data.dataset import Dataset, Image
from climp_bench.data.decoding import OR_SKIP, decode
from climp_bench.data.image_digests import digest_files
from climp_bench.data.table_files import choose_split
from climp_bench.data.textfiles import CLASSNAMES, read_classnames, read_templates
from climp_bench.errors import DataError
from climp_bench.files import Digest, sha256_file

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""As in torchvision."""


class FolderDataset(Dataset):
    """``ROOT[/SPLIT]/CLASS/.../IMAGE``; classes and images in order of their names.

    Folders that are all whole numbers (ImageNet-V2) are class indices and count as numbers: as words, 10
    comes before 2. ``classnames.txt``, in ROOT or in the split, names the classes in that order; without it a
    folder's name is its class. Prompt templates may lie beside it.

    Args:
        root: the folder.
        split: a subfolder with the class folders; ``test``, ``validation`` or ``val`` if there is one, else
            ROOT itself, which is the split called ``all``.
        name: the data set's name; the folder's name unless given.
        digest: sha256 of a file.

    Raises:
        DataError: a class folder without images, or not as many names as class folders.
    """

    kind = "classification"

    def __init__(
        self,
        root: Path,
        split: str | None = None,
        name: str | None = None,
        digest: Digest = sha256_file,
    ) -> None:
        self.root, self._digest = Path(root), digest
        self.name = name or self.root.name
        splits = splits_with_classes(self.root)
        if not splits:
            raise DataError(
                "no folders of images", where=str(root), remedy="One subfolder a class is needed."
            )
        self.split = choose_split(splits, split, str(root))
        self._base = self.root if self.split == "all" else self.root / self.split
        folders = _in_order([path.name for path in _subfolders(self._base)])
        names = read_classnames(self._base) or read_classnames(self.root)
        self.classes, labels = _label(folders, names, self._base)
        self.templates = read_templates(self._base) or read_templates(self.root)
        self._samples: list[tuple[str, int]] = []
        for folder, label in zip(folders, labels, strict=True):
            images = _images(self._base / folder)
            if not images:
                remedy = f"Fetch it again, or remove the folder. Known: {', '.join(SUFFIXES)}."
                raise DataError("a class without images", where=str(self._base / folder), remedy=remedy)
            self._samples += [(path.relative_to(self._base).as_posix(), label) for path in images]
        self.n_expected = len(self._samples)
        self._digests: list[str] = []

    def __len__(self) -> int:
        return len(self._samples)

    def item_id(self, index: int) -> str:
        return self._samples[index][0]

    def image(self, index: int, size: tuple[int, int]) -> Image:
        path = self._base / self._samples[index][0]
        where = f"{self.name}: {self._samples[index][0]} (image {index})"
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(f"cannot be read ({error})", where=where, remedy="Check the file.") from error
        return decode(content, where=where, remedy=f"Replace that file. {OR_SKIP}")

    def label(self, index: int) -> int:
        return self._samples[index][1]

    def source_fingerprint(self) -> str:
        listed = [(*sample, digest) for sample, digest in zip(self._samples, self._files(), strict=True)]
        return hashlib.sha256(json.dumps(listed).encode()).hexdigest()

    def images_fingerprint(self) -> str:
        return digest_files(self._files())

    def _files(self) -> list[str]:
        """The digest of every image file, read once."""
        if not self._digests:
            self._digests = [self._digest(self._base / name) for name, _ in self._samples]
        return self._digests


def splits_with_classes(root: Path) -> list[str]:
    """Subfolders that hold class folders, or ``all`` if the class folders lie in ``root`` itself."""
    children = _subfolders(root)
    if any(_has_image(child) for child in children):
        return ["all"]
    return [child.name for child in children if any(_has_image(inner) for inner in _subfolders(child))]


def _label(
    folders: list[str], names: tuple[str, ...] | None, base: Path
) -> tuple[tuple[str, ...], list[int]]:
    """Class names, and the class index of each folder."""
    if names is None:
        return tuple(folders), list(range(len(folders)))
    where = str(base)
    if all(folder.isdecimal() for folder in folders):
        labels = [int(folder) for folder in folders]
        if max(labels) < len(names) and len(set(labels)) == len(labels):
            return names, labels
    if len(names) != len(folders):
        what = f"{CLASSNAMES} names {len(names)} classes, there are {len(folders)} class folders"
        raise DataError(what, where=where, remedy="One line a folder is needed, in the order of their names.")
    return names, list(range(len(folders)))


def _in_order(folders: list[str]) -> list[str]:
    if all(folder.isdecimal() for folder in folders):
        return sorted(folders, key=lambda folder: (int(folder), folder))
    return sorted(folders)


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _has_image(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(_is_image(Path(entry.name)) for entry in entries)


def _images(folder: Path) -> list[Path]:
    """Images in a folder and below it, in torchvision's order: folder by folder, names sorted."""
    return [
        Path(place) / name
        for place, _, names in sorted(os.walk(folder, followlinks=True))
        for name in sorted(names)
        if _is_image(Path(name))
    ]


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
