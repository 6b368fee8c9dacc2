"""Ranks that share work: everything arrives, a failure is told with its rank, silence ends the run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.distributed import HashStore

from climp_bench import ranks
from climp_bench.errors import BackendError, DataError, RankError, UsageError
from climp_bench.ranks import Place, Team, is_helper, joined, place, split, take_gpu

TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
Do = Callable[[int, Any], Generator[Any]]


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in TORCHRUN:
        monkeypatch.delenv(name, raising=False)


@contextmanager
def team(size: int, do: Do, timeout: float = 20.0, silent: tuple[int, ...] = ()) -> Iterator[Team]:
    """Rank 0 of a team whose helpers are threads; ``silent`` ones never start."""
    store = HashStore()

    def helper(rank: int) -> None:
        own = Team(store, Place(rank, size), timeout)
        own.serve(lambda work: do(rank, work))

    threads = [
        threading.Thread(target=helper, args=(r,), daemon=True) for r in range(1, size) if r not in silent
    ]
    for thread in threads:
        thread.start()
    lead = Team(store, Place(0, size), timeout)
    try:
        yield lead
    finally:
        lead.dismiss(wait=0 if silent else 10)
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def squares(rank: int, work: list[list[int]]) -> Generator[int]:
    yield from (number**2 for number in work[rank])


@pytest.mark.parametrize("size", [2, 3, 5])
def test_every_result_of_every_rank_arrives_once(size: int) -> None:
    with team(size, squares) as lead:
        for n in (0, 1, 7, 40):
            work = split(range(n), size)
            assert sorted(lead.share(work, squares(0, work))) == [k**2 for k in range(n)]


def test_a_split_is_whole_in_order_and_even() -> None:
    for n in range(12):
        parts = split(range(n), 5)
        assert [k for part in parts for k in part] == list(range(n))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_the_error_of_a_helper_is_raised_here_with_its_rank_and_the_next_work_is_done() -> None:
    def fail(rank: int, work: list[list[int]]) -> Generator[int]:
        for number in work[rank]:
            if number == 13:
                raise DataError("unlucky", where="item 13", remedy="Leave it out.")
            yield number

    with team(3, fail) as lead:
        work = [[1], [2, 13, 3], list(range(100, 160))]
        with pytest.raises(DataError, match=r"item 13 \[rank 1 on .+\]: unlucky. Leave it out"):
            list(lead.share(work, fail(0, work)))
        work = [[1], [2], [3]]
        assert sorted(lead.share(work, fail(0, work))) == [1, 2, 3]


def test_an_error_that_does_not_travel_comes_as_words() -> None:
    class Local(Exception):
        pass

    def fail(rank: int, work: object) -> Generator[int]:
        raise Local("of here")
        yield 0

    with team(2, fail) as lead, pytest.raises(RuntimeError, match="Local: of here"):
        list(lead.share("work", iter(())))


def test_helpers_stop_when_rank_0_gives_up() -> None:
    done: list[int] = []

    def slow(rank: int, work: object) -> Generator[int]:
        for number in range(1000):
            time.sleep(0.01)
            done.append(number)
            yield number

    def broken() -> Iterator[int]:
        time.sleep(0.1)
        raise KeyError("mine")
        yield 0

    with team(2, slow) as lead, pytest.raises(KeyError):
        list(lead.share("work", broken()))
    assert 0 < len(done) < 500


def test_a_silent_helper_ends_the_work() -> None:
    started = time.monotonic()
    with team(3, squares, timeout=1.0, silent=(2,)) as lead:
        work = split(range(9), 3)
        with pytest.raises(RankError, match=r"rank 2: no sign of it for 1 seconds\. .* run the same command"):
            list(lead.share(work, squares(0, work)))
    assert time.monotonic() - started < 10


def test_a_helper_that_works_longer_than_the_limit_but_sends_results_is_not_lost() -> None:
    def slow(rank: int, work: object) -> Generator[int]:
        for number in range(6):
            time.sleep(0.4)
            yield number

    with team(2, slow, timeout=1.0) as lead:
        assert list(lead.share("work", iter(()))) == list(range(6))


def test_helpers_wait_for_a_rank_0_that_lives_and_not_for_one_that_does_not() -> None:
    with team(2, squares, timeout=1.0) as lead:
        time.sleep(2.5)
        assert sorted(lead.share([[2], [3]], iter([4]))) == [4, 9]
    with pytest.raises(RankError, match=r"no sign of rank 0 for 0\.5 seconds"):
        Team(HashStore(), Place(1, 2), 0.5).serve(lambda work: squares(1, work))


def test_a_store_that_is_gone_is_explained() -> None:
    class Gone(HashStore):
        def check(self, keys: list[str]) -> bool:
            raise RuntimeError("Connection reset by peer\nbacktrace")

    with pytest.raises(RankError, match=r"cannot be reached \(Connection reset by peer\)"):
        Team(Gone(), Place(1, 2), 5.0).serve(lambda work: squares(1, work))


def test_the_place_is_what_torchrun_says(monkeypatch: pytest.MonkeyPatch) -> None:
    assert place() == Place() and not is_helper()
    with joined(5.0) as nobody:
        assert nobody is None
    for name, value in zip(TORCHRUN, ("5", "8", "1", "4"), strict=True):
        monkeypatch.setenv(name, value)
    assert place() == Place(5, 8, 1, 4) and is_helper()


@pytest.mark.parametrize("told", [("8", "8", "0", "1"), ("x", "8", "0", "1"), ("0", "2", "3", "2")])
def test_variables_that_make_no_sense_are_refused(
    told: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in zip(TORCHRUN, told, strict=True):
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=f"RANK={told[0]}"):
        place()


def test_ranks_without_a_meeting_place_are_told_to_use_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in zip(TORCHRUN, ("0", "2", "0", "2"), strict=True):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(RankError, match=r"do not find each other .*torchrun"), joined(5.0):
        pass


def test_every_process_takes_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    take_gpu("cuda")
    for name, value in zip(TORCHRUN, ("6", "8", "2", "4"), strict=True):
        monkeypatch.setenv(name, value)
    take_gpu("cpu")
    take_gpu("cuda")
    assert taken == [2]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    with pytest.raises(BackendError, match=r"4 processes for 3 GPUs. Use --nproc-per-node 3"):
        take_gpu("cuda")
    assert ranks.DEFAULT_TIMEOUT == 600
