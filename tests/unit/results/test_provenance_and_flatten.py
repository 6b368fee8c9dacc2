"""Provenance tells the truth about this host; rows are flat and alike."""

from __future__ import annotations

import subprocess
import sys
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

import pytest
from pydantic import ValidationError

import climp_bench
from climp_bench.results import collect, flatten
from climp_bench.results import provenance as module
from tests.unit.results.records import FAILED, changed, record


def test_collect_tells_versions_command_and_backends() -> None:
    before = datetime.now(timezone.utc)
    found = collect(
        device="cpu",
        dtype="float32",
        seed=7,
        backends={"ss2d": "torch"},
        cache_hit=True,
        argv=["/some/folder/climp-bench", "zeroshot", "--seed", "7"],
    )
    assert found.climp_bench == climp_bench.__version__
    assert found.packages["numpy"] == metadata.version("numpy")
    assert found.packages["torch"] == metadata.version("torch")
    assert set(found.packages) <= set(module.PACKAGES)
    assert found.argv == ("climp-bench", "zeroshot", "--seed", "7")
    assert found.backends == {"ss2d": "torch"} and found.cache_hit is True and found.seed == 7
    assert before <= found.started_at <= datetime.now(timezone.utc)
    assert found.python == ".".join(map(str, sys.version_info[:3]))
    assert found.cpu and found.platform


def test_an_accelerator_must_be_named() -> None:
    with pytest.raises(ValidationError, match="accelerator's name"):
        collect(device="cuda:0", dtype="bfloat16", seed=0)
    assert collect(device="cuda:0", dtype="bfloat16", seed=0, gpu="a GPU").gpu == "a GPU"


def test_commit_and_dirty_flag_follow_the_checkout(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        identity = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
        return subprocess.run(
            ["git", "-C", str(tmp_path), *identity, *words], check=True, capture_output=True, text=True
        ).stdout.strip()

    assert module._revision(tmp_path) == (None, None)
    module._revision.cache_clear()
    git("init", "-q")
    (tmp_path / "code.py").write_text("1")
    git("add", ".")
    git("commit", "-q", "-m", "one")
    commit = git("rev-parse", "HEAD")
    assert module._revision(tmp_path) == (commit, False)
    module._revision.cache_clear()
    (tmp_path / "code.py").write_text("2")
    assert module._revision(tmp_path) == (commit, True)
    module._revision.cache_clear()


def test_the_room_imports_neither_torch_nor_pandas() -> None:
    code = "import sys, climp_bench.results; print({'torch', 'pandas', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"


def test_rows_are_flat_alike_and_complete() -> None:
    rows = flatten(
        [
            record(),
            record(**FAILED, extra={}),
            record(resolution=None, extra={"worst": "a"}, **changed("model", scale=None)),
        ]
    )
    assert len({tuple(row) for row in rows}) == 1
    scalars = (str, int, float, type(None))
    assert all(isinstance(value, scalars) for row in rows for value in row.values())
    good, failed, foreign = rows
    assert (good["value"], good["low"], good["high"], good["interval_method"]) == (0.75, 0.7, 0.8, "wilson")
    assert (good["height_px"], good["width_px"], good["extra.ties"], good["extra.worst"]) == (64, 64, 2, None)
    assert (failed["value"], failed["error_what"], failed["error_remedy"]) == (
        None,
        "out of memory",
        "Lower --batch-size.",
    )
    assert (foreign["height_px"], foreign["scale"], foreign["extra.worst"]) == (None, None, "a")
    assert flatten([]) == []
