"""Killed in the middle, a second run finishes and gives the same numbers as an undisturbed one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

SUITE = """
schema = 1
name = "kill"
[[task]]
dataset = "scenes-colour"
n = 1300
[[task]]
dataset = "scenes-captions"
n = 20
"""


def _words(suite: Path, out: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "climp_bench", "zeroshot", "--model", "rope-vit", "--suite", str(suite)),
        *("--out", str(out), "--workers", "0", "--json"),
    ]


def _scores(text: str) -> dict[tuple[str, str], tuple[float, float, float]]:
    found = {}
    for r in json.loads(text):
        if r["value"] is not None:
            found[r["task"], r["metric"]] = (r["value"], r["interval"]["low"], r["interval"]["high"])
    return found


def test_killed_while_embedding(tmp_path: Path) -> None:
    suite = tmp_path / "kill.toml"
    suite.write_text(SUITE)
    quiet = {**os.environ, "PYTHONWARNINGS": "ignore"}
    calm = {**quiet, "CLIMP_BENCH_HOME": str(tmp_path / "calm")}
    undisturbed = subprocess.run(
        _words(suite, tmp_path / "a"), env=calm, capture_output=True, text=True, timeout=300
    )
    assert undisturbed.returncode == 0, undisturbed.stderr

    rough = {**quiet, "CLIMP_BENCH_HOME": str(tmp_path / "rough")}
    victim = subprocess.Popen(
        _words(suite, tmp_path / "b"), env=rough, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 240
    # A part counts as finished once its digest, written after it, is there.
    while not (digests := list((tmp_path / "rough").rglob("part-*.sha256"))):
        assert victim.poll() is None and time.monotonic() < deadline, "nothing was written to interrupt"
        time.sleep(0.01)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    assert not list((tmp_path / "rough").rglob("manifest.json")), "it had finished before the kill"
    parts = [path.with_suffix(".npy") for path in digests]
    before = {path: path.stat().st_mtime_ns for path in parts}

    second = subprocess.run(
        _words(suite, tmp_path / "b"), env=rough, capture_output=True, text=True, timeout=300
    )
    assert second.returncode == 0, second.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before, "finished parts were made again"
    assert _scores(second.stdout) == _scores(undisturbed.stdout)
