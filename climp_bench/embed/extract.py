"""Make embeddings: images are decoded once and encoded by every model that still needs them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from climp_bench.data.dataset import Dataset, digest_texts
from climp_bench.embed.batches import ImageBatch, device_of, encode_images, encode_tokens, image_batches
from climp_bench.embed.cache import CacheEntry
from climp_bench.embed.key import EmbeddingKey, face
from climp_bench.embed.lanes import Lanes, one_ahead
from climp_bench.embed.shared_texts import known_rows, write_texts
from climp_bench.errors import CacheError, ClimpError, MetricError
from climp_bench.models.adapters import Encoder
from climp_bench.ranks import Team

Array = npt.NDArray[np.float32]
Progress = Callable[[int], None]
log = logging.getLogger(__name__)

PART_IMAGES = 512
PART_TEXTS = 2048
"""Texts of a part on a CPU, which loses few if it is stopped."""
GPU_FIRST_TEXTS, GPU_PART_TEXTS = 4096, 32768
"""On a GPU a part has twice the texts of the one before, up to so many: soon there is something to encode,
and among many texts there are full batches of equal lengths."""


@dataclass(frozen=True)
class Embedded:
    """Rows and whether they came from the cache untouched."""

    rows: Array
    cached: bool


def image_key(dataset: Dataset, encoder: Encoder) -> EmbeddingKey:
    """The key of a data set's images under one model: captions, labels and prompts have no part in it."""
    return replace(face("image", encoder), data=dataset.images_fingerprint())


def text_key(texts: Sequence[str], encoder: Encoder) -> EmbeddingKey:
    """The key of a list of distinct texts under one model."""
    return replace(face("text", encoder), data=digest_texts(texts))


def embed_images(
    dataset: Dataset,
    encoders: Sequence[Encoder],
    root: Path,
    *,
    workers: int = 0,
    progress: Progress = lambda done: None,
    team: Team | None = None,
) -> dict[str, Embedded]:
    """Embed every image of ``dataset`` with every encoder, decoding each image once per input size.

    Args:
        root: the cache's folder.
        workers: processes that decode; 0 decodes in this one. The result does not depend on it.
        progress: called with the number of (image, model) pairs just finished, cached ones included.
        team: the ranks that share the work; the rows do not depend on it.

    Returns:
        Per encoder name: rows (N, P), unit norm, in the data set's order.

    Raises:
        DataError: an image cannot be read. MetricError: a model gives NaN. CacheError: the cache cannot
            be written. RankError: another rank is lost. What was finished before stays in the cache.
    """
    entries = {e.name: CacheEntry(root, image_key(dataset, e), dataset.name) for e in encoders}
    by_size: dict[tuple[int, int], list[Encoder]] = {}
    for encoder in encoders:
        by_size.setdefault(encoder.preprocess.size, []).append(encoder)
    result: dict[str, Embedded] = {}
    for size, group in by_size.items():
        missing = []
        for encoder in group:
            rows = _read_whole(entries[encoder.name])
            if rows is None:
                missing.append(encoder)
            else:
                result[encoder.name] = Embedded(rows, cached=True)
                progress(len(rows))
        if missing:
            rows_of = _fill(dataset, missing, entries, size, workers, progress, team)
            result |= {name: Embedded(rows, cached=False) for name, rows in rows_of.items()}
    return result


def _read_whole(entry: CacheEntry) -> Array | None:
    if not entry.complete():
        return None
    try:
        return entry.read()
    except CacheError as error:
        log.warning("%s: %s; they are made again now.", error.where, error.what)
        return None


def _fill(
    dataset: Dataset,
    encoders: Sequence[Encoder],
    entries: dict[str, CacheEntry],
    size: tuple[int, int],
    workers: int,
    progress: Progress,
    team: Team | None,
) -> dict[str, Array]:
    n = len(dataset)
    parts = [range(start, min(start + PART_IMAGES, n)) for start in range(0, n, PART_IMAGES)]
    by_name = {encoder.name: encoder for encoder in encoders}
    with ExitStack() as stack:
        for encoder in sorted(encoders, key=lambda e: entries[e.name].folder):
            stack.enter_context(entries[encoder.name].locked())
        todo: dict[int, list[Encoder]] = {}
        for encoder in encoders:
            for k, part in enumerate(parts):
                if entries[encoder.name].read_part(k) is None:
                    todo.setdefault(k, []).append(encoder)
                else:
                    progress(len(part))
        device = device_of(encoders)
        batches = [b for k in sorted(todo) for b in image_batches(k, parts[k], todo[k], device)]
        images = encode_images(dataset, batches, by_name, size, workers, team)
        with _writing() as write, closing(images) as done:
            for k, name, rows in _whole_parts(dataset, batches, done, progress):
                write(entries[name].write_part, k, rows)
        for encoder in encoders:
            entries[encoder.name].finish(len(parts), n)
        return {encoder.name: entries[encoder.name].read() for encoder in encoders}


def _whole_parts(
    dataset: Dataset,
    batches: Sequence[ImageBatch],
    done: Iterator[tuple[ImageBatch, str, Array]],
    progress: Progress,
) -> Iterator[tuple[int, str, Array]]:
    """Rows of whole parts, as (part, model, rows), each as soon as its last batch is there."""
    wanted = Counter(batch.part for batch in batches)
    pieces: dict[tuple[int, str], dict[int, Array]] = {}
    for batch, name, rows in done:
        bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        if bad.size:
            item = dataset.item_id(batch.indices[int(bad[0])])
            raise _not_finite(name, f"{dataset.name}: {item}")
        progress(len(rows))
        of_part = pieces.setdefault((batch.part, name), {})
        of_part[batch.indices.start] = rows
        if len(of_part) == wanted[batch.part]:
            whole = pieces.pop((batch.part, name))
            yield batch.part, name, np.concatenate([whole[start] for start in sorted(whole)])


