"""Experiments over trained models: what is trained, kept, gone on with, and reported of it."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from climp_bench.cli.ablation import common_facts
from climp_bench.cli.console import RunWatcher
from climp_bench.cli.main import app
from climp_bench.errors import TrainingError, UsageError
from climp_bench.models.catalogue import describe, find
from climp_bench.report.experiment import plot_ablation, table, write_experiment
from climp_bench.report.scaling import curves, laws, plot_scaling
from climp_bench.run import experiment
from climp_bench.run.experiment import PAIRS, departures, make_trial, pairs_edits
from climp_bench.suite import load
from climp_bench.train.engine import Session
from climp_bench.train.thumbnail import thumbnail
from tests.conftest import png

SUITE = """schema = 1
name = "few"
[[task]]
dataset = "scenes-colour"
n = 26
[[task]]
dataset = "scenes-captions"
n = 20
ks = [5]
"""
FEW = ("--steps", "2", "--set", "data.pool_size=64", "--set", "data.held_out=4")


def run(family: str, seed: int, accuracy: float, point: int = 0) -> dict[str, Any]:
    """A made-up result."""
    image, text = {"climp-m1": ("VMamba", "Mamba-1"), "rope-vit-m1": ("RoPE-ViT", "Mamba-1")}[family]
    score = {"task": "t", "kind": "classification", "metric": "acc1", "value": accuracy, "n": 50,
             "low": accuracy - 0.1, "high": accuracy + 0.1, "chance": 0.25}  # fmt: skip
    other = {**score, "metric": "acc5"}
    return {"family": family, "image": image, "text": text, "point": point, "seed": seed, "pairs": 64,
            "parameters": 1234, "image_parameters": 500, "scores": [score, other]}  # fmt: skip


def test_pairs_are_two_image_towers_by_three_text_towers_of_like_size() -> None:
    small = [thumbnail(find(family, "micro")) for family in PAIRS]
    images, texts = {type(s.image) for s in small}, {type(s.text) for s in small}
    assert len(images) == 2 and len(texts) == 3 and len({(type(s.image), type(s.text)) for s in small}) == 6
    sizes = [describe(spec) for spec in small]
    assert max(s.image for s in sizes) < 1.1 * min(s.image for s in sizes)
    assert max(s.total for s in sizes) < 1.2 * min(s.total for s in sizes) < 260_000
    widths = [describe(thumbnail(find("rope-vit", "micro"), w)) for w in (1, 2, 4)]
    assert widths[0].image < widths[1].image < widths[2].image and len({w.text for w in widths}) == 1
    with pytest.raises(UsageError, match="no thumbnail"):
        thumbnail(find("naflexvit", "micro"))


def test_the_number_of_pairs_is_that_of_distinct_scenes_or_of_pairs_seen() -> None:
    for name, pairs, steps in (("scaling-embedded", 256, 2 * 256 // 32), ("scenes-micro", 4096, 4)):
        made = make_trial(name, pairs_edits(name, [], pairs), "rope-vit", 3)
        assert made.recipe.data.pool_size == pairs and made.recipe.budget.steps(pairs) == steps
        assert made.recipe.run.seed == 3 and made.spec == find("rope-vit", "micro")
    shards = make_trial("climp-cc12m", pairs_edits("climp-cc12m", [], 8192), "rope-vit", 0)
    assert shards.recipe.budget.steps(10**7) == 4 and shards.recipe.model.name == "rope-vit@base"
    with pytest.raises(UsageError, match="no batch"):
        pairs_edits("climp-cc12m", [], 100)


def test_settings_that_are_not_the_recipe_s_are_told() -> None:
    edits = ["budget.samples=384000", "budget.batch_size=768", "data.path=/data", "optimiser.lr=1e-3"]
    trials = [make_trial("scenes-micro", edits, family, 3) for family in ("rope-vit", "climp-m1")]
    assert departures("scenes-micro", trials) == [
        "budget.batch_size = 768 (recipe: 1024)", "budget.samples = 384000 (recipe: 1792000)",
    ]  # fmt: skip
    changed = common_facts("scenes-micro", trials, "embedded", [run("climp-m1", 0, 0.5)])
    assert "1,792,000" not in str(changed) and "1024" not in changed["recipe"]
    plain = [make_trial("scenes-micro", [], "climp-m1", 1)]
    assert departures("scenes-micro", plain) == []
    facts = common_facts("scenes-micro", plain, "embedded", [run("climp-m1", 0, 0.5)])
    assert plain[0].recipe.about in facts["recipe"] and "changes" not in facts
    passes = [
        make_trial("scenes-micro", ["budget.epochs=5", *pairs_edits("scenes-micro", ["budget.epochs=5"], n)],
                   "climp-m1", 0, point=n)
        for n in (2048, 4096)
    ]  # fmt: skip
    assert departures("scenes-micro", passes) == [
        "data.pool_size = 2048 / 4096 (recipe: 200000)", "budget.epochs = 5 (recipe: none)",
    ]  # fmt: skip


def test_a_table_has_means_over_seeds_and_differences_paired_by_seed(tmp_path: Path) -> None:
    runs = [run("climp-m1", s, 0.5 + s / 10) for s in (0, 1)] + [
        run("rope-vit-m1", s, 0.4 + s / 20) for s in (0, 1)
    ]
    head, ours, theirs, difference = table(runs)
    assert head[-1] == "t acc@1 (chance 25.0)" and ours[3] == "2"
    assert ours[-1] == "55.0 [0.0, 100.0]", "the t quantile of one degree is 12.706: -8.5 to 118.5"
    assert theirs[-1] == "42.5 [10.7, 74.3]" and difference[0] == "VMamba - RoPE-ViT"
    assert difference[-1] == "+12.5 [-19.3, +44.3]"
    assert table(runs[:1])[1][-1] == "50.0 [40.0, 60.0]", "of one seed the score's own interval"
    page, sheet, numbers = write_experiment("ablation", runs, {"batch": 32}, tmp_path, remarks=["Hear."])
    assert "| VMamba | Mamba-1 | 1,234 | 2 | 55.0" in page.read_text() and "Hear." in page.read_text()
    first = next(csv.DictReader(sheet.open()))
    assert (first["metric"], first["n"], first["seeds"], first["interval_over"]) == (
        "acc1",
        "50",
        "2",
        "seeds",
    )
    assert len(json.loads(numbers.read_text())["runs"]) == 4
    plot_ablation(runs, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes()[:4] == png(0, (4, 4))[:4]


def test_laws_are_of_the_error_and_refused_where_there_is_none(tmp_path: Path) -> None:
    runs = [run("climp-m1", s, 1 - 2 * n**-0.25, n) for n in (100, 200, 400) for s in (0, 1)]
    (curve,) = curves(runs)
    assert curve.law is not None and curve.law.exponent == pytest.approx(-0.25)
    assert laws(runs)[1] == ["t acc@1", "climp-m1", "2", "-0.250 [-0.250, -0.250]"]
    refused = laws(runs[:4])[1]
    assert refused[2] == "-" and "2 sizes, a law needs 3" in refused[3]
    assert "no interval with one seed" in laws(runs[::2])[1][3]
    assert "no error" in laws([*runs, run("climp-m1", 0, 1.0, 800)])[1][3]
    for k, some in enumerate((runs, runs[:4])):
        plot_scaling(some, "pairs", tmp_path / f"{k}.png")
        assert (tmp_path / f"{k}.png").stat().st_size > 1000


@pytest.fixture
def suite(tmp_path: Path) -> str:
    path = tmp_path / "few.toml"
    path.write_text(SUITE)
    return str(path)


def test_an_ablation_runs_and_finished_trials_are_kept(
    tmp_path: Path, suite: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    call = [
        "ablation",
        "--seeds",
        "1",
        "--model",
        "climp-llama",
        "--model",
        "rope-vit",
        *FEW,
        "--suite",
        suite,
    ]
    call += ["--out", str(out), "--device", "cpu"]
    done = CliRunner().invoke(app, call)
    assert done.exit_code == 0, done.output
    assert "nothing about the paper's claim" in " ".join(done.output.split())
    runs = json.loads((out / "ablation.json").read_text())["runs"]
    assert [(r["image"], r["text"], r["pairs"]) for r in runs] == [
        ("VMamba", "LLaMA", 64), ("RoPE-ViT", "LLaMA", 64),
    ]  # fmt: skip
    scores = {(s["task"], s["metric"]): s for s in runs[0]["scores"]}
    assert scores["scenes-colour", "acc1"]["n"] == 26 and scores["scenes-captions", "text_retrieval_recall@5"]
    assert not list(out.glob("runs/*/checkpoints/*"))

    trained: list[str] = []
    real = experiment.train_recipe

    def counted(recipe: Any, folder: Path, *rest: Any, **options: Any) -> Path:
        trained.append(recipe.model.name)
        return real(recipe, folder, *rest, **options)

    monkeypatch.setattr(experiment, "train_recipe", counted)
    (gone,) = out.glob("runs/rope-vit-*/result.json")
    gone.unlink()
    again = CliRunner().invoke(app, [*call, "--json"])
    assert again.exit_code == 0, again.output
    assert trained == ["rope-vit@micro"] and json.loads(again.stdout)["runs"] == runs
    gone.write_text("{}")
    with pytest.raises(TrainingError, match="Delete it"):
        CliRunner().invoke(app, call, catch_exceptions=False)


def test_scaling_runs_over_pairs_and_over_widths(tmp_path: Path, suite: str) -> None:
    shared = ["--model", "rope-vit", "--seeds", "1", "--suite", suite, "--out", str(tmp_path), "--json"]
    shared += ["--set", "data.held_out=4"]
    pairs = [word for n in (32, 64, 96) for word in ("--pairs", str(n))]
    for words in (["data", *pairs], ["model", *FEW[:4]]):
        done = CliRunner().invoke(app, ["scaling", *words, *shared])
        assert done.exit_code == 0, done.output
        runs = json.loads(done.stdout)["runs"]
        assert len({r["point"] for r in runs}) == len(runs) == 3
        if words[0] == "data":
            assert [(r["point"], r["pairs"]) for r in runs] == [(32, 64), (64, 128), (96, 192)]
        else:
            assert all(r["point"] == r["image_parameters"] for r in runs)
        page = (tmp_path / f"scaling-{words[0]}.md").read_text()
        facts = json.loads((tmp_path / f"scaling-{words[0]}.json").read_text())["facts"]
        if words[0] == "data":
            assert facts["passes over the pairs"] == 2 and facts["steps of a run"] == "2 to 6"
            assert facts["pairs seen by a run"] == "64 to 192"
            assert "data.pool_size = 32 / 64 / 96 (recipe: 1024)" in facts["changes"]
        else:
            assert "budget.samples = 64 (recipe: 4096)" in facts["changes"]
            assert facts["pairs seen by a run"] == "64" and "4,096" not in facts["recipe"]
        assert "N^" in page and (tmp_path / f"scaling-{words[0]}.png").is_file()
    with pytest.raises(UsageError, match="scales are of whole models"):
        CliRunner().invoke(app, ["scaling", "model", "--scale", "base"], catch_exceptions=False)


def test_a_stopped_trial_goes_on_from_its_checkpoint(
    tmp_path: Path, suite: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = ["budget.samples=192", "data.pool_size=64", "data.held_out=4", "run.checkpoint_every=2"]
    trial = make_trial("ablation-embedded", changes, "rope-vit", 0, width=2)
    watcher = RunWatcher(0, None)

    def stopped(*_: Any) -> Path:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Session, "finish", stopped)
        with pytest.raises(KeyboardInterrupt):
            experiment.run_trials([trial], load(suite), tmp_path / "x", "cpu", watcher=watcher)
    assert list(tmp_path.glob("x/runs/*/checkpoints/step-*6")) and not list(
        tmp_path.glob("x/runs/*/result.json")
    )
    steps: list[int] = []
    real = Session._take

    def counted(self: Session, *rest: Any) -> None:
        steps.append(self.step)
        real(self, *rest)

    monkeypatch.setattr(Session, "_take", counted)
    (result,) = experiment.run_trials([trial], load(suite), tmp_path / "x", "cpu", watcher=watcher)
    assert steps == [] and result["pairs"] == 192
