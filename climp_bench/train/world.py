"""The processes of a run in lockstep: how they agree, and how what is spread over them is brought together.

``torchrun`` starts them and tells each its rank (``climp_bench.ranks``); a program that it did not start is a
world of one, which needs no process group.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from climp_bench.errors import RankError
from climp_bench.ranks import connect, meeting, place, take_gpu

TIMEOUT_S = 600.0
"""How long a process waits for the others before it gives up."""
_SIGNS = ("gloo", "nccl", "connection", "socket", "timed out", "timeout")


@dataclass(frozen=True)
class World:
    """This process among all of a run.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
        device: what it computes on: ``cpu`` or ``cuda`` (each process sees its own as the current one).
    """

    rank: int = 0
    size: int = 1
    device: str = "cpu"

    def share(self, n: int, rank: int | None = None) -> range:
        """Which of ``n`` consecutive things are this process's (or another's): as equal as can be."""
        return share(n, self.size, self.rank if rank is None else rank)

    def gather(self, own_b: Tensor, n: int) -> Tensor:
        """The rows of all processes in order of rank, (n, ...); no gradient flows through it.

        Args:
            own_b: this process's ``share(n)``, (b, ...).
            n: rows of all processes together.
        """
        if self.size == 1:
            return own_b
        padded = own_b.new_zeros((-(-n // self.size), *own_b.shape[1:]))
        padded[: len(own_b)] = own_b
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        with explained():
            dist.all_gather(parts, padded)
        return torch.cat([part[: len(self.share(n, rank))] for rank, part in enumerate(parts)])

    def sum_(self, tensor: Tensor) -> Tensor:
        """``tensor``, changed to its sum over all processes."""
        if self.size > 1:
            with explained():
                dist.all_reduce(tensor)
        return tensor

    def any(self, flag: bool) -> bool:
        """Whether any process says so. Every process gets the same answer; does not wait for a GPU."""
        return bool(self.sum_(torch.tensor(int(flag))).item())

    def barrier(self) -> None:
        """Wait until every process is here."""
        self.any(False)


def share(n: int, size: int, index: int) -> range:
    """Part ``index`` of ``n`` things cut into ``size`` consecutive parts, as ``ranks.split`` cuts."""
    return range(index * n // size, (index + 1) * n // size)


@contextmanager
def explained() -> Iterator[None]:
    """Within, a failure of the network between processes becomes a ``RankError``."""
    try:
        yield
    except RuntimeError as fault:
        text = str(fault)
        if not (isinstance(fault, dist.DistError) or any(sign in text.lower() for sign in _SIGNS)):
            raise
        raise RankError(
            f"another process of this run cannot be reached ({text.strip().splitlines()[0][:200]})",
            where=f"rank {place().rank}",
            remedy="See what the other processes say, then start the run again: it goes on from the last "
            "checkpoint, on any number of processes.",
        ) from fault


@contextmanager
def open_world(device: str, timeout_s: float = TIMEOUT_S, alone: bool = False) -> Iterator[World]:
    """Join the processes that torchrun started, and leave them at the end.

    Tensors on the CPU travel by gloo, those on a GPU by NCCL. Without torchrun: a world of one.

    Args:
        device: ``cpu`` or ``cuda``.
        timeout_s: how long to wait for a process that does not come.
        alone: a world of one all the same, on this process's own GPU.

    Raises:
        RankError: the other processes cannot be reached.
        BackendError: there are more processes than GPUs on this machine.
    """
    here = place()
    take_gpu(device)
    if alone or here.size == 1:
        yield World(device=device)
        return
    backend = "gloo" if device == "cpu" else "cpu:gloo,cuda:nccl"
    # a name of its own for each group: what an earlier one left in the store would mislead the next
    shared: Any = connect(timeout_s)
    store = dist.PrefixStore(meeting(), shared)  # type: ignore[attr-defined] # public, but not in its __all__
    with explained():
        dist.init_process_group(
            backend, store=store, rank=here.rank, world_size=here.size, timeout=timedelta(seconds=timeout_s)
        )
    try:
        yield World(here.rank, here.size, device)
    finally:
        dist.destroy_process_group()
