"""Decode images by blocks, in this process or ahead of it in others; the order never depends on which."""

from __future__ import annotations

import os
import pickle
import signal
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from functools import cache, lru_cache
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Protocol, TypeVar

from climp_bench.data.dataset import Image
from climp_bench.errors import DataError

SMALL = 256
PIECE = 64
"""Images that one process decodes at a time: a block may be a whole small data set."""


Made = TypeVar("Made")


class Pictures(Protocol):
    """What is used of a ``Dataset``; it must pickle."""

    @property
    def name(self) -> str:
        """See ``Dataset``."""

    def image(self, index: int, size: tuple[int, int]) -> Image:
        """See ``Dataset``."""


def in_processes(blocks: Sequence[range], workers: int) -> bool:
    """Whether so many images are decoded in processes, and not here."""
    return workers > 0 and sum(len(block) for block in blocks) > SMALL


def as_it_is(image: Image) -> Image:
    """The image."""
    return image


def load_blocks(
    dataset: Pictures, blocks: Sequence[range], size: tuple[int, int], workers: int,
    make: Callable[[Image], Made],
) -> Iterator[list[Made]]:  # fmt: skip
    """What ``make`` makes of the images of each block, in order.

    Args:
        blocks: ranges of indices. A few pieces of them wait ready for the caller.
        size: the input size the images are wanted for.
        workers: processes to decode in; with 0, or for a few images, it happens here.
        make: is called where the image is decoded, in a process with one thread; it must pickle.

    Raises:
        DataError: an image cannot be read, or a worker died.
    """
    if not in_processes(blocks, workers):
        for block in blocks:
            yield [make(dataset.image(i, size)) for i in block]
        return
    pieces = [[block[k : k + PIECE] for k in range(0, len(block), PIECE)] for block in blocks]
    flat = [piece for of_block in pieces for piece in of_block]
    with closing(_in_order(dataset, flat, size, workers, make)) as loaded:
        for of_block in pieces:
            yield [image for _ in of_block for image in next(loaded)]


def _in_order(
    dataset: Pictures, pieces: Sequence[range], size: tuple[int, int], workers: int,
    make: Callable[[Image], Made],
) -> Generator[list[Made]]:  # fmt: skip
    """The images of each piece, decoded ahead by processes."""
    waiting: deque[Future[list[Made]]] = deque()
    with tempfile.TemporaryDirectory(prefix="climp-bench-") as folder:
        pickled = Path(folder) / "dataset"
        pickled.write_bytes(pickle.dumps(dataset))
        try:
            for piece in pieces:
                waiting.append(_pool(workers).submit(_load, str(pickled), piece, size, make))
                if len(waiting) > workers + 2:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            _pool.cache_clear()
            remedy = "Out of memory? Try --workers 0."
            raise DataError("a decoding process died", where=dataset.name, remedy=remedy) from error
        finally:
            for future in waiting:
                future.cancel()


@cache
def _pool(workers: int) -> ProcessPoolExecutor:
    """The workers serve every data set of a run: starting one takes as long as drawing hundreds of scenes."""
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_follow_main)


def _follow_main() -> None:
    """Make a worker end with the main process: that one answers Ctrl-C, and may be killed without a word."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["OMP_NUM_THREADS"] = "1"  # there are as many of these as cores
    threading.Thread(target=_end_after_main, daemon=True).start()


def _end_after_main() -> None:
    main = parent_process()
    if main is not None:
        main.join()
        os._exit(1)


def _load(pickled: str, indices: range, size: tuple[int, int], make: Callable[[Image], Made]) -> list[Made]:
    dataset = _unpickled(pickled)
    return [make(dataset.image(i, size)) for i in indices]


@lru_cache(maxsize=1)
def _unpickled(path: str) -> Pictures:
    dataset: Pictures = pickle.loads(Path(path).read_bytes())
    return dataset
