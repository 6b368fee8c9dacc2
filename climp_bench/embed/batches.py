"""Encode batches, here or shared out among the ranks of a team.

The batches are the same for any number of ranks, and so are the embeddings.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from climp_bench.data.dataset import Dataset, Image
from climp_bench.embed.key import EmbeddingKey, face
from climp_bench.embed.lanes import open_lanes, open_preparers
from climp_bench.embed.loading import in_processes, load_blocks
from climp_bench.embed.views import View, Viewer, pixels_of, viewer_for
from climp_bench.errors import BackendError
from climp_bench.models.adapters import Encoder
from climp_bench.ranks import Team, split

if TYPE_CHECKING:
    import torch

Array = npt.NDArray[np.float32]
_CPU_IMAGES, _CPU_TOKENS = 32, 1024
"""Sizes of a batch on a CPU, where the activations of one should stay in the cache of a core."""
_GPU_PIXELS, _GPU_TOKENS = 256 * 224 * 224, 65536
"""The same for a GPU, which small batches leave idle; one of less than ``_GPU_MEMORY`` takes a share."""
_FEWEST, _MOST = 8, 512
"""Images of a batch on a GPU, whatever their size."""
_FULL, _PADDING = 1 / 4, 1 / 32
"""A batch of texts that holds so much of its budget ends where more than so much of it would be padding."""
_GPU_MEMORY = 40e9


@dataclass(frozen=True)
class ImageBatch:
    """Images of one part that are decoded together and encoded by each of some models, named."""

    part: int
    indices: range
    models: tuple[str, ...]


_Job = tuple[ImageBatch, tuple[str, ...], list[View]]
"""A batch, models that are to encode it and want the same of it, and its decoded images."""


@dataclass(frozen=True)
class _ImageWork:
    """What all ranks do together: their ``shares``, by rank; ``faces`` says which models are meant."""

    dataset: Dataset
    size: tuple[int, int]
    workers: int
    faces: Mapping[str, EmbeddingKey]
    shares: Sequence[Sequence[ImageBatch]]


@dataclass(frozen=True)
class _TextWork:
    """As ``_ImageWork``, of one model; a batch is its number and the token ids of its texts."""

    model: str
    context_length: int | None
    face: EmbeddingKey
    shares: Sequence[Sequence[tuple[int, list[list[int]]]]]


def image_batches(part: int, indices: range, encoders: Sequence[Encoder], device: str) -> list[ImageBatch]:
    """The batches of one part."""
    size = _images_at_once(device, encoders[0].preprocess.size)
    models = tuple(encoder.name for encoder in encoders)
    starts = range(0, len(indices), size)
    return [ImageBatch(part, indices[start : start + size], models) for start in starts]


def encode_images(
    dataset: Dataset,
    batches: Sequence[ImageBatch],
    encoders: Mapping[str, Encoder],
    size: tuple[int, int],
    workers: int,
    team: Team | None = None,
) -> Generator[tuple[ImageBatch, str, Array]]:
    """The rows of every batch under each of its models, as (batch, model, rows (B, P)).

    In order if this process does it all; with a team, in the order in which they are made.
    """
    if team is None or len(batches) < team.size:
        yield from _encode_images(dataset, batches, encoders, size, workers)
        return
    shares = split(batches, team.size)
    faces = {name: face("image", encoder) for name, encoder in encoders.items()}
    work = _ImageWork(dataset, size, workers, faces, shares)
    yield from team.share(work, _encode_images(dataset, shares[0], encoders, size, workers))


def encode_tokens(
    tokens: Sequence[list[int]], encoder: Encoder, team: Team | None = None
) -> Generator[tuple[list[int], Array]]:
    """Texts by length in batches of a token budget, as (their indices, rows (B, P))."""
    order = [int(i) for i in np.argsort([len(t) for t in tokens], kind="stable")]
    batches = list(_by_budget(order, tokens, _tokens_at_once(encoder.device)))
    numbered = [(k, [tokens[i] for i in batch]) for k, batch in enumerate(batches)]
    if team is None or len(batches) < team.size:
        done = _encode_tokens(numbered, encoder)
    else:
        shares = split(numbered, team.size)
        work = _TextWork(encoder.name, encoder.context_length, face("text", encoder), shares)
        done = team.share(work, _encode_tokens(shares[0], encoder))
    for k, rows in done:
        yield batches[k], rows


def do_share(work: object, rank: int, encoders: Mapping[str, Encoder]) -> Generator[object]:
    """A helper's share of what another rank shares out.

    Args:
        work: as it came.
        rank: of this process.
        encoders: the models of the run, by name.

    Raises:
        BackendError: a model here is not the one that is meant: other weights, say, or another backend.
    """
    if isinstance(work, _ImageWork):
        own = {name: _resized(encoders[name], work.size) for name in work.faces}
        for name, meant in work.faces.items():
            _check_same(meant, face("image", own[name]))
        yield from _encode_images(work.dataset, work.shares[rank], own, work.size, work.workers)
    elif isinstance(work, _TextWork):
        encoder = encoders[work.model]
        if encoder.context_length != work.context_length and work.context_length is not None:
            encoder = encoder.at_length(work.context_length)
        _check_same(work.face, face("text", encoder))
        yield from _encode_tokens(work.shares[rank], encoder)


def prepare(image: Image, encoder: Encoder) -> torch.Tensor:
    """uint8 (H, W, 3) -> float32 (3, h, w) as ``encoder`` wants it: by its own transform if it has one."""
    if encoder.own_transform is not None:
        return encoder.own_transform.apply(image)
    from climp_bench.data.transforms import to_tensor

    return to_tensor(image, encoder.preprocess)


def _resized(encoder: Encoder, size: tuple[int, int]) -> Encoder:
    return encoder if encoder.preprocess.size == size else encoder.at(size)


def _check_same(meant: EmbeddingKey, here: EmbeddingKey) -> None:
    other = asdict(here)
    differing = [name for name, value in asdict(meant).items() if other[name] != value]
    if differing:
        raise BackendError(
            f"the ranks do not have the same model: they differ in {', '.join(differing)}",
            where=meant.model,
            remedy="Every machine needs the same weights, packages and kind of device.",
        )


def _images_at_once(device: str, size: tuple[int, int]) -> int:
    """Images of a batch; on a GPU a power of two, for which its kernels are compiled once."""
    if device == "cpu":
        return _CPU_IMAGES
    fitting = int(_share_of_memory() * _GPU_PIXELS) // (size[0] * size[1])
    return min(max(_FEWEST, 1 << max(0, fitting.bit_length() - 1)), _MOST)


def _tokens_at_once(device: str) -> int:
    return _CPU_TOKENS if device == "cpu" else int(_share_of_memory() * _GPU_TOKENS)


def _share_of_memory() -> float:
    """Of the batch sizes for a GPU, what this one's memory allows."""
    import torch

    return min(1.0, torch.cuda.get_device_properties().total_memory / _GPU_MEMORY)


