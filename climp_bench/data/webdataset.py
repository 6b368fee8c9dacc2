"""Local folders in the CLIP-Benchmark webdataset layout (``webdataset_builder.py`` at 48de38c).

::

    {split}/nshards.txt    one integer
    {split}/{0..n-1}.tar   members KEY.{webp,png,jpg,jpeg} + KEY.{cls|npy|txt}
    classnames.txt         one class a line; blank lines count (CLEVR-distance has one)
    zeroshot_classification_templates.txt
    dataset_type.txt       retrieval | multilabel; absent means classification

Each tar is read once to index its members by offset; images are then read by index in any order.
"""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import numpy as np

from climp_bench.data.dataset import Dataset, Image
from climp_bench.data.decoding import OR_SKIP, decode
from climp_bench.data.textfiles import CLASSNAMES, read_classnames, read_templates, read_text
from climp_bench.errors import DataError
from climp_bench.files import Digest, sha256_file
from climp_bench.specs import TaskKind

IMAGE_SUFFIXES = ("webp", "png", "jpg", "jpeg")
TARGET_SUFFIX: dict[TaskKind, str] = {"classification": "cls", "multilabel": "npy", "retrieval": "txt"}
_MEMBER = re.compile(r"((?:.*/)?[^./][^.]*)\.([^/]*)")
"""Key and suffix, split as the webdataset library does: at the first dot of the file's own name."""
_MOST_SHARDS = 100_000
"""A larger ``nshards.txt`` is a mistake; looking for that many files would look like a hang."""


@dataclass
class _Sample:
    shard: Path
    key: str
    members: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def image_suffix(self) -> str | None:
        return next((s for s in IMAGE_SUFFIXES if s in self.members), None)