def embed_texts(
    texts: Sequence[str],
    encoder: Encoder,
    root: Path,
    *,
    progress: Progress = lambda done: None,
    team: Team | None = None,
) -> Embedded:
    """Embed texts, each distinct one once, sorted by length and batched by a token budget.

    Causal towers with last-token pooling do not see right padding, so neither changes an embedding. What
    another list of the same model holds already, captions or prompts, is taken over from there.

    Returns:
        Rows (M, P), unit norm, in the order of ``texts``.
    """
    distinct = sorted(sorted(set(texts)), key=len)
    entry = CacheEntry(root, text_key(distinct, encoder))
    rows = _read_whole(entry)
    encoded = 0
    if rows is None:
        rows, encoded = _fill_texts(distinct, encoder, entry, root, progress, team)
    else:
        progress(len(distinct))
    row_of = {text: i for i, text in enumerate(distinct)}
    return Embedded(rows[[row_of[text] for text in texts]], cached=encoded == 0)


def _fill_texts(
    distinct: Sequence[str],
    encoder: Encoder,
    entry: CacheEntry,
    root: Path,
    progress: Progress,
    team: Team | None,
) -> tuple[Array, int]:
    """The rows, and how many texts were encoded for them."""
    encoded = 0
    with entry.locked():
        parts = list(_text_parts(distinct, encoder.device))
        stored = {k: rows for k in range(len(parts)) if (rows := entry.read_part(k)) is not None}
        missing = [k for k in range(len(parts)) if k not in stored]
        known = known_rows(root, entry.key, [text for k in missing for text in parts[k]])
        lists = [[text for text in parts[k] if text not in known] for k in missing]
        with _writing() as write, closing(_encoded(lists, encoder, progress, team)) as done:
            write(write_texts, entry, distinct)
            for k, (new, rows) in zip(missing, done, strict=True):
                encoded += len(new)
                if len(new) < len(parts[k]):
                    taken = dict(zip(new, rows, strict=True)) | {t: known[t] for t in parts[k] if t in known}
                    rows = np.stack([taken[text] for text in parts[k]])
                write(entry.write_part, k, rows)
                stored[k] = rows
        progress(len(distinct) - encoded)
        entry.finish(len(parts), len(distinct))
    whole = [stored[k] for k in range(len(parts))]
    return np.concatenate(whole) if whole else np.zeros((0, 0), np.float32), encoded


def _text_parts(texts: Sequence[str], device: str) -> Iterator[Sequence[str]]:
    """Change it together with ``key.CODE_VERSION``: a run that was stopped keeps the parts it has."""
    first, most = (PART_TEXTS, PART_TEXTS) if device == "cpu" else (GPU_FIRST_TEXTS, GPU_PART_TEXTS)
    start, size = 0, min(first, most)
    while start < len(texts):
        yield texts[start : start + size]
        start, size = start + size, min(2 * size, most)


@contextmanager
def _writing() -> Iterator[Callable[..., None]]:
    """Calls what writes while the caller encodes on; at the end all is written, or the error is raised."""
    with ThreadPoolExecutor(1, "write") as behind:
        written: Future[None] | None = None

        def write(function: Callable[..., None], *arguments: object) -> None:
            nonlocal written
            if written is not None:
                written.result()
            written = behind.submit(function, *arguments)

        yield write
        if written is not None:
            written.result()


def _encoded(
    lists: Sequence[list[str]], encoder: Encoder, progress: Progress, team: Team | None
) -> Generator[tuple[list[str], Array]]:
    """Each list of texts with its rows. The next is tokenised meanwhile, and on a GPU encoded, too."""

    def tokenize(texts: list[str]) -> list[list[int]]:
        return encoder.tokenize(texts) if texts else []

    def encode(job: tuple[list[str], list[list[int]]]) -> Array:
        return _encode_texts(*job, encoder, progress, team)

    with one_ahead("tokenize") as first, one_ahead("encode") as second:
        driver = second if encoder.device != "cpu" and team is None else Lanes(None, 0)
        for (texts, _), rows in driver.in_order(encode, first.in_order(tokenize, lists)):
            yield texts, rows


def _encode_texts(
    texts: Sequence[str],
    tokens: Sequence[list[int]],
    encoder: Encoder,
    progress: Progress,
    team: Team | None,
) -> Array:
    rows: Array | None = None
    with closing(encode_tokens(tokens, encoder, team)) as done:
        for batch, embeddings in done:
            bad = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
            if bad.size:
                raise _not_finite(encoder.name, f"text {texts[batch[int(bad[0])]]!r}")
            if rows is None:
                rows = np.empty((len(texts), embeddings.shape[1]), np.float32)
            rows[batch] = embeddings
            progress(len(batch))
    return rows if rows is not None else np.zeros((0, 0), np.float32)


def _not_finite(model: str, where: str) -> ClimpError:
    return MetricError(
        f"{model} gives an embedding that is not finite",
        where=where,
        remedy="Check the weights (`climp-bench models show`), or use --dtype float32.",
    )