def device_of(encoders: Sequence[Encoder]) -> str:
    """``cpu`` if all of them run there."""
    return next((encoder.device for encoder in encoders if encoder.device != "cpu"), "cpu")


def _encode_images(
    dataset: Dataset,
    batches: Sequence[ImageBatch],
    encoders: Mapping[str, Encoder],
    size: tuple[int, int],
    workers: int,
) -> Iterator[tuple[ImageBatch, str, Array]]:
    if not batches:
        return

    device, blocks = device_of(list(encoders.values())), [batch.indices for batch in batches]
    ahead = device != "cpu" and in_processes(blocks, workers)
    viewer = viewer_for(encoders) if ahead else Viewer()

    def jobs() -> Iterator[_Job]:
        loaded = load_blocks(dataset, blocks, size, workers, viewer)
        for batch, views in zip(batches, loaded, strict=True):
            for names in _alike(batch.models, encoders) if device != "cpu" else [(n,) for n in batch.models]:
                yield batch, names, views

    if device != "cpu":
        yield from _encode_on_gpu(jobs(), encoders)
        return

    def encode(job: _Job) -> Array:
        _, (name,), views = job
        return encoders[name].encode_images([_prepared(view, encoders[name]) for view in views])

    images = sum(len(block) for block in blocks)
    with open_lanes(device, math.ceil(images / _CPU_IMAGES)) as lanes:
        for (batch, (name,), _), rows in lanes.in_order(encode, jobs()):
            yield batch, name, rows


