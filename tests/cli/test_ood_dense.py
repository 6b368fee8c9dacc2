"""``ood`` and ``dense`` as a user meets them."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from climp_bench.cli import console, tables
from climp_bench.cli.main import app
from tests.cli.test_commands import climp

OOD = """
schema = 1
name = "few"
[[task]]
dataset = "scenes-shape"
n = 40
[[task]]
dataset = "scenes-shape-v2"
n = 30
shifted_from = "scenes-shape"
[[task]]
dataset = "scenes-shape-o"
n = 30
ood_reference = "scenes-shape"
"""
DENSE = 'schema = 1\nname = "few"\n[[task]]\ndataset = "scenes-dense"\nn = 20\n'


def test_ood_prints_accuracy_drop_detection_and_average(tmp_path: Path) -> None:
    (tmp_path / "few.toml").write_text(OOD)
    words = ("ood", "--suite", "few.toml", "--model", "rope-vit")
    done = climp(*words, home=tmp_path)
    assert done.returncode == 0, done.stderr
    for text in (
        "few: accuracy",
        "few: drop",
        "few: detection",
        "average with O",
        "AUROC, max logit",
        "FPR95",
    ):
        assert text in done.stdout
    table = (tmp_path / "reports" / "ood-few.csv").read_text().splitlines()
    value = {(r["task"], r["metric"]): float(r["value"] or "nan") for r in csv.DictReader(table)}
    drop = value["scenes-shape", "acc1"] - value["scenes-shape-v2", "acc1"]
    assert value["scenes-shape-v2", "acc1_drop"] == pytest.approx(drop)
    page = (tmp_path / "reports" / "ood-few.md").read_text()
    assert "Out-of-distribution detection" in page and "Not measured" not in page


def test_dense_prints_lengths_and_recall_by_length(tmp_path: Path) -> None:
    (tmp_path / "few.toml").write_text(DENSE)
    words = ("dense", "--suite", "few.toml", "--model", "rope-vit", "--max-tokens", "16")
    done = climp(*words, home=tmp_path)
    assert done.returncode == 0, done.stderr
    for text in ("length of captions", "no limit", "image R@1", "text R@10", "cut to so many tokens"):
        assert text in done.stdout
    page = (tmp_path / "reports" / "dense-few.md").read_text()
    assert "state-space text tower" in " ".join(page.split()) and "Not measured" not in page


def test_a_suite_without_captions_fails_dense_with_a_reason(tmp_path: Path) -> None:
    (tmp_path / "few.toml").write_text(DENSE.replace("scenes-dense", "scenes-shape"))
    done = climp("dense", "--suite", "few.toml", "--model", "rope-vit", home=tmp_path)
    assert done.returncode == 1 and "this is a classification task" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_narrow_terminal_folds_words_and_keeps_every_digit(monkeypatch: pytest.MonkeyPatch) -> None:
    page = io.StringIO()
    monkeypatch.setattr(console, "out", Console(file=page, width=64, force_terminal=True, color_system=None))
    models = [f"model-{k}@micro" for k in range(5)]
    rows = [["set", "metric", "n", *models]]
    rows += [["scenes-shape-o", "AUPR, out, max logit", "12,345", *["100.0 [99.0, 100.0]"] * 5]]
    tables._show_rows("t: detection", rows, texts=2)
    shown = page.getvalue()
    assert shown.count("100.0") == 5 and "12,345" in shown and "…" not in shown and "[99.0" not in shown


def test_a_length_that_holds_no_word_is_refused() -> None:
    refused = CliRunner().invoke(app, ["dense", "--max-tokens", "2"])
    assert refused.exit_code == 2 and "--max-tokens" in refused.output
