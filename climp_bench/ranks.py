"""Several processes that share the work of one command, as ``torchrun`` starts them.

Rank 0 runs the command: it alone decides, writes and prints. The others, its helpers, wait for work, do their
share and send back what they made. Everything goes through the key-value store that torchrun keeps for its
processes: nobody waits for anybody in lockstep, so a helper may idle for hours while rank 0 scores, and one
that is lost is noticed by its silence.
"""

from __future__ import annotations

import itertools
import os
import pickle
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any, Protocol, TypeVar

from climp_bench.errors import BackendError, ClimpError, RankError, UsageError

T = TypeVar("T")
DEFAULT_TIMEOUT = 600.0
_FAREWELL_S = 10.0
_REMEDY = "What was finished is kept: run the same command again to go on."
_meetings = itertools.count()


class Store(Protocol):
    """What is used of ``torch.distributed.Store``."""

    def set(self, key: str, value: Any, /) -> None:
        """Keep bytes under a name."""

    def get(self, key: str, /) -> bytes:
        """The bytes of that name."""

    def check(self, keys: list[str], /) -> bool:
        """Whether all these names are there."""

    def delete_key(self, key: str, /) -> bool:
        """Forget a name."""


@dataclass(frozen=True)
class Place:
    """Which of how many processes this is: of the run, and of those on this machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1


def place() -> Place:
    """This process's place by torchrun's variables; alone where they are not set.

    Raises:
        UsageError: the variables are not those of torchrun.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    told = {name: os.environ[name] for name in names if name in os.environ}
    if "RANK" not in told or "WORLD_SIZE" not in told:
        return Place()
    try:
        rank, size = int(told["RANK"]), int(told["WORLD_SIZE"])
        here = Place(rank, size, int(told.get("LOCAL_RANK", 0)), int(told.get("LOCAL_WORLD_SIZE", 1)))
    except ValueError:
        here = Place(1, 0)
    if not 0 <= here.rank < here.size or not 0 <= here.local_rank < here.local_size:
        shown = ", ".join(f"{name}={value}" for name, value in told.items())
        remedy = "Start it with torchrun, or unset these variables."
        raise UsageError("these variables are not torchrun's", where=shown, remedy=remedy)
    return here


def is_helper() -> bool:
    """Whether another process runs the command and this one only helps."""
    return os.environ.get("RANK", "0") != "0" and place().rank > 0


def take_gpu(device: str) -> None:
    """Make ``cuda`` mean the GPU of this process's own local rank. Does nothing on a CPU or alone.

    Raises:
        BackendError: the machine has fewer GPUs than processes.
    """
    here = place()
    if device != "cuda" or here.size == 1:
        return
    import torch

    if here.local_size > torch.cuda.device_count():
        raise BackendError(
            f"{here.local_size} processes for {torch.cuda.device_count()} GPUs",
            where=socket.gethostname(),
            remedy=f"Use --nproc-per-node {torch.cuda.device_count()}, or --device cpu.",
        )
    torch.cuda.set_device(here.local_rank)


