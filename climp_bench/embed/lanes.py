"""Encode independent batches side by side on a CPU; results come back in order, the same for any number.

torch's own threads meet at a barrier after every operator and spin there. One busy neighbour (a process that
decodes, another program) then stretches each of a tower's hundreds of small operators to a time slice of the
scheduler: images took 40 times as long. Lanes share nothing but the queue of batches, so a neighbour costs
only the time it takes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")

MOST_LANES = 8
"""More cores than lanes are shared out among the lanes: every lane holds a batch's activations."""
PREPARERS = 8
"""Threads that make tensors while a GPU is busy; so many batches, whole images at worst, are in memory."""


class Lanes:
    """Calls a function on jobs, several at a time.

    Args:
        pool: runs the jobs; None runs them in the caller's thread.
        ahead: how many jobs may be taken before their results are.
    """

    def __init__(self, pool: ThreadPoolExecutor | None, ahead: int) -> None:
        self._pool, self._ahead = pool, ahead

    def in_order(
        self, function: Callable[[Job], Result], jobs: Iterable[Job]
    ) -> Iterator[tuple[Job, Result]]:
        """Each job with its result, in the order of ``jobs``. The first exception in that order is raised."""
        if self._pool is None:
            for job in jobs:
                yield job, function(job)
            return
        waiting: deque[tuple[Job, Future[Result]]] = deque()
        for job in jobs:
            waiting.append((job, self._pool.submit(function, job)))
            if len(waiting) > self._ahead:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()


@contextmanager
def open_lanes(device: str, jobs: int) -> Iterator[Lanes]:
    """Lanes for about ``jobs`` jobs: at most one a core on a CPU, one on any other device.

    Inside, torch's operators use the cores of their lane only; outside, as many as before.
    """
    import torch

    if device != "cpu":
        yield Lanes(None, 0)
        return
    cores = torch.get_num_threads()
    most = min(cores, MOST_LANES)
    lanes = min(most, jobs)
    torch.set_num_threads(cores // most)
    pool = None
    if lanes > 1:
        pool = ThreadPoolExecutor(lanes, "lane", initializer=torch.set_num_threads, initargs=(cores // most,))
    try:
        yield Lanes(pool, ahead=3 * lanes)
    finally:
        if pool is not None:
            pool.shutdown(cancel_futures=True)
        torch.set_num_threads(cores)


@contextmanager
def open_preparers() -> Iterator[Lanes]:
    """Threads that work ahead of the caller's, which drives a GPU; torch's operators use one core in each."""
    import torch

    cores = torch.get_num_threads()
    threads = min(PREPARERS, cores)
    pool = ThreadPoolExecutor(threads, "prepare", initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield Lanes(pool, ahead=threads)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(cores)


@contextmanager
def one_ahead(name: str) -> Iterator[Lanes]:
    """A thread that works on the next job while the caller has the result of one."""
    pool = ThreadPoolExecutor(1, name)
    try:
        yield Lanes(pool, ahead=1)
    finally:
        pool.shutdown(cancel_futures=True)
