"""``climp-bench efficiency`` as a user meets it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from climp_bench.cli.main import main
from tests.cli.test_commands import climp


def here(monkeypatch: pytest.MonkeyPatch, home: Path, *words: str) -> int | str | None:
    """The command in this process and in the folder ``home``; its exit code."""
    monkeypatch.chdir(home)
    monkeypatch.setattr(sys, "argv", ["climp-bench", "efficiency", *words])
    with pytest.raises(SystemExit) as stop:
        main()
    return stop.value.code


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--res", "224-896"), "Did you mean 224..896?"),
        (("--res", "huge"), "Write 224..896"),
        (("--text", "77-2048"), "Did you mean 77..2048?"),
        (("--batch-sizes", "many"), "--batch-sizes"),
        (("--model", "rope-vitt"), "Did you mean 'rope-vit'"),
        (("--model", "climp-m1@huge"), "base"),
        (("--model", "open_clip:ViT-B-32"), "catalogue"),
        (("--model", "climp-m1", "--baseline", "rope-vit"), "climp-m1"),
        (("--device", "mta"), "--device"),
        (("--dtype", "float8"), "float16"),
    ],
)
def test_wrong_words_are_explained(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    says: str,
) -> None:
    assert here(monkeypatch, tmp_path, *words) in (1, 2)
    printed = capsys.readouterr()
    assert says in printed.err and printed.out == ""
    assert not (tmp_path / "reports").exists()


def test_help_tells_of_sizes_budget_and_devices(tmp_path: Path) -> None:
    done = climp("efficiency", "--help", home=tmp_path)
    for word in ("--res", "--text", "--budget", "--batch-sizes", "--baseline", "meta", "Examples"):
        assert word in done.stdout


def test_counts_of_the_paper_in_one_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--device", "meta", "--model", "climp-m1", "--model", "rope-vit", "--res", "896", "--json")
    assert here(monkeypatch, tmp_path, *words) == 0
    printed = capsys.readouterr()
    macs = {r["model"]["family"]: r["value"] for r in json.loads(printed.out) if r["metric"] == "macs"}
    assert macs == {"climp-m1": 244_698_316_800, "rope-vit": 449_674_758_144} and printed.err == ""
    assert "259.7" in (tmp_path / "reports" / "efficiency-meta.md").read_text()


def test_a_cell_is_measured_in_its_own_process_and_reused(tmp_path: Path) -> None:
    words = ("efficiency", "--model", "rope-vit@micro", "--res", "64", "--budget", "2", "--out", "o")
    done = climp(*words, home=tmp_path)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert "latency at batch 1, ms (median)" in done.stdout and "rope-vit@micro" in done.stdout
    pages = sorted(path.name for path in (tmp_path / "o").iterdir() if path.is_file())
    assert pages == [f"efficiency-cpu.{suffix}" for suffix in ("csv", "md", "png", "svg")]
    again = climp(*words, home=tmp_path)
    assert again.stdout == done.stdout