def split(items: Sequence[T], n: int) -> list[list[T]]:
    """``n`` runs of neighbours, in order, whose lengths differ by at most one, longer ones last."""
    return [list(items[k * len(items) // n : (k + 1) * len(items) // n]) for k in range(n)]


@contextmanager
def joined(timeout: float) -> Iterator[Team | None]:
    """The team that this process belongs to, or None if it is alone. Rank 0 dismisses it at the end.

    Args:
        timeout: seconds of silence after which a rank counts as lost.

    Raises:
        RankError: the others cannot be reached.
    """
    here = place()
    if here.size == 1:
        yield None
        return
    team = Team(connect(timeout), here, timeout, meeting())
    if here.rank > 0:
        yield team
        return
    try:
        yield team
    except RankError:
        team.dismiss(wait=0)
        raise
    except BaseException:
        team.dismiss()
        raise
    else:
        team.dismiss()


@cache
def connect(timeout: float) -> Store:
    """The store that all processes can read and write, for as long as this one lives.

    Args:
        timeout: seconds to wait for it.

    Raises:
        RankError: it cannot be reached.
    """
    from torch.distributed.rendezvous import rendezvous

    try:
        store: Store = next(rendezvous("env://", timeout=timedelta(seconds=timeout)))[0]
    except (RuntimeError, ValueError) as error:
        remedy = "Start every process with torchrun; see docs/cluster.md."
        raise RankError(f"the ranks do not find each other ({error})", remedy=remedy) from error
    return store


def meeting() -> str:
    """A new prefix of names in the store. Processes that meet equally often, in one order, get the same."""
    return f"climp-bench/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{next(_meetings)}/"


def exchange(own: T) -> list[T]:
    """What every process brings, by rank; waits for all, however long it takes. Alone: ``[own]``.

    A process that has died is for torchrun to notice, which then ends the others.

    Args:
        own: anything that pickles.

    Raises:
        RankError: the others cannot be reached.
    """
    here = place()
    if here.size == 1:
        return [own]
    store, prefix = connect(DEFAULT_TIMEOUT), meeting()
    names, pause = [f"{prefix}{rank}" for rank in range(here.size)], _Pause()
    with _reaching():
        store.set(names[here.rank], pickle.dumps(own))
        while not store.check(names):
            pause.take(True)
        return [pickle.loads(store.get(name)) for name in names]


class Team:
    """Rank 0 and its helpers.

    Args:
        store: what all of them can read and write.
        here: which of them this is.
        timeout: seconds of silence after which a rank counts as lost.
        prefix: of the names that are used in the store.
    """

    def __init__(self, store: Store, here: Place, timeout: float, prefix: str = "") -> None:
        self.rank, self.size, self._timeout = here.rank, here.size, timeout
        self._store, self._prefix = store, prefix
        self._number = 0
        self._next_answer = dict.fromkeys(range(1, here.size), 0)
        self._ended = threading.Event()
        if self.rank == 0:
            threading.Thread(target=self._beat, daemon=True, name="heartbeat").start()

    def share(self, work: Any, own: Iterable[T]) -> Generator[T]:
        """Rank 0: have every helper do its share of ``work`` while this process does ``own``.

        Args:
            work: anything that pickles, but None; ``serve`` hands it to a function that picks the share out.
            own: this rank's share, done as it is iterated.

        Yields:
            The results of all ranks, in no order.

        Raises:
            RankError: a helper was silent for too long. Anything that a helper's share raised, with the rank
                beside the place it names; the others then stop.
        """
        self._number = number = self._number + 1
        self._set("work", pickle.dumps((number, work)))
        self._set("number", str(number).encode())
        heard = dict.fromkeys(self._next_answer, time.monotonic())
        try:
            for result in own:
                yield result
                yield from self._arrived(heard)
            pause = _Pause()
            while heard:
                before = dict(heard)
                yield from self._arrived(heard)
                if nothing := heard == before:
                    self._check(heard)
                pause.take(nothing)
        finally:
            if heard:
                with suppress(RankError):
                    self._set("cancelled", str(number).encode())

    def serve(self, do: Callable[[Any], Generator[Any]]) -> None:
        """A helper: do what rank 0 shares, until it dismisses its team.

        Args:
            do: work -> the results of this rank's share, one by one. What it raises goes to rank 0.

        Raises:
            RankError: rank 0 is lost.
        """
        self._set(f"host/{self.rank}", socket.gethostname().encode())
        sent, done = 0, 0

        def answer(kind: str, value: Any = None) -> None:
            nonlocal sent
            self._set(f"answer/{self.rank}/{sent}", pickle.dumps((done, kind, value)))
            sent += 1

        while True:
            done, work = self._wait_for_work(done)
            if work is None:
                answer("done")
                return
            try:
                with closing(do(work)) as results:
                    for result in results:
                        answer("result", result)
                        if int(self._get("cancelled") or b"0") >= done:
                            break
                answer("done")
            except RankError:
                raise
            except Exception as error:
                answer("error", _portable(error))

    def dismiss(self, wait: float = _FAREWELL_S) -> None:
        """Rank 0: let the helpers end. Waits ``wait`` seconds for them: this process may hold the store."""
        with suppress(RankError):
            self._number += 1
            self._set("work", pickle.dumps((self._number, None)))
            self._set("number", str(self._number).encode())
            heard, pause = dict.fromkeys(self._next_answer, 0.0), _Pause()
            until = time.monotonic() + wait
            while heard and time.monotonic() < until:
                pause.take(not list(self._arrived(heard)))
        self._ended.set()

    def _arrived(self, heard: dict[int, float]) -> Iterator[Any]:
        """What the helpers of ``heard`` have sent; those that are done leave it, the others are stamped."""
        for rank in sorted(heard):
            while rank in heard and (content := self._take(rank)) is not None:
                heard[rank] = time.monotonic()
                number, kind, value = pickle.loads(content)
                if number != self._number:
                    continue
                if kind == "result":
                    yield value
                    continue
                del heard[rank]
                if kind == "error":
                    if isinstance(value, ClimpError):
                        value.where = f"{value.where} [{self._name(rank)}]".strip()
                    raise value

    def _take(self, rank: int) -> bytes | None:
        name = f"answer/{rank}/{self._next_answer[rank]}"
        content = self._get(name)
        if content is not None:
            self._next_answer[rank] += 1
            with _reaching():
                self._store.delete_key(self._prefix + name)
        return content

    def _check(self, heard: dict[int, float]) -> None:
        rank = min(heard, key=lambda one: heard[one])
        if time.monotonic() - heard[rank] > self._timeout:
            raise RankError(
                f"no sign of it for {self._timeout:g} seconds", where=self._name(rank), remedy=_REMEDY
            )

    def _wait_for_work(self, done: int) -> tuple[int, Any]:
        pause, beat, heard = _Pause(), None, time.monotonic()
        while int(self._get("number") or b"0") <= done:
            last, beat = beat, self._get("beat")
            if beat != last:
                heard = time.monotonic()
            elif time.monotonic() - heard > self._timeout:
                where = f"rank {self.rank} on {socket.gethostname()}"
                raise RankError(f"no sign of rank 0 for {self._timeout:g} seconds", where=where)
            pause.take(True)
        number, work = pickle.loads(self._get("work") or b"")
        return int(number), work

    def _name(self, rank: int) -> str:
        host = self._get(f"host/{rank}")
        return f"rank {rank} on {host.decode()}" if host else f"rank {rank}"

    def _beat(self) -> None:
        count = 0
        while not self._ended.wait(min(5.0, self._timeout / 4)):
            count += 1
            with suppress(RankError):
                self._set("beat", str(count).encode())

    def _set(self, name: str, value: bytes) -> None:
        with _reaching():
            self._store.set(self._prefix + name, value)

    def _get(self, name: str) -> bytes | None:
        """A value, or None where there is none yet."""
        key = self._prefix + name
        with _reaching():
            return bytes(self._store.get(key)) if self._store.check([key]) else None


class _Pause:
    """Short waits that grow while nothing happens, up to a quarter of a second."""

    def __init__(self) -> None:
        self._seconds = 0.001

    def take(self, nothing: bool) -> None:
        self._seconds = min(1.5 * self._seconds, 0.25) if nothing else 0.001
        if nothing:
            time.sleep(self._seconds)


@contextmanager
def _reaching() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # of torch.distributed, whose own kinds differ between its versions
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RankError(f"the other ranks cannot be reached ({first})", remedy=_REMEDY) from error


def _portable(error: Exception) -> Exception:
    """The error if it survives the way to another process, else its words."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
