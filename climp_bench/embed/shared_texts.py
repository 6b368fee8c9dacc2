"""Texts that several lists share are encoded once: a list takes over the rows that other lists have.

Beside the parts of a list of texts lie its texts' digests. ImageNet-A's prompts are among ImageNet's, so they
are copied from there; an entry stays whole by itself, whatever becomes of the one it copied from.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from climp_bench.embed.cache import MANIFEST, Array, CacheEntry
from climp_bench.embed.key import EmbeddingKey
from climp_bench.errors import CacheError
from climp_bench.files import write_atomic

NAME = "texts.npy"
_BYTES = 16
_SEAL = 32
"""The file ends with the sha256 of what comes before."""


def digests(texts: Sequence[str]) -> npt.NDArray[np.void]:
    """The first 16 bytes of each text's sha256, shape (M,)."""
    joined = b"".join(hashlib.sha256(text.encode()).digest()[:_BYTES] for text in texts)
    kind = np.dtype((np.void, _BYTES))
    return np.frombuffer(joined, kind) if joined else np.empty(0, kind)


def write_texts(entry: CacheEntry, texts: Sequence[str]) -> None:
    """Note which texts the rows of ``entry`` are of. Call it before ``entry.finish``."""
    buffer = io.BytesIO()
    np.save(buffer, digests(texts), allow_pickle=False)
    content = buffer.getvalue()
    seal = hashlib.sha256(content).digest()
    write_atomic(entry.folder / NAME, lambda handle: handle.write(content + seal), CacheError)


def known_rows(root: Path, key: EmbeddingKey, texts: Sequence[str]) -> dict[str, Array]:
    """The rows of those ``texts`` that another list of the same model holds, by text.

    Args:
        root: the cache's folder.
        key: of the list that is to be made.
        texts: distinct.
    """
    found: dict[str, Array] = {}
    lists = list(_lists(root, key)) if texts else []
    if not lists:
        return found
    wanted = {digest.tobytes(): text for digest, text in zip(digests(texts), texts, strict=True)}
    for folder, other in lists:
        if not wanted:
            break
        places = [(k, d) for k, digest in enumerate(_read(folder)) if (d := digest.tobytes()) in wanted]
        if places:
            with suppress(CacheError):
                rows = CacheEntry(root, other).read()
                found |= {wanted.pop(digest): rows[k] for k, digest in places}
    return found


def _lists(root: Path, key: EmbeddingKey) -> Iterator[tuple[Path, EmbeddingKey]]:
    """Whole lists of texts whose keys differ from ``key`` in the texts alone."""
    for path in sorted(root.glob(f"*/*/{NAME}")):
        with suppress(OSError, ValueError, KeyError, TypeError):
            stored = json.loads((path.parent / MANIFEST).read_text(encoding="utf-8"))["key"]
            other = replace(key, data=stored["data"])
            if stored == asdict(other) and other != key:
                yield path.parent, other


def _read(folder: Path) -> npt.NDArray[np.void]:
    """The digests in a folder; none if they are damaged."""
    with suppress(OSError, ValueError):
        content = (folder / NAME).read_bytes()
        body, seal = content[:-_SEAL], content[-_SEAL:]
        if hashlib.sha256(body).digest() == seal:
            found: npt.NDArray[np.void] = np.load(io.BytesIO(body), allow_pickle=False)
            return found
    return digests([])
