"""Killed, starved of disk, kept from writing, run twice at once: never a wrong number, nothing made twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from climp_bench.results import ResultStore
from tests.fault_sweeps import finish, read_only, scores, start, sweep, without_room

POINTS = 10


def _finished(cache: Path) -> dict[Path, tuple[int, int]]:
    """Inode and time of every finished part: one whose digest, written after it, is there."""
    parts = [mark.with_suffix(".npy") for mark in cache.rglob("part-*.sha256")]
    return {part: (part.stat().st_ino, part.stat().st_mtime_ns) for part in parts}


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an undisturbed sweep."""
    folder = tmp_path_factory.mktemp("calm")
    assert finish(start(sweep, folder / "out", folder / "cache")) == 0
    return folder


def _counts(out: Path) -> tuple[int, int]:
    events, encoded = map(int, (out / "counts").read_text().split())
    return events, encoded


@pytest.mark.slow
def test_killed_at_ten_points(calm: Path, tmp_path: Path) -> None:
    events, encoded = _counts(calm / "out")
    wanted = scores(calm / "out")
    assert len(wanted) == 2 * (3 + 6) and events > 5 * POINTS
    for point in random.Random(7).sample(range(2, events), POINTS):
        out, cache = tmp_path / f"{point}/out", tmp_path / f"{point}/cache"
        assert finish(start(sweep, out, cache, point)) == -signal.SIGKILL, point
        parts = _finished(cache)
        records = {path: path.stat().st_mtime_ns for path in out.rglob("*.results.json")}
        kept = scores(out)
        assert kept.items() <= wanted.items(), f"wrong after the kill at {point}"
        assert finish(start(sweep, out, cache)) == 0
        assert scores(out) == wanted, f"killed at {point}"
        again = _finished(cache)
        assert {part: again[part] for part in parts} == parts, f"made twice after the kill at {point}"
        assert {path: path.stat().st_mtime_ns for path in records} == records
        assert again.keys() == {
            cache / part.relative_to(calm / "cache") for part in _finished(calm / "cache")
        }
        assert _counts(out)[1] < encoded or not parts


def test_two_sweeps_at_once(calm: Path, tmp_path: Path) -> None:
    out, cache = tmp_path / "out", tmp_path / "cache"
    outs = [tmp_path / "a", tmp_path / "b"]
    both = [start(sweep, each, cache) for each in outs]
    assert [finish(process) for process in both] == [0, 0]
    wanted = scores(calm / "out")
    assert [scores(each) for each in outs] == [wanted, wanted]
    assert sum(_counts(each)[1] for each in outs) == _counts(calm / "out")[1], "embedded twice"
    both = [start(sweep, out, tmp_path / "other") for _ in range(2)]
    assert [finish(process) for process in both] == [0, 0]
    assert scores(out) == wanted
    store = ResultStore(out / "records")
    assert all(store.is_whole(record) for record in store.read())


def test_a_read_only_cache_is_read_and_what_it_lacks_is_explained(make_wds: Callable[..., Path]) -> None:
    data = make_wds().parent
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        for path in (data, data / "toy", data / "toy/test"):
            path.chmod(0o755)
        assert finish(start(_read_only_in, folder, data)) == 0
        first, second = scores(folder / "first"), scores(folder / "second")
        assert first.items() <= second.items()
        (record,) = ResultStore(folder / "second/records").find(suite="new")
        assert record.status == "failed" and record.error is not None
        assert "cannot be written" in record.error.what and "--cache" in record.error.remedy
        known = ResultStore(folder / "second/records").find(suite="known")
        assert all(record.provenance.cache_hit for record in known)


def _read_only_in(folder: Path, data: Path) -> None:
    """The data lie where only their owner may look; they are read through a folder that anybody may."""
    copy = folder / "data"
    subprocess.run(["cp", "-r", str(data), str(copy)], check=True)
    read_only(folder, copy)


@contextmanager
def _small_disk(folder: Path) -> Iterator[int | None]:
    """A disk of 32 kB at ``folder`` where one may be mounted (yields None), else a limit of file sizes."""
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=32k", "none", str(folder)]
    if os.geteuid() != 0 or subprocess.run(words, capture_output=True, check=False).returncode != 0:
        yield 3000
        return
    try:
        yield None
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_explained_and_what_was_finished_serves(
    make_wds: Callable[..., Path], tmp_path: Path
) -> None:
    data = make_wds(shards=3, per_shard=200).parent
    with _small_disk(tmp_path / "disk") as limit:
        cache = tmp_path / "disk/cache"
        assert finish(start(without_room, tmp_path / "out", cache, data, limit)) == 0
        (record,) = ResultStore(tmp_path / "out/records").read()
        assert record.status == "failed" and record.value is None and record.error is not None
        assert ("the disk is full" if limit is None else "cannot be written") in record.error.what
        assert "another folder" in record.error.remedy
        assert not list(cache.rglob("manifest.json")) and not list(cache.rglob(".part-*"))
        subprocess.run(["cp", "-rp", str(cache), str(tmp_path / "cache")], check=True)
    kept = _finished(tmp_path / "cache")
    assert finish(start(without_room, tmp_path / "out", tmp_path / "cache", data, None)) == 0
    assert finish(start(without_room, tmp_path / "calm", tmp_path / "other", data, None)) == 0
    assert scores(tmp_path / "out") == scores(tmp_path / "calm")
    again = _finished(tmp_path / "cache")
    assert {part: again[part] for part in kept} == kept


def test_a_full_disk_under_the_results_ends_the_run(make_wds: Callable[..., Path], tmp_path: Path) -> None:
    data = make_wds().parent
    with _small_disk(tmp_path / "disk") as limit:
        filler = tmp_path / "disk/filler"
        filler.write_bytes(b"x" * (32_000 if limit is None else 1))
        process = start(without_room, tmp_path / "disk/out", tmp_path / "cache", data, limit and 2000)
        assert finish(process) == 1
        assert not list((tmp_path / "disk").rglob("*.results.json"))
    assert finish(start(without_room, tmp_path / "out", tmp_path / "cache", data, None)) == 0
    assert all(record.provenance.cache_hit for record in ResultStore(tmp_path / "out/records").read())
