"""Provenance of experiments: every run has the records of its scores, and keeps them when it is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from climp_bench.cli.main import app
from climp_bench.errors import StoreError
from climp_bench.results.experiments import LOSS, BiasRun, Trials, read_experiment
from climp_bench.run.experiment_records import run_bias_with_records, with_records
from climp_bench.run.reporting import make_report
from climp_bench.train import bias
from tests.unit.run.test_experiment import FEW, SUITE
from tests.unit.train.test_bias import FAST, toy


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs that take no time, in this process."""

    def one(data: Any, config: Any, tower: str, order: Any, seed: int, device: str) -> bias.BiasRun:
        return bias.BiasRun(tower, order, seed, 1000, (2.0, 1.0 + seed), 20 + seed, 32, 1.0)

    monkeypatch.setattr(bias, "train_one", one)
    monkeypatch.setattr("os.cpu_count", lambda: 1)


def carry_out(out: Path, *, fresh: bool = False) -> list[BiasRun]:
    """Run, and write the file as the command does."""
    runs = run_bias_with_records(toy(), FAST, 1, out, "cpu", lambda what: None, fresh)
    content = {"schema_version": 1, "name": "bias", "small": True, "facts": {}, "remarks": [], "runs": runs}
    (out / "bias.json").write_text(json.dumps(content))
    return [BiasRun.model_validate(run) for run in runs]


@pytest.mark.usefixtures("made_up")
def test_a_kept_run_keeps_its_provenance_and_a_new_one_has_its_own(tmp_path: Path) -> None:
    first = carry_out(tmp_path)
    assert {r.metric for r in first[0].records} == {LOSS, "acc1"}
    loss, accuracy = first[0].records
    assert (loss.n_evaluated, loss.value) == (32, 1.0) and accuracy.value == 20 / 32 and accuracy.interval
    backends = {run.tower: run.records[0].provenance.backends for run in first}
    assert set(backends["VMamba"]) == {"ss2d"} and backends["ViT"] == {}
    (gone,) = tmp_path.glob("runs-*/ViT-natural-0.json")
    gone.unlink()
    again = {run.name: run for run in carry_out(tmp_path)}
    for run in first:
        same = run.records[0].provenance.started_at == again[run.name].records[0].provenance.started_at
        assert same == (run.name != ("ViT", "natural", 0))
        assert "trained" not in again[run.name].records[0].extra
    newest = carry_out(tmp_path, fresh=True)
    assert {r.records[0].provenance.started_at for r in newest}.isdisjoint(
        {r.records[0].provenance.started_at for r in first}
    )


@pytest.mark.usefixtures("made_up")
def test_a_run_of_a_command_that_was_stopped_says_so(tmp_path: Path) -> None:
    bias.run_bias(toy(), FAST, 1, tmp_path, "cpu")
    (gone,) = tmp_path.glob("runs-*/ViT-natural-0.json")
    gone.unlink()
    told = {run.name: run.records[0].extra.get("trained") for run in carry_out(tmp_path)}
    assert told.pop(("ViT", "natural", 0)) is None
    assert all("an earlier command" in str(text) for text in told.values())


def test_a_trained_model_has_the_records_of_its_evaluation(tmp_path: Path) -> None:
    suite, out = tmp_path / "few.toml", tmp_path / "reports/ablation"
    suite.write_text(SUITE)
    call = ["ablation", "--seeds", "1", "--model", "rope-vit", *FEW, "--suite", str(suite)]
    call += ["--out", str(out), "--device", "cpu", "--quiet"]
    done = CliRunner().invoke(app, call)
    assert done.exit_code == 0, done.output
    content = read_experiment(out / "ablation.json")
    assert isinstance(content, Trials) and content.small
    (run,) = content.runs
    (origin,) = out.glob("runs/*/weights/*/origin.json")
    assert run.recipe_sha256 == json.loads(origin.read_text())["recipe_sha256"]
    assert {(s.task, s.metric) for s in run.scores} == {(r.task, r.metric) for r in run.records}
    first = run.records[0]
    assert first.extra["training seed"] == 0 and first.model.weights_digest and first.provenance.packages
    for folder in (tmp_path / "reports", out):
        keys = [s.key for s in make_report(folder).sections if s.tables]
        assert keys == ["ablation"], "the evaluations of its runs are no zero-shot results"
    trials: Any = [_Like(run.recipe_sha256)]
    (again,) = with_records(trials, [_bare(out)], out)
    assert again["records"] == json.loads((out / "ablation.json").read_text())["runs"][0]["records"]
    (kept,) = out.glob("runs/*/records/few/scenes-colour/*.results.json")
    kept.unlink()
    with pytest.raises(StoreError, match="is not there"):
        with_records(trials, [_bare(out)], out)


class _Like:
    """As much of a trial as is asked for."""

    def __init__(self, digest: str) -> None:
        self.recipe = type("Recipe", (), {"digest": digest})


def _bare(out: Path) -> dict[str, Any]:
    (path,) = out.glob("runs/*/result.json")
    return dict(json.loads(path.read_text()))
