"""Make embeddings: images are decoded once and encoded by every model that still needs them."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from climp_bench.data.dataset import Dataset, Image, digest_texts
from climp_bench.embed.cache import CacheEntry
from climp_bench.embed.key import EmbeddingKey
from climp_bench.embed.lanes import open_lanes
from climp_bench.embed.loading import load_blocks
from climp_bench.errors import CacheError, ClimpError, MetricError
from climp_bench.models.adapters import Encoder

if TYPE_CHECKING:
    import torch

Array = npt.NDArray[np.float32]
Progress = Callable[[int], None]
log = logging.getLogger(__name__)

PART_IMAGES = 512
PART_TEXTS = 2048
_CPU_IMAGES, _GPU_IMAGES = 32, 64
_CPU_TOKENS, _GPU_TOKENS = 1024, 8192
"""Sizes of a batch. On a CPU the activations of one should stay in the cache of a core."""


@dataclass(frozen=True)
class Embedded:
    """Rows and whether they came from the cache untouched."""

    rows: Array
    cached: bool


def image_key(dataset: Dataset, encoder: Encoder) -> EmbeddingKey:
    """The key of a data set's images under one model."""
    data = [dataset.split, len(dataset), dataset.source_fingerprint(), dataset.name]
    return _key(
        "image",
        encoder,
        _image_transform(encoder),
        digest_texts([str(part) for part in data]),
    )


def _image_transform(encoder: Encoder) -> str:
    described = asdict(encoder.preprocess)
    if encoder.own_transform is not None:
        described["own_transform"] = encoder.own_transform.description
    return json.dumps(described, sort_keys=True)


def text_key(texts: Sequence[str], encoder: Encoder) -> EmbeddingKey:
    """The key of a list of distinct texts under one model."""
    return _key("text", encoder, encoder.text_transform, digest_texts(texts))


def _key(side: str, encoder: Encoder, transform: str, data: str) -> EmbeddingKey:
    return EmbeddingKey(
        side=side,
        weights=encoder.weights_digest,
        model=encoder.name,
        transform=transform,
        dtype=encoder.dtype,
        backend=",".join(f"{op}={name}" for op, name in sorted(encoder.backends.items())),
        device=encoder.device,
        data=data,
    )


def embed_images(
    dataset: Dataset,
    encoders: Sequence[Encoder],
    root: Path,
    *,
    workers: int = 0,
    progress: Progress = lambda done: None,
) -> dict[str, Embedded]:
    """Embed every image of ``dataset`` with every encoder, decoding each image once per input size.

    Args:
        root: the cache's folder.
        workers: processes that decode; 0 decodes in this one. The result does not depend on it.
        progress: called with the number of (image, model) pairs just finished, cached ones included.

    Returns:
        Per encoder name: rows (N, P), unit norm, in the data set's order.

    Raises:
        DataError: an image cannot be read. MetricError: a model gives NaN. CacheError: the cache cannot
            be written. What was finished before stays in the cache.
    """
    entries = {encoder.name: CacheEntry(root, image_key(dataset, encoder)) for encoder in encoders}
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
            _fill(dataset, missing, entries, size, workers, progress)
        for encoder in missing:
            result[encoder.name] = Embedded(entries[encoder.name].read(), cached=False)
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
) -> None:
    n = len(dataset)
    parts = [range(start, min(start + PART_IMAGES, n)) for start in range(0, n, PART_IMAGES)]
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
        batches = [
            _Batch(k, block, tuple(todo[k]))
            for k in sorted(todo)
            for block in _blocks(parts[k], _images_at_once(encoders))
        ]
        for k, encoder, rows in _encode_all(dataset, batches, size, workers, progress):
            entries[encoder.name].write_part(k, rows)
        for encoder in encoders:
            entries[encoder.name].finish(len(parts), n)


@dataclass(frozen=True)
class _Batch:
    """Images of one part that are decoded together and encoded by each of some encoders."""

    part: int
    indices: range
    encoders: tuple[Encoder, ...]


def _images_at_once(encoders: Sequence[Encoder]) -> int:
    return _CPU_IMAGES if _device(encoders) == "cpu" else _GPU_IMAGES


def _device(encoders: Sequence[Encoder]) -> str:
    return next((encoder.device for encoder in encoders if encoder.device != "cpu"), "cpu")


def _blocks(part: range, size: int) -> list[range]:
    return [part[start : start + size] for start in range(0, len(part), size)]


