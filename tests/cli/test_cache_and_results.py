"""``cache`` and ``results`` as a user meets them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import Result
from typer.testing import CliRunner

from climp_bench.cli.cache import parse_age, parse_size
from climp_bench.cli.main import app
from climp_bench.errors import ClimpError, UsageError
from climp_bench.run.execute import execute
from climp_bench.run.plan import Settings, make_plan
from climp_bench.suite.schema import Suite
from tests.fakes import ToyEncoder
from tests.unit.run.test_execute import Listener


@pytest.fixture
def home(make_wds: Callable[..., Path], tmp_path: Path) -> Path:
    """A folder with ``cache`` and ``reports`` of one evaluation of two models, one of which fails."""
    data = make_wds("pets").parent
    suite = Suite.model_validate({"schema": 1, "name": "mine", "task": [{"dataset": "pets"}]})
    settings = Settings(out=tmp_path / "reports", cache=tmp_path / "cache", data_roots=(data,))
    encoders = [ToyEncoder("good"), ToyEncoder("broken", poison="images")]
    execute(make_plan(encoders, [suite]), settings, Listener())
    return tmp_path


def _run(*words: object) -> Result:
    result: Any = CliRunner().invoke(app, [str(word) for word in words])
    if isinstance(result.exception, ClimpError):
        raise result.exception
    return result


def _json(*words: object) -> Any:
    result = _run(*words, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_cache_list_shows_what_there_is(home: Path) -> None:
    rows = _json("cache", "list", "--cache", home / "cache")
    images = next(row for row in rows if row["resolution"])
    assert (images["model"], images["of"], images["n"], images["resolution"]) == (
        "good@micro",
        "pets",
        10,
        [8, 8],
    )
    assert images["depends_on"]["weights"] == "digest-of-good" and images["bytes"] > 10 * 16 * 4
    shown = _run("cache", "list", "--cache", home / "cache").stdout
    assert "good@micro" in shown and "pets" in shown and "8x8" in shown and images["key"][:12] in shown
    assert "No embeddings" in _run("cache", "list", "--cache", home / "nowhere").stdout


def test_cache_gc_only_says_until_told(home: Path) -> None:
    cache = home / "cache"
    before = sorted(cache.rglob("*"))
    words = ("cache", "gc", "--cache", cache, "--model", "good*")
    would = _json(*words)
    assert would["dry_run"] and would["freed"] == 0 and would["would_free"] > 0
    assert {row["reason"] for row in would["entries"]} == {"model named"}
    assert sorted(cache.rglob("*")) == before
    assert "--yes removes" in _run(*words).stdout and sorted(cache.rglob("*")) == before
    done = _json(*words, "--yes")
    assert done["freed"] == would["would_free"] and all(row["removed"] for row in done["entries"])
    assert {row["state"] for row in _json("cache", "list", "--cache", cache)} <= {"unfinished"}


def test_cache_gc_by_size_age_and_orphans(home: Path) -> None:
    words = ("cache", "gc", "--cache", home / "cache")
    assert _json(*words, "--max-size", "1GB", "--older-than", "1d", "--orphans")["entries"] == []
    time.sleep(0.01)
    assert len(_json(*words, "--max-size", "0")["entries"]) >= 2
    assert len(_json(*words, "--older-than", "0s")["entries"]) >= 2


def test_cache_verify_names_the_damaged_and_removes_it(home: Path) -> None:
    cache = home / "cache"
    assert _run("cache", "verify", "--cache", cache).exit_code == 0
    part = next(cache.rglob("part-00000.npy"))
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    found = _run("cache", "verify", "--cache", cache)
    assert found.exit_code == 1
    assert "part-00000.npy does not match its digest" in found.stdout and part.parent.name in found.stdout
    removed = _run("cache", "verify", "--cache", cache, "--delete-bad")
    assert removed.exit_code == 0 and not part.parent.exists()
    assert _run("cache", "verify", "--cache", cache).exit_code == 0


def test_ages_and_sizes() -> None:
    assert [parse_age(text, "x") for text in ("90s", "5m", "12h", "30d", "1.5w")] == [
        90,
        300,
        43200,
        2592000,
        907200,
    ]
    assert [parse_size(text, "x") for text in ("0", "500MB", "1.5 gb", "2T")] == [
        0,
        5 * 10**8,
        15 * 10**8,
        2 * 10**12,
    ]
    for text in ("30", "d", "-1d", "1y"):
        with pytest.raises(UsageError, match="no age"):
            parse_age(text, "--older-than")
    for text in ("", "GB", "-1", "1XB"):
        with pytest.raises(UsageError, match="no size"):
            parse_size(text, "--max-size")


def test_results_list_and_show(home: Path) -> None:
    where = ("--results", home / "reports")
    records = _json("results", "list", *where)
    assert {r["model"]["name"] for r in records} == {"good@micro", "broken@micro"}
    chosen = _json("results", "list", *where, "--model", "good*", "--metric", "acc?", "--status", "ok")
    assert [r["metric"] for r in chosen] == ["acc1"]
    assert "broken@micro" in _run("results", "list", *where, "--runs", "--status", "failed").stdout
    with pytest.raises(UsageError, match="unknown status 'okay'"):
        _run("results", "list", *where, "--status", "okay")
    key = chosen[0]["key"]
    line = next(line for line in _run("results", "list", *where).stdout.splitlines() if key[:12] in line)
    low, high = chosen[0]["interval"]["low"], chosen[0]["interval"]["high"]
    assert f"{chosen[0]['value']:.4g}" in line and f"[{low:.4g}, {high:.4g}]" in line and " 10 " in line
    shown = _run("results", "show", key[:10], *where).stdout
    for fact in ("digest-of-good", "provenance.packages.torch", "provenance.argv", key, "wilson"):
        assert fact in shown
    assert _json("results", "show", key, *where)["key"] == key
    with pytest.raises(UsageError, match="no score 'zz'"):
        _run("results", "show", "zz", *where)
    with pytest.raises(UsageError, match="no score ''"):
        _run("results", "show", "", *where)


def test_results_there_and_back(home: Path) -> None:
    where = ("--results", home / "reports")
    files = {}
    for name in ("csv", "json", "parquet", "clip_benchmark", "clip_benchmark-csv", "bundle"):
        files[name] = home / ("run.zip" if name == "bundle" else name)
        assert _run("results", "export", *where, "--format", name, "--out", files[name]).exit_code == 0
    assert (
        pd.read_csv(files["csv"])["metric"].tolist() == pd.read_parquet(files["parquet"])["metric"].tolist()
    )
    table = pd.read_csv(files["clip_benchmark-csv"])
    (accuracy,) = _json("results", "list", *where, "--metric", "acc1")
    assert table["acc1"].tolist() == [accuracy["value"]] and table["model_fullname"].tolist() == [
        "good micro"
    ]
    other = ("--results", home / "other")
    assert "2 new" in _run("results", "import", files["bundle"], *other).stdout
    assert _json("results", "list", *other) == _json("results", "list", *where)
    with pytest.raises(UsageError, match="how many images has pets"):
        _run("results", "import", files["clip_benchmark"], *other)
    said = _run("results", "import", files["clip_benchmark"], *other, "--n", "pets=10").stdout
    assert "1 runs of CLIP_benchmark imported" in said
    (taken,) = _json("results", "list", *other, "--suite", "imported", "--metric", "acc1")
    assert (taken["status"], taken["value"], taken["n_evaluated"]) == ("partial", accuracy["value"], 10)
    with pytest.raises(UsageError, match="nothing to export"):
        _run("results", "export", "--results", home / "nowhere")
    with pytest.raises(UsageError, match="unknown format 'parqet'"):
        _run("results", "export", *where, "--format", "parqet")
