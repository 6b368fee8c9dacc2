"""Tars of images and captions as pairs by number: where each lies is noted once, then read in any order.

::

    INDEX/{digest}.npy    int64 (N, 5): number of the shard, offset and size of the image, of the caption
    INDEX/{digest}.json   names and sizes of the shards

An order of training goes through the shards in windows: a shuffled handful of shards at a time, whose
samples are mixed. It depends on the seed, the epoch and the shards, never on who reads.
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from climp_bench.data.dataset import Image
from climp_bench.data.decoding import decode
from climp_bench.data.published import published
from climp_bench.data.webdataset import IMAGE_SUFFIXES
from climp_bench.errors import DataError
from climp_bench.files import write_atomic, write_text

Rows = npt.NDArray[np.int64]
ALL = "*.tar"
"""What a recipe's ``data.files`` is unless it says more."""
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_NAMED = 5  # missing shards that an error names


def expand(pattern: str) -> list[str]:
    """The names that ``{0000..0012}`` in a pattern stands for, every range with every other."""
    pieces = _RANGE.split(pattern)
    texts, ranges = pieces[::3], list(zip(pieces[1::3], pieces[2::3], strict=True))
    numbers = [
        [f"{i:0{len(low) if low[0] == '0' else 1}d}" for i in range(int(low), int(high) + 1)]
        for low, high in ranges
    ]
    return [
        "".join([texts[0], *(n + t for n, t in zip(ns, texts[1:], strict=True))]) for ns in product(*numbers)
    ]


def from_catalogue(data: Any) -> Any:
    """The values of a recipe's ``data``; shards with a name and no path are those that the catalogue names.

    Raises:
        ValueError: it names none so.
    """
    named = isinstance(data, dict) and data.get("source") == "shards" and data.get("name")
    if not named or data.get("path"):
        return data
    known = {entry.name: entry for entry in published() if entry.source == "shards"}
    if named not in known:
        raise ValueError(f"no shards of the catalogue are called {named!r} (known: {', '.join(known)})")
    entry, files = known[named], data.get("files", ALL)
    found = {"repo": entry.repo, "revision": entry.commit, **data}
    return {**found, "files": entry.files if files == ALL else files}


def find_shards(folder: Path, pattern: str) -> list[Path]:
    """The shards that a recipe names.

    Raises:
        DataError: the folder or one of them is missing, or nothing matches.
    """
    if not folder.is_dir():
        raise DataError(
            "no such folder of shards", where=str(folder), remedy="Say where: --set data.path=DIR."
        )
    if not _RANGE.search(pattern):
        found = sorted(path for path in folder.glob(pattern) if path.is_file())
        if not found:
            remedy = "Mend data.files, or fetch the shards."
            raise DataError(f"no shard is called {pattern}", where=str(folder), remedy=remedy)
        return found
    shards = [folder / name for name in expand(pattern)]
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        more = len(missing) - _NAMED
        named = ", ".join(missing[:_NAMED]) + (f" and {more} more" if more > 0 else "")
        raise DataError(
            f"{len(missing)} of {len(shards)} shards are missing: {named}", where=str(folder),
            remedy="Fetch them, or correct data.files: a run without them is another run.",
        )  # fmt: skip
    return shards


