"""``reproduce`` as a user meets it: the plan, a small run that is real, and going on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from climp_bench.cli.main import app
from climp_bench.cli.reproduce import _Planner
from climp_bench.report.experiment import write_numbers
from climp_bench.results import ResultStore
from climp_bench.run import reproduce
from tests.unit.report import trained

FEW = 'schema = 1\nname = "few"\n[[task]]\ndataset = "scenes-shape"\nn = 12\n'


def test_the_plan_says_what_runs_and_what_is_missing(tmp_path: Path) -> None:
    only = ("--only", "table 2", "--only", "figure 4", "--only", "similarity", "--only", "table 6")
    folders = ("--out", str(tmp_path / "reports"), "--cache", str(tmp_path / "cache"))
    call = ["reproduce", *only, "--model", "climp-m1", *folders]
    done = CliRunner().invoke(app, [*call, "--offline", "--json"])
    assert done.exit_code == 0, done.output
    plans = {scale: {p["part"]: p for p in parts} for scale, parts in json.loads(done.stdout).items()}
    here, paper = plans["embedded"], plans["paper"]
    assert here["ood"]["state"] == "can run" and here["ood"]["takes"]["seconds"] > 0
    assert here["similarity"]["state"] == "by hand"
    assert here["scaling-data"]["state"] == "can run" and paper["scaling-data"]["state"] == "by hand"
    assert paper["ood"]["state"] == paper["geometry"]["state"] == "cannot run"
    assert any("climp-m1@base" in why for why in paper["geometry"]["takes"]["why"])
    online = CliRunner().invoke(app, [*call, "--paper", "--device", "cpu"])
    assert "5.8 GB of weights to fetch" in online.output and "no GPU here" in online.output
    assert not (tmp_path / "reports").exists()


def test_a_run_is_real_and_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = tmp_path / "few.toml"
    suite.write_text(FEW)
    words = ("zeroshot", "--suite", str(suite))
    stages = (
        reproduce.Stage("zeroshot", "Table 1", "zero-shot", words, words),
        reproduce.Stage("later", "Table 7", "later", ("unbuilt",), ("unbuilt",)),
    )
    monkeypatch.setattr(reproduce, "STAGES", stages)
    out, cache = tmp_path / "out", tmp_path / "cache"
    call = ["reproduce", "--run", "--model", "rope-vit", "--out", str(out), "--cache", str(cache)]
    done = CliRunner().invoke(app, call)
    assert done.exit_code == 0, done.output
    assert "`climp-bench unbuilt` is not there yet" in done.output
    records = ResultStore(out / "records").read()
    assert {r.task for r in records} == {"scenes-shape"} and all(r.n_evaluated == 12 for r in records)
    page = (out / "report/index.html").read_text()
    assert "rope-vit@micro" in page and 'id="paper"' in page
    paper = (out / "report/paper.md").read_text()
    assert "| 70.5 | - | - | - | not measured |" in paper and "climp-bench ood --suite imagenet-ood" in paper
    log = out / "logs/zeroshot-embedded.log"
    written = log.stat().st_mtime_ns
    again = CliRunner().invoke(app, call)
    assert again.exit_code == 0 and "recorded" in again.output and log.stat().st_mtime_ns == written


def test_a_part_that_fails_is_told_and_the_exit_code_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = tmp_path / "few.toml"
    suite.write_text(FEW)
    good = ("zeroshot", "--suite", str(suite))
    bad = ("resolution", "--suite", str(suite), "--res", "64", "--no-such-option")
    stages = [reproduce.Stage(n, "Table 1", n, w, w) for n, w in (("bad", bad), ("good", good))]
    out, cache = tmp_path / "out", tmp_path / "cache"
    call = ["reproduce", "--run", "--model", "rope-vit", "--out", str(out), "--cache", str(cache)]
    monkeypatch.setattr(reproduce, "STAGES", tuple(stages))
    done = CliRunner().invoke(app, call)
    assert done.exit_code == 3 and "it failed" in done.output and "bad-embedded.log" in done.output
    assert (out / "report/index.html").is_file()
    monkeypatch.setattr(reproduce, "STAGES", tuple(stages[:1]))
    other = [
        "reproduce",
        "--run",
        "--model",
        "flexivit",
        "--out",
        str(tmp_path / "new"),
        "--cache",
        str(cache),
    ]
    assert CliRunner().invoke(app, other).exit_code == 1


def test_experiments_are_parts_that_run_and_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made_up(words: Sequence[str], log: Path) -> int:
        name = "-".join(words[: words.index("--out")])
        made: dict[str, Callable[[], list[Any]]] = {
            "bias": trained.bias,
            "ablation": trained.ablation,
            "scaling-data": trained.scaling,
        }
        write_numbers(name, made[name](), {}, Path(words[words.index("--out") + 1]), small=True, remarks=[])
        return 0

    monkeypatch.setattr(reproduce, "in_a_process", made_up)
    only = [word for key in ("ablation", "scaling-data", "bias") for word in ("--only", key)]
    call = ["reproduce", "--run", *only, "--device", "cpu", "--out", str(tmp_path)]
    done = CliRunner().invoke(app, call)
    assert done.exit_code == 0, done.output
    page = (tmp_path / "report/index.html").read_text()
    for key in ("ablation-scores", "scaling-data-laws", "bias-accuracy"):
        assert f'id="{key}"' in page
    paper = (tmp_path / "report/paper.md").read_text()
    assert "| Ablation | - | - | not on record | see Ablation |" in paper
    assert "| Scaling of the image tower | - | - | not on record | - | - | - | not measured |" in paper


@pytest.mark.parametrize("key", ["ablation", "scaling-data", "scaling-model", "bias"])
def test_an_experiment_is_written_where_the_report_looks_for_it(tmp_path: Path, key: str) -> None:
    (stage,) = reproduce.select([key])
    planner = _Planner(None, (), tmp_path, None, "cpu", False)
    step = reproduce.Step(stage, "embedded", "can run", planner.look(stage, "embedded"))
    words = planner.words(step)
    folder = Path(words[words.index("--out") + 1])
    assert folder.parent == tmp_path and folder.name == words[0]
    assert step.look is not None and step.look.seconds
