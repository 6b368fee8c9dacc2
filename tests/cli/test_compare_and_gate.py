"""``climp-bench compare`` and ``gate`` as a user meets them: a run, a baseline, a broken run."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from climp_bench.cli.main import main
from tests.cli.test_commands import climp

GATE = """
schema = 1
name = "mine"
baseline = "mine.baseline.json"

[[rule]]
name = "accuracy"
metric = "acc1"
tolerance = 1.0
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models on one small task, and a file of rules."""
    home = tmp_path_factory.mktemp("home")
    (home / "s.toml").write_text('schema = 1\nname = "mine"\n[[task]]\ndataset = "scenes-shape"\nn = 60\n')
    (home / "gate.toml").write_text(GATE)
    words = ("zeroshot", "-m", "rope-vit", "-m", "flexivit", "-s", "s.toml", "--out", "run")
    done = climp(*words, home=home)
    assert done.returncode == 0, done.stderr
    return home


@pytest.fixture
def here(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to work in."""
    monkeypatch.setenv("CLIMP_BENCH_HOME", str(tmp_path / "home"))
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)
    shutil.copytree(place, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """The command in this process; its exit code."""
    monkeypatch.setattr(sys, "argv", ["climp-bench", *words])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


def test_compare_models_of_one_run(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "compare", "rope-vit", "flexivit", "--results", "run") == 0
    printed = capsys.readouterr()
    assert "A rope-vit@micro" in printed.out and "acc@1" in printed.out and "detectable" in printed.out
    assert sorted(path.name for path in Path("reports").iterdir()) == [
        f"compare-rope-vit@micro-flexivit@micro.{suffix}" for suffix in ("csv", "md", "png")
    ]
    words = ("compare", "rope-vit", "flexivit", "--results", "run", "--metric", "*", "--json")
    assert call(monkeypatch, *words) == 0
    found = {d["metric"]: d for d in json.loads(capsys.readouterr().out)}
    assert found["acc1"]["p_holm"] >= found["acc1"]["p"] and found["acc1"]["n"] == 60
    assert found["mean_per_class_recall"]["finding"] == "not tested"


def test_compare_runs_that_differ_is_refused(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree("run", "other")
    assert call(monkeypatch, "compare", "run", "other") == 0
    for file in Path("other").rglob("*flexivit*.results.json"):
        file.write_text(file.read_text().replace('"protocol": "corrected"', '"protocol": "climp-authors"'))
    capsys.readouterr()
    assert call(monkeypatch, "compare", "run", "other") == 3
    assert "protocol: corrected, climp-authors" in capsys.readouterr().out
    assert call(monkeypatch, "compare", "run:flexivit", "other:flexivit") == 1
    assert "flexivit" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("compare", "rope-vit", "flexvit", "--results", "run"), "flexivit@micro"),
        (("compare", "rope-vit", "flexivit", "--results", "nowhere"), "no such results"),
        (("compare", "./nowhere", "run"), "no such results"),
        (("compare", "run", "nowhere"), "nowhere: no such results"),
        (("compare", "run:flexvit", "run"), "Did you mean 'flexivit@micro'"),
        (("gate", "--rules", "embeded"), "Did you mean 'embedded'"),
        (("gate", "--rules", "gate.toml", "--results", "nowhere"), "no such results"),
        (("gate", "--rules", "gate.toml", "--results", "run"), "no such results directory or file"),
        (("gate", "--rules", "gate.toml", "--results", "run", "--baselin", "x"), "--baseline"),
        (
            ("gate", "update", "--rules", "gate.toml", "--results", "run", "--baseline", "x.json"),
            ".baseline.json",
        ),
    ],
)
def test_wrong_words_are_explained(
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    says: str,
) -> None:
    assert call(monkeypatch, *words) == 2
    assert says in capsys.readouterr().err


def test_set_a_gate_break_something_see_it_fail(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    judge = ("gate", "--rules", "gate.toml", "--results", "run")
    update = ("gate", "update", *judge[1:])
    assert call(monkeypatch, *update, "--dry-run") == 0
    assert "2 scores would change" in capsys.readouterr().out and not Path("mine.baseline.json").exists()
    assert call(monkeypatch, *update) == 0
    assert call(monkeypatch, *judge) == 0
    assert "Gate mine passed: 0 of 2 checks failed." in capsys.readouterr().out
    broken = next(Path("run").rglob("flexivit*.results.json"))
    broken.unlink()
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "summary.md")
    assert call(monkeypatch, *judge, "--junit", "gate.xml") == 1
    printed = capsys.readouterr()
    assert "missing: it was not measured" in printed.out and "1 of 2 checks failed" in printed.out
    assert "::error title=mine%3A mine/scenes-shape acc1 flexivit@micro::missing" in printed.out + printed.err
    assert Path("summary.md").read_text().startswith("## Gate mine: failed")
    assert ElementTree.parse("gate.xml").getroot().get("failures") == "1"
    assert call(monkeypatch, *judge, "--no-github", "--json") == 1
    assert [v["answer"] for v in json.loads(capsys.readouterr().out)] == ["fail", "pass"]


def test_a_run_with_a_failure_does_not_become_a_baseline(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = 'schema = 1\nname = "mine"\n[[task]]\ndataset = "nowhere"\n'
    Path("broken.toml").write_text(suite)
    assert call(monkeypatch, "zeroshot", "-m", "rope-vit", "-s", "broken.toml", "--out", "run", "-q") == 1
    assert call(monkeypatch, "gate", "update", "--rules", "gate.toml", "--results", "run") == 1
    assert "nowhere" in capsys.readouterr().err and not Path("mine.baseline.json").exists()


def test_unreadable_results_never_pass(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "gate", "update", "--rules", "gate.toml", "--results", "run") == 0
    file = next(Path("run").rglob("*.results.json"))
    file.write_text(re.sub(r'"value": [0-9.]+', '"value": NaN', file.read_text()))
    assert call(monkeypatch, "gate", "--rules", "gate.toml", "--results", "run") == 1
    assert "NaN is not strict JSON" in capsys.readouterr().err
