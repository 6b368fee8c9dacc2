"""``climp-bench data rephrase``: killed in the middle it goes on; what came of it can be evaluated."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from climp_bench.cli.main import app
from climp_bench.data.scenes_dataset import ScenesDataset
from tests import data_copies as copies
from tests.fake_llm import Reply, said, serving, write_llama

PAIRS = ScenesDataset("scenes-captions", 6)
LONG = "A long caption that says very much about what there is to be seen in it"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    copies.write_nocaps(tmp_path / "data/short", PAIRS)
    return tmp_path / "data"


def words(data: Path, url: str, *more: str) -> list[str]:
    where = ("--data-root", str(data), "--out", str(data / "long"), "--endpoint", url, "--model", "some")
    return ["data", "rephrase", "short", *where, "--min-words", "8", "--batch", "2", *more]


def lines(data: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (data / "long/captions.jsonl").read_text().splitlines()]


def test_killed_and_run_again_every_caption_is_answered_once(data: Path) -> None:
    def slow(request: dict[str, Any], k: int) -> Reply:
        time.sleep(0.05)
        return (429, b"busy", {"Retry-After": "0"}) if k % 5 == 0 else said(f"{LONG} {k}")

    with serving(slow) as service:
        program = [sys.executable, "-m", "climp_bench", *words(data, service.url)]
        victim = subprocess.Popen(program, env=os.environ, stderr=subprocess.PIPE)
        try:
            while not (data / "long/captions.jsonl").is_file() or len(lines(data)) < 6:
                assert victim.poll() is None, victim.stderr and victim.stderr.read()
                time.sleep(0.01)
        finally:
            victim.kill()
            victim.communicate()
        kept = lines(data)
        assert 6 <= len(kept) < 30
        done = CliRunner().invoke(app, words(data, service.url))
    assert done.exit_code == 0, done.output
    assert "30 of 30 captions answered, 30 usable" in done.output
    assert "6 of 6 images" in done.output
    made = lines(data)
    assert made[: len(kept)] == kept
    assert [(row["image"], row["caption"]) for row in made] == [(i, k) for i in range(6) for k in range(5)]
    assert max(row["attempts"] for row in made) > 1


def test_a_dry_run_asks_nothing_and_shows_the_prompt(data: Path) -> None:
    with serving(lambda request, k: said(LONG)) as service:
        done = CliRunner().invoke(app, words(data, service.url, "--dry-run", "--limit", "7"))
        assert done.exit_code == 0 and not service.requests and not (data / "long").exists()
        assert "7 captions: 0 answered, 7 to ask for." in done.output
        assert f"Caption: {PAIRS.captions(0)[0]}" in done.output
        CliRunner().invoke(app, words(data, service.url, "--limit", "4"))
        done = CliRunner().invoke(app, words(data, service.url, "--dry-run"))
    assert "30 captions: 4 answered, 26 to ask for." in done.output


def test_a_dry_run_of_a_model_that_is_not_here_says_so(data: Path) -> None:
    more = ("--model", "someone/something", "--dry-run", "--data-root", str(data))
    done = CliRunner().invoke(app, ["data", "rephrase", "short", "--out", str(data / "long"), *more])
    assert done.exit_code == 0 and "someone/something" in done.output and "30 to ask for" in done.output


def test_bad_answers_are_counted_and_the_exit_code_says_so(data: Path) -> None:
    def sometimes(request: dict[str, Any], k: int) -> Reply:
        asked = request["messages"][-1]["content"]
        return said("I cannot help with that.") if PAIRS.captions(2)[0] in asked else said(LONG)

    with serving(sometimes) as service:
        done = CliRunner().invoke(app, words(data, service.url))
    refused = [row for row in lines(data) if row["status"] == "refused"]
    assert done.exit_code == 3 and refused
    assert f"Not usable: {len(refused)} refused" in done.output and "--retry-bad" in done.output


def test_a_local_model_makes_a_set_that_can_be_evaluated(data: Path, tmp_path: Path) -> None:
    llama = write_llama(tmp_path / "llama")
    made = (
        "--model",
        str(llama),
        "--max-tokens",
        "6",
        "--min-words",
        "1",
        "--device",
        "cpu",
        "--prompt",
        "image",
    )
    place = ("--out", str(data / "long"), "--data-root", str(data))
    done = CliRunner().invoke(app, ["data", "rephrase", "short", *place, *made])
    assert done.exit_code in (0, 3), done.output
    assert "6 of 6 captions answered" in done.output
    checked = CliRunner().invoke(app, ["data", "check", "long", "--data-root", str(data)])
    usable = sum(row["status"] == "ok" for row in lines(data))
    assert checked.exit_code == 0 and f"{usable} images decode" in checked.output, checked.output