class WebDataset(Dataset):
    """A folder of tar shards.

    Args:
        root: the data set's folder.
        split: subfolder with ``nshards.txt`` and the tars.
        name: the data set's name; the folder's name unless given.
        digest: sha256 of a shard, for sources that know it without reading.

    Raises:
        DataError: no such folder, shards missing or too many, a truncated tar, a sample without image or
            target, duplicate keys. The message names the file and the member.
    """

    def __init__(
        self, root: Path, split: str = "test", name: str | None = None, digest: Digest = sha256_file
    ) -> None:
        self.root = Path(root)
        self.name = name or self.root.name
        self.split = split
        self.kind = _read_kind(self.root)
        shards = _list_shards(self.root / split)
        self._samples = [sample for shard in shards for sample in _index_shard(shard)]
        _check_keys(self._samples)
        _check_members(self._samples, TARGET_SUFFIX[self.kind])
        self.n_expected = len(self._samples)
        if self.kind != "retrieval":
            self.classes = _classes(self.root)
            self.templates = read_templates(self.root)
        self._shards, self._digest = shards, digest
        self._fingerprint: str | None = None

    def __len__(self) -> int:
        return len(self._samples)

    def item_id(self, index: int) -> str:
        sample = self._samples[index]
        return f"{sample.shard.name}:{sample.key}"

    def image(self, index: int, size: tuple[int, int]) -> Image:
        suffix = self._samples[index].image_suffix or ""
        return decode(
            self._read(index, suffix),
            where=f"{self.name}: {self.item_id(index)}.{suffix} (image {index})",
            remedy=f"Replace that member or fetch the shard again. {OR_SKIP}",
        )

    def label(self, index: int) -> int:
        if self.kind != "classification":
            return super().label(index)
        text = self._read(index, "cls").strip()
        try:
            return int(text)
        except ValueError as error:
            where = f"{self.name}: {self.item_id(index)}.cls"
            raise DataError(f"the label is not an integer ({text[:20]!r})", where=where) from error

    def positives(self, index: int) -> tuple[int, ...]:
        if self.kind != "multilabel":
            return super().positives(index)
        where = f"{self.name}: {self.item_id(index)}.npy"
        try:
            hot = np.load(io.BytesIO(self._read(index, "npy")), allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise DataError(f"the targets cannot be read ({error})", where=where) from error
        if hot.shape != (len(self.classes),):
            raise DataError(f"targets of shape {hot.shape} for {len(self.classes)} classes", where=where)
        if hot.dtype.kind not in "biuf" or not np.isin(hot, (0, 1)).all():
            remedy = "A multi-hot vector is needed: 1 where the class is present, else 0."
            raise DataError("the targets are not all 0 or 1", where=where, remedy=remedy)
        return tuple(int(c) for c in np.flatnonzero(hot))

    def captions(self, index: int) -> tuple[str, ...]:
        if self.kind != "retrieval":
            return super().captions(index)
        try:
            text = self._read(index, "txt").decode("utf-8")
        except UnicodeDecodeError as error:
            where = f"{self.name}: {self.item_id(index)}.txt"
            raise DataError(f"the captions are not UTF-8 ({error})", where=where) from error
        return tuple(text.splitlines())

    def source_fingerprint(self) -> str:
        if self._fingerprint is None:
            joined = "".join(self._digest(shard) for shard in self._shards)
            self._fingerprint = hashlib.sha256(joined.encode()).hexdigest()
        return self._fingerprint

    def _read(self, index: int, suffix: str) -> bytes:
        sample = self._samples[index]
        offset, size = sample.members[suffix]
        try:
            with sample.shard.open("rb") as handle:
                handle.seek(offset)
                content = handle.read(size)
        except OSError as error:
            raise DataError(f"cannot be read ({error})", where=str(sample.shard)) from error
        if len(content) != size:
            raise DataError("the shard ends in the middle of a member", where=self.item_id(index))
        return content


def _read_kind(root: Path) -> TaskKind:
    if not root.is_dir():
        raise DataError("no such data set folder", where=str(root), remedy="Check --data-root.")
    path = root / "dataset_type.txt"
    if not path.is_file():
        return "classification"
    text = read_text(path).strip().lower()
    for kind in get_args(TaskKind):
        if text == kind:
            return kind  # type: ignore[no-any-return]
    raise DataError(f"unknown type {text!r}", where=str(path), remedy="Use retrieval or multilabel.")


def _classes(root: Path) -> tuple[str, ...]:
    classes = read_classnames(root)
    if classes is None:
        where = str(root / CLASSNAMES)
        raise DataError("missing", where=where, remedy="One class name a line is needed.")
    return classes


def _list_shards(folder: Path) -> list[Path]:
    count_file = folder / "nshards.txt"
    remedy = "The file says how many tars the split has; without it a partial copy looks whole."
    if not count_file.is_file():
        raise DataError("missing", where=str(count_file), remedy=remedy)
    text = read_text(count_file).strip()
    if not text.isdecimal() or len(text) > 9 or not 0 < int(text) <= _MOST_SHARDS:
        raise DataError(f"not a number of shards: {text!r}", where=str(count_file), remedy=remedy)
    names = [f"{i}.tar" for i in range(int(text))]
    missing = [name for name in names if not (folder / name).is_file()]
    extra = sorted({path.name for path in folder.glob("*.tar")} - set(names))
    if missing or extra:
        detail = [f"missing {', '.join(missing[:5])}"] * bool(missing) + [
            f"not counted {', '.join(extra[:5])}"
        ] * bool(extra)
        raise DataError(
            f"nshards.txt says {text} shards: {'; '.join(detail)}",
            where=str(folder),
            remedy="Fetch the missing shards or correct nshards.txt.",
        )
    return [folder / name for name in names]


def _index_shard(shard: Path) -> list[_Sample]:
    samples: dict[str, _Sample] = {}
    size = shard.stat().st_size
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                if not member.isfile():
                    continue
                parts = _MEMBER.fullmatch(member.name)
                if parts is None:
                    continue
                key, suffix = parts.groups()
                key = key.removeprefix("./")
                sample = samples.setdefault(key, _Sample(shard, key))
                suffix = suffix.lower()
                if suffix in sample.members:
                    where = f"{shard}: {member.name}"
                    raise DataError("this member stands twice in the shard", where=where)
                if member.offset_data + member.size > size:
                    raise tarfile.ReadError(f"member {member.name} runs past the end of the file")
                sample.members[suffix] = (member.offset_data, member.size)
    except (tarfile.TarError, OSError) as error:
        remedy = "Fetch the shard again."
        raise DataError(f"not a readable tar ({error})", where=str(shard), remedy=remedy) from error
    if not samples:
        raise DataError("the shard is empty or cut off", where=str(shard), remedy="Fetch the shard again.")
    return list(samples.values())


def _check_keys(samples: list[_Sample]) -> None:
    first: dict[str, Path] = {}
    for sample in samples:
        if sample.key in first:
            where = f"{sample.shard.name} and {first[sample.key].name}"
            remedy = "Every sample needs a key of its own: one of the shards is probably a copy."
            raise DataError(f"sample id {sample.key!r} is used twice", where=where, remedy=remedy)
        first[sample.key] = sample.shard


def _check_members(samples: list[_Sample], target: str) -> None:
    for sample in samples:
        where = f"{sample.shard.name}:{sample.key}"
        if sample.image_suffix is None:
            raise DataError("a sample without an image", where=where, remedy=f"Found {list(sample.members)}.")
        if target not in sample.members:
            found = ", ".join(sample.members)
            remedy = f"Found {found}. Is dataset_type.txt right?"
            raise DataError(f"a sample without its .{target} member", where=where, remedy=remedy)
