from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from climp_bench.data.scenes import TASKS
from climp_bench.models import store, weights
from climp_bench.models import tokenizer as tokenizers
from climp_bench.models.catalogue import find
from climp_bench.train import config as configs
from climp_bench.train import estimating, progress, shipping
from climp_bench.train.progress import Bar, Lines, Status, default_progress, format_seconds
from climp_bench.train.tokenizer import main as train_tokenizer
from tests.unit.train.conftest import TINY

STATUS = Status(loss=1.25, accuracy=0.5, images_per_s=1234.0, seconds_left=75.0)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> typer.Typer:
    """The script with a recipe of tiny size."""
    monkeypatch.setattr(configs, "MICRO", configs.TrainConfig("climp-m1", **TINY))
    monkeypatch.setattr(estimating, "CPU_BATCH", 4)
    app = typer.Typer()
    app.command()(shipping.main)
    return app


def run(command: typer.Typer, *arguments: str) -> str:
    sizes = ["--batch-size", "8", "--pool-size", "8", "--device", "cpu"]
    result = CliRunner().invoke(command, [*arguments, *sizes])
    assert result.exit_code == 0, result.output
    return result.output


def test_the_micro_models_come_out_as_the_package_ships_them(
    tmp_path: Path, command: typer.Typer, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("--out", str(tmp_path), "--families", "rope-vit,flexivit", "--samples", "16")
    output = run(command, *arguments)
    assert [line.split()[:2] for line in output.splitlines()[-3:]] == [
        ["family", "steps"], ["rope-vit", "2"], ["flexivit", "2"],
    ]  # fmt: skip
    monkeypatch.setattr(store, "SHIPPED", tmp_path / "shipped")
    monkeypatch.setenv(store.HOME_VARIABLE, str(tmp_path / "nothing"))
    for family in ("rope-vit", "flexivit"):
        choice = weights.resolve(family)
        assert choice.ref is not None and choice.ref.source == "shipped"
        assert weights.load(find(family, "micro"), choice.ref)
    assert run(command, *arguments).splitlines()[-2:] == output.splitlines()[-2:]


def test_a_cap_gives_every_family_the_same_smaller_budget(tmp_path: Path, command: typer.Typer) -> None:
    arguments = ("--out", str(tmp_path), "--families", "rope-vit,flexivit", "--samples", "1000000")
    run(command, *arguments, "--seconds-cap", "2")
    affordable = json.loads((tmp_path / "budget.json").read_text())["samples"]
    steps = {
        json.loads((tmp_path / "runs" / family / "metrics.jsonl").read_text().splitlines()[-1])["step"]
        for family in ("rope-vit", "flexivit")
    }
    assert steps == {max(1, affordable // 8)}


def test_an_unknown_family_is_an_error_with_its_exit_code(tmp_path: Path, command: typer.Typer) -> None:
    arguments = ["--out", str(tmp_path), "--families", "rope-vot", "--device", "cpu"]
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 2
    assert "Did you mean 'rope-vit'" in result.output


def test_a_line_at_the_start_at_the_end_and_from_time_to_time() -> None:
    stream = io.StringIO()
    lines = Lines(stream, seconds=3600)
    for done in range(1, 101):
        lines.advance("training x", done, 100, STATUS if done == 50 else None)
    first, last = stream.getvalue().splitlines()
    assert first == "training x 1/100"
    assert last == "training x 100/100: loss 1.250, in-batch accuracy 50.0%, 1,234 images/s, 75 s left"
    often = io.StringIO()
    lines = Lines(often, seconds=0)
    for done in range(1, 11):
        lines.advance("drawing", done, 10)
    assert len(often.getvalue().splitlines()) == 10


def test_the_bar_shows_phase_count_and_loss() -> None:
    stream = io.StringIO()
    bar = Bar(Console(file=stream, force_terminal=True, width=120))
    bar.advance("drawing pictures", 5, 5)
    bar.advance("training x", 7, 10, STATUS)
    bar.note("a note [not markup]")
    bar.close()
    shown = stream.getvalue()
    for expected in ("drawing pictures", "7/10", "loss 1.250", "a note [not markup]"):
        assert expected in shown


def test_a_bar_is_for_terminals_only(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = []
    for terminal in (False, True):
        console = Console(file=io.StringIO(), force_terminal=terminal)
        monkeypatch.setattr(progress, "Console", lambda stderr, console=console: console)
        kinds.append(type(default_progress()))
    assert kinds == [Lines, Bar]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (5399, "90 min"), (7200, "2.0 h")]
)
def test_times_are_short(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_the_tokenizer_is_learnt_from_captions_and_prompts(tmp_path: Path) -> None:
    train_tokenizer(40, tmp_path / "bpe.json")
    learnt = tokenizers.Tokenizer((tmp_path / "bpe.json").read_text())
    assert learnt.vocab_size <= 1024
    for task in TASKS:
        for name in task.classes[:3]:
            (ids,) = learnt.encode([task.templates[0].replace("{c}", name)])
            assert len(ids) < 20


def test_the_shipped_tokenizer_has_a_token_for_every_word_of_the_prompts() -> None:
    shipped = tokenizers.load("scenes-bpe")
    words = {
        f" {word}" for task in TASKS for name in task.classes
        for template in task.templates for word in template.replace("{c}", name).strip(".").split()
    }  # fmt: skip
    rows = shipped.encode(sorted(words))
    assert {len(row) for row in rows} == {2}  # the word and the end
