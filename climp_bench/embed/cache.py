"""Content-addressed store of embeddings: parts first, manifest last, digests checked on read.

::

    ROOT/{digest[:2]}/{digest}/part-00000.npy ...   float32 (n_part, P)
    ROOT/{digest[:2]}/{digest}/manifest.json        written last: its existence means the entry is whole
    ROOT/{digest[:2]}/{digest}.lock                 one writer at a time

A process killed in the middle leaves whole parts behind; the next run keeps them and goes on. Reading an
entry renews the time of its manifest, by which ``cache_admin`` knows what was used last.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import platformdirs
from filelock import FileLock, Timeout

from climp_bench.embed.key import EmbeddingKey
from climp_bench.errors import CacheError
from climp_bench.files import write_atomic, write_text

Array = npt.NDArray[np.float32]
LOCK_SECONDS = 600
MANIFEST = "manifest.json"


def default_root() -> Path:
    """``$CLIMP_BENCH_HOME/embeddings``, else the user's cache folder."""
    home = os.environ.get("CLIMP_BENCH_HOME")
    return (Path(home) if home else Path(platformdirs.user_cache_dir("climp-bench"))) / "embeddings"


class CacheEntry:
    """The place of one embedding array. Parts are blocks of consecutive rows.

    Args:
        root: the cache's folder.
        key: what the array depends on.
        label: what people call it, such as the data set's name; no part of the key.
    """

    def __init__(self, root: Path, key: EmbeddingKey, label: str = "") -> None:
        self.key, self.label = key, label
        digest = key.digest()
        self.folder = root / digest[:2] / digest
        self._lock = FileLock(str(self.folder) + ".lock")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the entry for writing. A second process waits; what the first wrote is then reused.

        Raises:
            CacheError: the lock was not released within ten minutes, or the folder cannot be made.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=LOCK_SECONDS)
        except Timeout as error:
            remedy = "Wait for the other run, or choose another --cache."
            raise CacheError(
                "another process is writing it", where=str(self.folder), remedy=remedy
            ) from error
        except OSError as error:
            remedy = "Choose another folder with --cache."
            raise CacheError(f"cannot be written ({error})", where=str(self.folder), remedy=remedy) from error
        try:
            yield
        finally:
            self._lock.release()

    def complete(self) -> bool:
        """Whether the manifest is there."""
        return (self.folder / MANIFEST).is_file()

    def read_part(self, index: int) -> Array | None:
        """A finished part, or None. A part whose content does not match its digest counts as absent."""
        path = self._part(index)
        try:
            content = path.read_bytes()
            wanted = path.with_suffix(".sha256").read_text()
        except (FileNotFoundError, UnicodeDecodeError):
            return None
        except OSError as error:
            raise CacheError(f"cannot be read ({error})", where=str(path)) from error
        if hashlib.sha256(content).hexdigest() != wanted:
            return None
        return _parse(content)

    def write_part(self, index: int, rows: Array) -> None:
        """Store one part; its digest is written after it."""
        buffer = io.BytesIO()
        np.save(buffer, rows, allow_pickle=False)
        content = buffer.getvalue()
        path = self._part(index)
        write_atomic(path, lambda handle: handle.write(content), CacheError)
        write_text(path.with_suffix(".sha256"), hashlib.sha256(content).hexdigest(), CacheError)

    def finish(self, n_parts: int, n_rows: int) -> None:
        """Write the manifest: from now on the entry is whole."""
        digests = [self._part(i).with_suffix(".sha256").read_text() for i in range(n_parts)]
        manifest = {"key": asdict(self.key), "label": self.label, "rows": n_rows, "parts": digests}
        write_text(self.folder / MANIFEST, json.dumps(manifest, indent=1), CacheError)

    def read(self) -> Array:
        """All rows, shape (N, P).

        Raises:
            CacheError: a part is missing, does not match its digest, or the count is off. The entry is
                then not whole any more: its manifest is removed, so that the next run repairs it.
        """
        try:
            manifest = json.loads((self.folder / MANIFEST).read_text())
            if not isinstance(manifest, dict):
                raise ValueError("its manifest is not one")
            parts = [self._checked(i, digest) for i, digest in enumerate(manifest["parts"])]
            rows = np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)
            if len(rows) != manifest["rows"]:
                raise ValueError(f"{len(rows)} rows instead of {manifest['rows']}")
            if manifest["key"] != asdict(self.key):
                raise ValueError("its manifest is of another key")
        except (OSError, ValueError, KeyError, TypeError) as error:
            with suppress(OSError):
                (self.folder / MANIFEST).unlink()
            raise CacheError(
                f"the stored embeddings are damaged ({error})",
                where=str(self.folder),
                remedy="Run the command again: the damaged part is made anew.",
            ) from error
        with suppress(OSError):
            os.utime(self.folder / MANIFEST)
        return rows

    def _checked(self, index: int, digest: str) -> Array:
        content = self._part(index).read_bytes()
        if hashlib.sha256(content).hexdigest() != digest:
            with suppress(OSError):
                self._part(index).unlink()
            raise ValueError(f"part {index} does not match its digest")
        return _parse(content)

    def _part(self, index: int) -> Path:
        return self.folder / f"part-{index:05d}.npy"


def _parse(content: bytes) -> Array:
    rows: Array = np.load(io.BytesIO(content), allow_pickle=False)
    return rows