def _encode_all(
    dataset: Dataset, batches: Sequence[_Batch], size: tuple[int, int], workers: int, progress: Progress
) -> Iterator[tuple[int, Encoder, Array]]:
    """Rows of whole parts, as (part, encoder, rows), each as soon as its last batch is done."""
    if not batches:
        return

    def jobs() -> Iterator[tuple[_Batch, Encoder, list[Image]]]:
        loaded = load_blocks(dataset, [batch.indices for batch in batches], size, workers)
        for batch, images in zip(batches, loaded, strict=True):
            for encoder in batch.encoders:
                yield batch, encoder, images

    def encode(job: tuple[_Batch, Encoder, list[Image]]) -> Array:
        batch, encoder, images = job
        return _encode(dataset, batch.indices, images, encoder)

    last = {batch.part: batch for batch in batches}
    rows: dict[tuple[int, str], list[Array]] = {}
    encoders = batches[0].encoders
    images = sum(len(batch.indices) for batch in batches)
    with open_lanes(_device(encoders), math.ceil(images / _images_at_once(encoders))) as lanes:
        for (batch, encoder, _), done in lanes.in_order(encode, jobs()):
            progress(len(done))
            key = batch.part, encoder.name
            rows.setdefault(key, []).append(done)
            if batch is last[batch.part]:
                yield batch.part, encoder, np.concatenate(rows.pop(key))


def prepare(image: Image, encoder: Encoder) -> torch.Tensor:
    """uint8 (H, W, 3) -> float32 (3, h, w) as ``encoder`` wants it: by its own transform if it has one."""
    if encoder.own_transform is not None:
        return encoder.own_transform.apply(image)
    from climp_bench.data.transforms import to_tensor

    return to_tensor(image, encoder.preprocess)


def _encode(dataset: Dataset, indices: range, images: Sequence[Image], encoder: Encoder) -> Array:
    rows = encoder.encode_images([prepare(image, encoder) for image in images])
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if bad.size:
        item = dataset.item_id(indices[int(bad[0])])
        raise _not_finite(encoder, f"{dataset.name}: {item}")
    return rows


def embed_texts(
    texts: Sequence[str], encoder: Encoder, root: Path, *, progress: Progress = lambda done: None
) -> Embedded:
    """Embed texts, each distinct one once, sorted by length and batched by a token budget.

    Causal towers with last-token pooling do not see right padding, so neither changes an embedding.

    Returns:
        Rows (M, P), unit norm, in the order of ``texts``.
    """
    distinct = sorted(set(texts), key=lambda text: (len(text), text))
    entry = CacheEntry(root, text_key(distinct, encoder))
    rows = _read_whole(entry)
    cached = rows is not None
    if rows is None:
        rows = _fill_texts(distinct, encoder, entry, progress)
    else:
        progress(len(distinct))
    row_of = {text: i for i, text in enumerate(distinct)}
    return Embedded(rows[[row_of[text] for text in texts]], cached)


def _fill_texts(distinct: Sequence[str], encoder: Encoder, entry: CacheEntry, progress: Progress) -> Array:
    starts = range(0, len(distinct), PART_TEXTS)
    with entry.locked():
        for k, start in enumerate(starts):
            part = distinct[start : start + PART_TEXTS]
            if entry.read_part(k) is None:
                entry.write_part(k, _encode_texts(part, encoder, progress))
            else:
                progress(len(part))
        entry.finish(len(starts), len(distinct))
    return entry.read()


def _encode_texts(texts: Sequence[str], encoder: Encoder, progress: Progress) -> Array:
    tokens = encoder.tokenize(texts)
    order = [int(i) for i in np.argsort([len(t) for t in tokens], kind="stable")]
    batches = list(_by_budget(order, tokens, _CPU_TOKENS if encoder.device == "cpu" else _GPU_TOKENS))

    def encode(batch: list[int]) -> Array:
        embeddings = encoder.encode_tokens([tokens[i] for i in batch])
        bad = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
        if bad.size:
            raise _not_finite(encoder, f"text {texts[batch[int(bad[0])]]!r}")
        return embeddings

    rows: Array | None = None
    with open_lanes(encoder.device, len(batches)) as lanes:
        for batch, embeddings in lanes.in_order(encode, batches):
            if rows is None:
                rows = np.empty((len(texts), embeddings.shape[1]), np.float32)
            rows[batch] = embeddings
            progress(len(batch))
    return rows if rows is not None else np.zeros((0, 0), np.float32)


def _by_budget(order: Sequence[int], tokens: Sequence[list[int]], budget: int) -> Iterator[list[int]]:
    """Batches of indices, shortest texts first, whose padded size stays within the token budget."""
    batch: list[int] = []
    for index in order:
        if batch and (len(batch) + 1) * len(tokens[index]) > budget:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _not_finite(encoder: Encoder, where: str) -> ClimpError:
    return MetricError(
        f"{encoder.name} gives an embedding that is not finite",
        where=where,
        remedy="Check the weights (`climp-bench models show`), or use --dtype float32.",
    )
