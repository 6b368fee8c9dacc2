"""The pool on disk: scenes drawn and captioned once, memory-mapped, shared by runs.

::

    ROOT/{part}-{digest}/{name}.npy      one array a name, all rows allocated at once
    ROOT/{part}-{digest}/done/{chunk}    an empty file for every chunk of rows that is whole
    ROOT/{part}-{digest}/manifest.json   written last

A part's digest names everything that shapes it: scenes version, split, range, sizes, tokenizer.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from climp_bench.data.scenes import SCENES_VERSION, dense_caption, draw, make_scene, short_captions
from climp_bench.errors import TrainingError
from climp_bench.files import write_text
from climp_bench.models import tokenizer

Arrays = dict[str, npt.NDArray[Any]]
Shapes = dict[str, tuple[tuple[int, ...], type]]

SPLIT = "train"
CHUNK = 1024
SHORT_CAPTIONS = 5
SIDES_OF_64 = (
    (64, 64), (48, 80), (80, 48), (56, 72), (72, 56), (40, 96), (96, 40), (48, 48), (32, 32),
)  # fmt: skip
"""Heights and widths of the scenes of variable size, for an area of 64 x 64; scaled for other areas."""


@dataclass(frozen=True)
class PicturePart:
    """Pictures of one size: ``pixels`` uint8 (N, height, width, 3)."""

    height: int
    width: int
    kind: str = "pictures"

    def shapes(self, count: int) -> Shapes:
        """Shape and type of each array."""
        return {"pixels": ((count, self.height, self.width, 3), np.uint8)}

    def rows(self, indices: range) -> Arrays:
        """Draw these scenes."""
        return {"pixels": np.stack([draw(make_scene(SPLIT, i), self.height, self.width) for i in indices])}


@dataclass(frozen=True)
class PatchPart:
    """Pictures of several sizes and aspect ratios as patches: ``patches`` uint8 (N, longest, p*p*3).

    Scene i is drawn natively at ``sizes[i % len(sizes)]``; rows behind its last patch are zero.
    """

    sizes: tuple[tuple[int, int], ...]
    patch: int
    kind: str = "patches"

    @property
    def longest(self) -> int:
        """Patches of the largest picture."""
        return max(height * width for height, width in self.sizes) // self.patch**2

    def shapes(self, count: int) -> Shapes:
        """Shape and type of each array."""
        return {"patches": ((count, self.longest, self.patch**2 * 3), np.uint8)}

    def rows(self, indices: range) -> Arrays:
        """Draw these scenes."""
        packed = np.zeros((len(indices), self.longest, self.patch**2 * 3), np.uint8)
        for row, index in enumerate(indices):
            height, width = self.sizes[index % len(self.sizes)]
            p = self.patch
            cells = draw(make_scene(SPLIT, index), height, width).reshape(height // p, p, width // p, p, 3)
            flat = cells.transpose(0, 2, 1, 3, 4).reshape(-1, p * p * 3)
            packed[row, : len(flat)] = flat
        return {"patches": packed}


@dataclass(frozen=True)
class CaptionPart:
    """Token ids of both kinds of captions, padded on the right, and their lengths.

    ``short`` int16 (N, 5, limit) with ``short_lengths`` (N, 5), ``dense`` (N, 1, limit) with
    ``dense_lengths`` (N, 1). A caption over its limit gives way to the scene's shortest one.

    Attributes:
        tokenizer, digest: which tokenizer.
        short, dense: longest captions, in tokens.
    """

    tokenizer: str
    digest: str
    short: int
    dense: int
    kind: str = "captions"

    def shapes(self, count: int) -> Shapes:
        """Shape and type of each array."""
        return {
            "short": ((count, SHORT_CAPTIONS, self.short), np.int16),
            "short_lengths": ((count, SHORT_CAPTIONS), np.int16),
            "dense": ((count, 1, self.dense), np.int16),
            "dense_lengths": ((count, 1), np.int16),
        }

    def rows(self, indices: range) -> Arrays:
        """Caption these scenes. Raises ``TrainingError`` if even the shortest caption is over the limit."""
        words = tokenizer.load(self.tokenizer)
        scenes = [make_scene(SPLIT, index) for index in indices]
        short = words.encode([caption for scene in scenes for caption in short_captions(scene)])
        dense = words.encode([dense_caption(scene) for scene in scenes])
        arrays: Arrays = {
            name: np.zeros(shape, kind) for name, (shape, kind) in self.shapes(len(scenes)).items()
        }
        for row, index in enumerate(indices):
            own = short[row * SHORT_CAPTIONS : (row + 1) * SHORT_CAPTIONS]
            shortest = min(own, key=len)
            if len(shortest) > min(self.short, self.dense):
                raise TrainingError(
                    f"its shortest caption has {len(shortest)} tokens",
                    where=f"scene {SPLIT}/{index}",
                    remedy="Raise max_tokens.",
                )
            for k, tokens in enumerate(own):
                _put(arrays, "short", (row, k), tokens if len(tokens) <= self.short else shortest)
            _put(arrays, "dense", (row, 0), dense[row] if len(dense[row]) <= self.dense else shortest)
        return arrays


Part = PicturePart | PatchPart | CaptionPart


def _put(arrays: Arrays, name: str, place: tuple[int, int], tokens: list[int]) -> None:
    arrays[name][place][: len(tokens)] = tokens
    arrays[f"{name}_lengths"][place] = len(tokens)


def native_sizes(size: tuple[int, int], patch: int) -> tuple[tuple[int, int], ...]:
    """Sizes of the scenes for a model of variable size: nine shapes within the area of ``size``.

    Args:
        size: height and width that span the area, in pixels.
        patch: every side is a multiple of it.
    """
    scale = (size[0] * size[1]) ** 0.5 / 64
    sizes = []
    for height, width in SIDES_OF_64:
        rows, cols = (max(1, int(side * scale / patch)) for side in (height, width))
        sizes.append((rows * patch, cols * patch))
    return tuple(dict.fromkeys(sizes))


def open_part(
    root: Path,
    part: Part,
    first: int,
    count: int,
    *,
    workers: int = 0,
    report: Callable[[int], None] = lambda done: None,
) -> Arrays:
    """The arrays of a part, memory-mapped; what is missing is drawn first.

    Killed in the middle, the next call keeps the chunks that were whole. The content does not depend on the
    number of workers. Of several callers at once, one draws and the others wait for it. What is written to
    the arrays stays in memory.

    Args:
        root: folder of pools.
        first, count: which scenes of the training split.
        workers: processes that draw; 0 for all cores.
        report: called with the number of scenes that are done; what it raises ends the drawing.

    Raises:
        TrainingError: the folder cannot be written, has no space, or holds something else; or a process that
            drew was killed.
    """
    folder = root / f"{part.kind}-{_digest(part, first, count)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock"):
            if not (folder / "manifest.json").is_file():
                _fill(folder, part, first, count, workers or os.cpu_count() or 1, report)
        return {name: _mapped(folder, name, shape, "c") for name, (shape, _) in part.shapes(count).items()}
    except (OSError, ValueError, BrokenProcessPool) as error:
        raise TrainingError(
            f"the pool of scenes cannot be made or read ({error})",
            where=str(folder),
            remedy="Free some space, or delete the folder to have it drawn again.",
        ) from error


def _digest(part: Part, first: int, count: int) -> str:
    described = [SCENES_VERSION, SPLIT, asdict(part), first, count]
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()[:16]


def _fill(
    folder: Path, part: Part, first: int, count: int, workers: int, report: Callable[[int], None]
) -> None:
    done = folder / "done"
    done.mkdir(exist_ok=True)
    if any(not (folder / f"{name}.npy").is_file() for name in part.shapes(count)):
        shutil.rmtree(done)
        done.mkdir()
        _allocate(folder, part.shapes(count))
    starts = range(0, count, CHUNK)
    todo = [(folder, part, first, count, start) for start in starts if not (done / str(start)).exists()]
    ready = count - sum(min(CHUNK, count - job[-1]) for job in todo)
    report(ready)
    for rows in _chunks(todo, workers):
        ready += rows
        report(ready)
    write_text(folder / "manifest.json", json.dumps(asdict(part)) + "\n", TrainingError)


def _allocate(folder: Path, shapes: Shapes) -> None:
    """Make the files. They are sparse, and a full disk would kill whoever writes to one: look first."""
    needed = sum(int(np.prod(shape)) * np.dtype(kind).itemsize for shape, kind in shapes.values())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise TrainingError(
            f"the pool needs {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free",
            where=str(folder),
            remedy="Free some space, choose another folder or a smaller pool_size.",
        )
    for name, (shape, kind) in shapes.items():
        np.lib.format.open_memmap(folder / f"{name}.npy", "w+", kind, shape).flush()


def _chunks(todo: list[tuple[Path, Part, int, int, int]], workers: int) -> Iterator[int]:
    """Draw chunks, and yield the number of rows of each when it is whole."""
    if workers == 1 or len(todo) < 2:
        yield from map(_draw_chunk, todo)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(todo)), context, initializer=_start_worker) as executor:
        try:
            for future in as_completed([executor.submit(_draw_chunk, job) for job in todo]):
                yield future.result()
        finally:
            executor.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """Leave interrupts to the parent, and end with it however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _draw_chunk(job: tuple[Path, Part, int, int, int]) -> int:
    folder, part, first, count, start = job
    stop = min(start + CHUNK, count)
    shapes = part.shapes(count)
    for name, rows in part.rows(range(first + start, first + stop)).items():
        whole = _mapped(folder, name, shapes[name][0], "r+")
        offset = whole.offset + start * whole[0].nbytes
        array = np.memmap(folder / f"{name}.npy", whole.dtype, "r+", offset, rows.shape)
        array[:] = rows
        array.flush()  # these rows only: a flush of the whole file would wait for every process's writes
    (folder / "done" / str(start)).touch()
    return stop - start


def _mapped(folder: Path, name: str, shape: tuple[int, ...], mode: Any) -> np.memmap[Any, Any]:
    array = np.load(folder / f"{name}.npy", mmap_mode=mode, allow_pickle=False)
    if array.shape != shape:
        raise ValueError(f"{name}.npy has shape {array.shape}, not {shape}")
    mapped: np.memmap[Any, Any] = array
    return mapped