class ShardPairs:
    """Pairs of an image and its captions (one a line of ``KEY.txt``).

    Args:
        shards: the tars, in order.
        index: folder that remembers where samples lie; shards whose name, size or time changed are read anew.
        workers: processes that read the tars' headers.

    Raises:
        DataError: they are not readable tars, or hold no pair.
    """

    def __init__(self, shards: Sequence[Path], index: Path, workers: int = 1) -> None:
        self._shards = list(shards)
        facts = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in self._shards]
        self._table_path = index / f"{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]}.npy"
        index.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self._table_path}.lock"):
            if not self._table_path.is_file():
                _write_index(self._shards, self._table_path, facts, workers)
        self._table: Rows | None = None
        if not len(self):
            raise DataError(f"no pair in {len(self._shards)} shards", where=str(shards[0].parent),
                            remedy="A pair is KEY.jpg (or png, jpeg, webp) and KEY.txt.")  # fmt: skip
        self.fingerprint = hashlib.sha256(json.dumps([fact[:2] for fact in facts]).encode()).hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        """Other processes map the table anew: it can have millions of rows."""
        return {**self.__dict__, "_table": None}

    @property
    def table(self) -> Rows:
        """Where samples lie, see the module."""
        if self._table is None:
            self._table = np.load(self._table_path, mmap_mode="r", allow_pickle=False)
        return self._table

    def __len__(self) -> int:
        return len(self.table)

    def item(self, row: int) -> str:
        """A name for a sample that a user can find it by."""
        shard, offset = self.table[row, :2]
        return f"{self._shards[shard].name} at byte {offset}"

    def pair(self, row: int, size: tuple[int, int]) -> tuple[Image, tuple[str, ...]]:
        """The image, uint8 (H, W, 3), and its captions.

        Raises:
            DataError: the image is damaged, or there is no caption.
        """
        shard, at, length, text_at, text_length = self.table[row].tolist()
        with self._shards[shard].open("rb") as handle:
            handle.seek(at)
            content = handle.read(length)
            handle.seek(text_at)
            text = handle.read(text_length).decode("utf-8", "replace")
        captions = tuple(line for line in text.splitlines() if line.strip())
        if not captions:
            raise DataError("no caption", where=self.item(row), remedy="Every pair needs one.")
        return decode(content, where=self.item(row), remedy="Fetch the shard again."), captions

    def order(self, n: int, random: np.random.Generator, window: int) -> Rows:
        """The first ``n`` pairs in an order of training, see the module."""
        owners = np.asarray(self.table[:n, 0])
        bounds = np.searchsorted(owners, np.arange(len(self._shards) + 1))
        shuffled = random.permutation(len(self._shards))
        parts = []
        for start in range(0, len(shuffled), window):
            rows = [np.arange(bounds[s], bounds[s + 1]) for s in shuffled[start : start + window]]
            parts.append(random.permutation(np.concatenate(rows)))
        return np.concatenate(parts)


def _write_index(shards: Sequence[Path], path: Path, facts: Any, workers: int) -> None:
    rows = np.array([row for found in _indexed(shards, workers) for row in found], np.int64).reshape(-1, 5)
    write_atomic(path, partial(np.save, arr=rows), DataError)
    write_text(path.with_suffix(".json"), json.dumps(facts) + "\n", DataError)


def _indexed(shards: Sequence[Path], workers: int) -> Iterator[list[tuple[int, ...]]]:
    jobs = list(enumerate(shards))
    if workers < 2 or len(shards) < 8:
        yield from map(_index_shard, jobs)
        return
    with ProcessPoolExecutor(min(workers, len(jobs)), get_context("spawn")) as pool:
        yield from pool.map(_index_shard, jobs, chunksize=4)


def _index_shard(job: tuple[int, Path]) -> list[tuple[int, ...]]:
    """Rows of the table for one shard. Members that are no pair are left out, as in downloads they abound."""
    number, shard = job
    members: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                folder, _, name = member.name.rpartition("/")
                key, _, suffix = name.partition(".")
                kind = "image" if suffix.lower() in IMAGE_SUFFIXES else suffix.lower()
                if member.isfile() and kind in ("image", "txt"):
                    members.setdefault(f"{folder}/{key}", {})[kind] = (member.offset_data, member.size)
    except (tarfile.TarError, OSError) as error:
        remedy = "Fetch the shard again."
        raise DataError(f"not a readable tar ({error})", where=str(shard), remedy=remedy) from error
    end = shard.stat().st_size
    if any(at + size > end for found in members.values() for at, size in found.values()):
        raise DataError("the shard is cut off", where=str(shard), remedy="Fetch the shard again.")
    pairs = [found for found in members.values() if len(found) == 2]
    return [(number, *found["image"], *found["txt"]) for found in pairs]
