"""``torchrun -m climp_bench``: the same numbers for any number of processes; a lost one ends the run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from climp_bench.cli import helping
from climp_bench.cli.main import main

TASKS = """
schema = 1
name = "few"
[[task]]
dataset = "scenes-captions"
n = 40
[[task]]
dataset = "scenes-dense"
n = 70
"""
MANY = 'schema = 1\nname = "many"\n[[task]]\ndataset = "scenes-colour"\nn = 700\n'
RUN = (
    "torch.distributed.run",
    "--rdzv-backend",
    "c10d",
    "--rdzv-endpoint",
    "localhost:0",
    "--nproc-per-node",
)


def environment(home: Path) -> dict[str, str]:
    quiet = {"CLIMP_BENCH_HOME": str(home), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    return {**os.environ, **quiet}


def words(n: int, *command: str) -> list[str]:
    return [sys.executable, "-m", *RUN, str(n), "-m", "climp_bench", *command]


def evaluation(command: str, suite: Path, place: Path, *more: str) -> list[str]:
    where = ("--out", str(place / "out"), "--cache", str(place / "cache"))
    return [command, "--suite", str(suite), "--device", "cpu", "--workers", "0", "--json", *where, *more]


def start(n: int, home: Path, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    around = environment(home) | variables
    return subprocess.run(
        words(n, *command), env=around, capture_output=True, text=True, timeout=240, check=False
    )


def scores(records: Sequence[dict[str, Any]]) -> dict[tuple[Any, ...], Any]:
    return {
        (r["model"]["name"], r["task"], r["metric"], str(r["extra"].get("tokens"))): (
            r["value"],
            r["interval"],
            r["n_evaluated"],
        )
        for r in records
    }


def part_digests(cache: Path) -> dict[str, str]:
    return {path.relative_to(cache).as_posix(): path.read_text() for path in cache.rglob("part-*.sha256")}


@pytest.mark.slow  # three launches of torchrun
def test_one_two_and_three_processes_give_the_same_scores_and_the_same_bytes(tmp_path: Path) -> None:
    suite = tmp_path / "few.toml"
    suite.write_text(TASKS)
    found = {}
    for n in (1, 2, 3):
        place = tmp_path / str(n)
        more = ("--model", "rope-vit", "--max-tokens", "16")
        done = start(n, tmp_path / "home", *evaluation("dense", suite, place, *more))
        assert done.returncode == 0, done.stderr
        records = json.loads(done.stdout)
        assert {r["status"] for r in records} <= {"ok", "skipped"} and len(records) > 6
        found[n] = scores(records), part_digests(place / "cache")
    assert found[1] == found[2] == found[3]
    assert len(found[1][1]) >= 5


@pytest.mark.slow  # two launches, one of them killed
def test_a_killed_process_ends_the_run_and_the_next_one_goes_on(tmp_path: Path) -> None:
    suite = tmp_path / "many.toml"
    suite.write_text(MANY)
    command = evaluation("zeroshot", suite, tmp_path, "--model", "rope-vit")
    run = subprocess.Popen(
        words(2, *command), env=environment(tmp_path / "home"), stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while not list((tmp_path / "cache").glob("*/*/")):
            assert run.poll() is None and time.monotonic() < deadline, "nothing was encoded"
            time.sleep(0.02)
        (helper,) = (p for p in psutil.Process(run.pid).children() if p.environ().get("RANK") == "1")
        helper.send_signal(signal.SIGKILL)
        out, err = run.communicate(timeout=60)
    finally:
        run.kill()
    assert run.returncode != 0 and out == ""
    assert "Stopped from outside (SIGTERM)" in err and "SIGKILL" in err.upper()
    assert not list((tmp_path / "out").rglob("*.results.json")) and not list(tmp_path.rglob("manifest.json"))
    done = subprocess.run(
        [sys.executable, "-m", "climp_bench", *command], env=environment(tmp_path / "home"),
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert all(r["n_evaluated"] == 700 for r in json.loads(done.stdout) if r["status"] == "ok")


def test_what_is_refused_is_said_once_even_if_rank_0_is_late(tmp_path: Path) -> None:
    late = "import os, time\ntime.sleep(4 if os.environ.get('RANK') == '0' else 0)\n"
    (tmp_path / "sitecustomize.py").write_text(late)
    done = start(2, tmp_path, "efficiency", "--device", "meta", PYTHONPATH=str(tmp_path))
    assert done.returncode != 0
    assert done.stderr.count("efficiency: one process runs this command.") == 1
    assert "Start it without torchrun" in done.stderr and done.stdout == ""


@pytest.mark.parametrize(
    ("option", "reason"), [("--suite=absent.toml", "absent.toml"), ("--sweet=x", "No such option: --sweet")]
)
def test_a_helper_that_alone_is_refused_says_why_after_a_while(
    option: str, reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(sys, "argv", ["climp-bench", "zeroshot", option])
    waits: list[str] = []
    monkeypatch.setattr(helping.time, "sleep", lambda seconds: waits.append(capsys.readouterr().err))
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert waits == [""] and reason in capsys.readouterr().err
