"""Look after a cache of embeddings: what is in it, what can go, and whether it is still what was written.

Safe beside a running evaluation: an entry is removed or judged damaged only while its lock is held, an entry
that another process writes is left alone, and one that a reader loses in the middle is made again by it. Lock
files (empty) stay: a process may be waiting on them.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

import numpy as np
from filelock import FileLock, Timeout

from climp_bench.embed.cache import MANIFEST
from climp_bench.embed.key import EmbeddingKey
from climp_bench.errors import CacheError
from climp_bench.files import sha256_file

State = Literal["whole", "unfinished", "damaged"]
_HEX = frozenset("0123456789abcdef")
_TRASH = ".trash-"


@dataclass(frozen=True)
class StoredEntry:
    """One array of embeddings as it lies in the cache.

    Attributes:
        folder: its place; the name is the digest of its key.
        state: ``unfinished`` has no manifest (yet): its parts serve the next run of the same. ``damaged`` has
            one that cannot be read.
        key: what the embeddings depend on; known of whole entries only.
        label: the data set's name (images), else empty.
        rows: number of images or texts; 0 unless whole.
        parts: digest of every part, in order.
        bytes: size of all its files.
        used: when it was made or last read, seconds since the epoch.
    """

    folder: Path
    state: State
    key: EmbeddingKey | None
    label: str
    rows: int
    parts: tuple[str, ...]
    bytes: int
    used: float

    @property
    def digest(self) -> str:
        """The digest of the key, as the folder's name states it."""
        return self.folder.name

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of the input in pixels; None for texts."""
        if self.key is None or self.key.side != "image":
            return None
        with suppress(ValueError, KeyError, TypeError):
            height, width = json.loads(self.key.transform)["size"]
            return int(height), int(width)
        return None


def entries(root: Path) -> list[StoredEntry]:
    """Everything in the cache, last used first; nothing if there is no cache.

    Raises:
        CacheError: the folder cannot be read.
    """
    try:
        folders = [
            folder
            for shelf in (sorted(root.iterdir()) if root.is_dir() else [])
            if len(shelf.name) == 2 and shelf.is_dir()
            for folder in sorted(shelf.iterdir())
            if len(folder.name) == 64 and _HEX.issuperset(folder.name) and folder.is_dir()
        ]
        found = [entry for folder in folders if (entry := _look(folder)) is not None]
    except OSError as error:
        raise CacheError(f"cannot be read ({error.strerror})", where=str(root)) from error
    return sorted(found, key=lambda entry: (-entry.used, entry.digest))


def _look(folder: Path) -> StoredEntry | None:
    """The entry in ``folder``; None if it has gone meanwhile or holds nothing yet."""
    sizes, times = [], []
    with suppress(FileNotFoundError):
        for file in folder.iterdir():
            with suppress(FileNotFoundError):
                status = file.stat()
                sizes.append(status.st_size)
                times.append(status.st_mtime)
    if not sizes:
        return None
    state, key, label, rows, parts = _manifest(folder / MANIFEST)
    return StoredEntry(folder, state, key, label, rows, parts, sum(sizes), max(times))


def _manifest(path: Path) -> tuple[State, EmbeddingKey | None, str, int, tuple[str, ...]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        names = {field.name for field in fields(EmbeddingKey)}
        if set(content["key"]) != names:
            raise ValueError("a key of another shape")
        key = EmbeddingKey(**content["key"])
        parts = tuple(str(digest) for digest in content["parts"])
        return "whole", key, str(content.get("label", "")), int(content["rows"]), parts
    except FileNotFoundError:
        return "unfinished", None, "", 0, ()
    except (ValueError, KeyError, TypeError, AttributeError):
        return "damaged", None, "", 0, ()


def fault(entry: StoredEntry) -> str | None:
    """What is wrong with an entry, or None: every part is read and held against the digest kept for it.

    Of an unfinished entry, a part without a digest is no fault: it is made again.
    """
    if entry.state == "damaged":
        return "its manifest cannot be read"
    if entry.key is None:
        for mark in sorted(entry.folder.glob("part-*.sha256")):
            part = mark.with_suffix(".npy")
            if (found := _part_fault(part, mark.read_text(errors="replace"))) is not None:
                return found
        return None
    if entry.key.digest() != entry.digest:
        return "its manifest is of another key"
    for index, digest in enumerate(entry.parts):
        part = entry.folder / f"part-{index:05d}.npy"
        if (found := _part_fault(part, digest)) is not None:
            return found
    rows = sum(_rows(entry.folder / f"part-{k:05d}.npy") for k in range(len(entry.parts)))
    return None if rows == entry.rows else f"{rows} rows instead of {entry.rows}"


def _part_fault(part: Path, wanted: str) -> str | None:
    try:
        digest = sha256_file(part)
    except FileNotFoundError:
        return f"{part.name} is missing"
    except OSError as error:
        return f"{part.name} cannot be read ({error.strerror})"
    return None if digest == wanted else f"{part.name} does not match its digest"


def _rows(part: Path) -> int:
    return int(np.load(part, mmap_mode="r", allow_pickle=False).shape[0])


def verify(entry: StoredEntry, *, delete: bool = False) -> str | None:
    """``fault``, made sure of while nobody writes the entry; None also where somebody does.

    Args:
        delete: remove the entry if it is bad.

    Raises:
        CacheError: it is bad and cannot be removed.
    """
    found = fault(entry)
    if found is None or (not delete and not os.access(entry.folder, os.W_OK)):
        return found
    with _lock(entry.folder) as mine:
        now = _look(entry.folder) if mine else None
        found = fault(now) if now is not None else None
        if found is not None and delete:
            _remove(entry.folder)
    return found


@dataclass(frozen=True)
class Policy:
    """What may go.

    Attributes:
        older_than: seconds since an entry was made or last read; None keeps any age.
        max_bytes: what may stay in all; those used longest ago go first. None is no limit.
        models: globs of model names whose embeddings go.
        present: weights digests that are here still: embeddings of ``known`` models by others go. None does
            not ask.
        known: the models whose weights are kept in the local store; other libraries' models are not.
        unfinished_after: seconds after which what an interrupted run left is given up.
    """

    older_than: float | None = None
    max_bytes: int | None = None
    models: tuple[str, ...] = ()
    present: AbstractSet[str] | None = None
    known: AbstractSet[str] = frozenset()
    unfinished_after: float = 86_400.0


@dataclass(frozen=True)
class Doomed:
    """An entry that a policy lets go, and why."""

    entry: StoredEntry
    reason: str


def choose(found: Sequence[StoredEntry], policy: Policy, now: float) -> list[Doomed]:
    """The entries that go under ``policy``, used longest ago first. Nothing is touched."""
    doomed = {}
    for entry in found:
        reason = _reason(entry, policy, now)
        if reason is not None:
            doomed[entry.digest] = Doomed(entry, reason)
    if policy.max_bytes is not None:
        kept = 0
        for entry in sorted(found, key=lambda entry: -entry.used):
            if entry.digest in doomed:
                continue
            kept += entry.bytes
            if kept > policy.max_bytes:
                doomed[entry.digest] = Doomed(entry, "over the size")
    return sorted(doomed.values(), key=lambda one: (one.entry.used, one.entry.digest))


def _reason(entry: StoredEntry, policy: Policy, now: float) -> str | None:
    age = now - entry.used
    if entry.state == "damaged":
        return "damaged"
    if entry.key is None:
        return "left by an interrupted run" if age > policy.unfinished_after else None
    model = entry.key.model
    if any(fnmatchcase(model, pattern) for pattern in policy.models):
        return "model named"
    if policy.present is not None and model in policy.known and entry.key.weights not in policy.present:
        return "its weights are gone"
    if policy.older_than is not None and age > policy.older_than:
        return "not used for long"
    return None


def remove(entry: StoredEntry) -> bool:
    """Remove an entry unless another process writes it or has used it since it was looked at.

    Raises:
        CacheError: the cache cannot be written.
    """
    with _lock(entry.folder) as mine:
        now = _look(entry.folder) if mine else None
        if now is None or now.used > entry.used:
            return False
        _remove(entry.folder)
    return True


def leftovers(root: Path) -> list[Path]:
    """Temporary files of writes that were killed (their entry is not locked), and half-removed entries.

    Raises:
        CacheError: there are some, and the cache cannot be written.
    """
    found = [*root.glob(f"??/{_TRASH}*")]
    for folder in sorted({path.parent for path in root.glob("??/*/.*")}):
        if folder.name.startswith(_TRASH):
            continue
        with _lock(folder) as mine:
            if mine:
                found += [path for path in sorted(folder.glob(".*")) if path.is_file()]
    return sorted(found)


def weights_here() -> tuple[frozenset[str], frozenset[str]]:
    """Digests of the weights in the local stores, and the names of all models that are looked for there."""
    from climp_bench.models.catalogue import all_models
    from climp_bench.models.store import locate

    specs = all_models()
    stored = [ref.digest for spec in specs if (ref := locate(spec)) is not None]
    return frozenset(stored), frozenset(spec.name for spec in specs)


def sweep_up(paths: Sequence[Path]) -> int:
    """Remove ``leftovers``; how many bytes that freed.

    Raises:
        CacheError: the cache cannot be written.
    """
    freed = 0
    for path in paths:
        try:
            files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
            size = sum(file.stat().st_size for file in files)
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise _read_only(path, error) from error
        freed += size
    return freed


@contextmanager
def _lock(folder: Path) -> Iterator[bool]:
    """Hold the lock of an entry; yields False if another process has it."""
    lock = FileLock(str(folder) + ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    except OSError as error:
        raise _read_only(folder, error) from error
    try:
        yield True
    finally:
        lock.release()


def _remove(folder: Path) -> None:
    """Out of the way in one step, then gone: no reader finds half an entry."""
    trash = folder.with_name(f"{_TRASH}{folder.name}-{os.getpid()}")
    try:
        folder.rename(trash)
        shutil.rmtree(trash)
    except OSError as error:
        raise _read_only(folder, error) from error


def _read_only(path: Path, error: OSError) -> CacheError:
    remedy = "Check who may write there, or name another folder with --cache."
    return CacheError(f"cannot be removed ({error.strerror})", where=str(path), remedy=remedy)