def _alike(names: Sequence[str], encoders: Mapping[str, Encoder]) -> list[tuple[str, ...]]:
    """The models by what they want of an image; one with a transform of its own is alone."""
    groups: dict[object, list[str]] = {}
    for name in names:
        encoder = encoders[name]
        groups.setdefault(encoder.preprocess if encoder.own_transform is None else name, []).append(name)
    return [tuple(group) for group in groups.values()]


def _prepared(view: View, encoder: Encoder) -> torch.Tensor:
    assert view.whole is not None
    return prepare(view.whole, encoder)


def _encode_on_gpu(
    jobs: Iterable[_Job], encoders: Mapping[str, Encoder]
) -> Iterator[tuple[ImageBatch, str, Array]]:
    """Threads make tensors ahead of this one, which drives the GPU."""
    with open_preparers() as threads:
        ready = threads.in_order(lambda job: _tensors(job[2], encoders[job[1][0]]), jobs)
        for (batch, names, _), tensors in ready:
            images = tensors if isinstance(tensors, list) else _on_gpu(tensors, encoders[names[0]])
            for name in names:
                yield batch, name, encoders[name].encode_images(images)


def _on_gpu(pixels: torch.Tensor, encoder: Encoder) -> torch.Tensor:
    """uint8 (B, 3, h, w) from pinned memory -> normalised there: a quarter of the bytes have to go."""
    import torch

    from climp_bench.data.transforms import normalise

    if torch.cuda.is_available():
        pixels = pixels.to(encoder.device, non_blocking=True)
    return normalise(pixels, encoder.preprocess)


def _tensors(views: Sequence[View], encoder: Encoder) -> torch.Tensor | list[torch.Tensor]:
    """One uint8 tensor (B, 3, h, w), pinned for a GPU; where sizes or the transform differ, one an image."""
    if encoder.own_transform is not None:
        return [_prepared(view, encoder) for view in views]
    import torch

    from climp_bench.data.transforms import normalise

    pixels = [pixels_of(view, encoder.preprocess) for view in views]
    if len({tuple(p.shape) for p in pixels}) > 1:
        return [normalise(p, encoder.preprocess) for p in pixels]
    stacked = torch.stack(pixels)
    return stacked.pin_memory() if torch.cuda.is_available() else stacked


def _encode_tokens(
    batches: Sequence[tuple[int, list[list[int]]]], encoder: Encoder
) -> Iterator[tuple[int, Array]]:
    def encode(batch: tuple[int, list[list[int]]]) -> Array:
        return encoder.encode_tokens(batch[1])

    with open_lanes(encoder.device, len(batches)) as lanes:
        for (k, _), rows in lanes.in_order(encode, batches):
            yield k, rows


def _by_budget(order: Sequence[int], tokens: Sequence[list[int]], budget: int) -> Iterator[list[int]]:
    """Batches of indices, shortest texts first, whose padded size stays within the token budget."""
    batch: list[int] = []
    real = 0
    for index in order:
        length = len(tokens[index])
        padded = (len(batch) + 1) * length
        wasteful = padded > _FULL * budget and padded - real - length > _PADDING * padded
        if batch and (padded > budget or wasteful):
            yield batch
            batch, real = [], 0
        batch.append(index)
        real += length
    if batch:
        yield batch
