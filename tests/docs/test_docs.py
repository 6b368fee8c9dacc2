"""The documentation does not lie: commands exist and are told, links lead somewhere, examples parse."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.main import get_command

from climp_bench.cli.main import app
from tests.docs.checks import broken_links, leaf_commands, parse_fault, shown_commands, undocumented
from tests.gates.checks import ROOT

FOLDERS = ("docs", "design", "reports", "climp_bench", "suites")
DOCUMENTS = [
    *sorted(ROOT.glob("*.md")),
    *sorted(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.md")),
]
MANUAL = [d for d in DOCUMENTS if d.parent == ROOT or d.is_relative_to(ROOT / "docs")]
COMMANDS = get_command(app)


def name(document: Path) -> str:
    return str(document.relative_to(ROOT))


def test_every_command_is_documented() -> None:
    text = "\n".join(d.read_text(encoding="utf-8") for d in MANUAL)
    missing = sorted(undocumented(COMMANDS, text))
    assert not missing, "show in README.md or docs/: " + ", ".join(missing)


@pytest.mark.parametrize("path", [path for path, _ in leaf_commands(COMMANDS)], ids=" ".join)
def test_every_command_explains_itself(path: tuple[str, ...]) -> None:
    command = dict(leaf_commands(COMMANDS))[path]
    assert command.help and len(command.help.split()) >= 3
    unexplained = [p.name for p in command.params if not getattr(p, "help", "help")]
    assert unexplained == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_relative_links_lead_somewhere(document: Path) -> None:
    assert broken_links(document) == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_shown_commands_parse(document: Path) -> None:
    calls = list(shown_commands(document.read_text(encoding="utf-8")))
    assert {" ".join(w): f for w in calls if (f := parse_fault(COMMANDS, w))} == {}


def test_the_readme_shows_the_main_job_and_what_ci_runs() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert ["zeroshot"] in list(shown_commands(readme))
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    steps = [line for line in script if line and not line.startswith(("#", "set ", "cd "))]
    assert len(steps) == 3 and " && ".join(steps) in readme


def planted_app() -> typer.Typer:
    planted, group = typer.Typer(callback=lambda: None), typer.Typer()

    @planted.command()
    def score(model: str, k: int = 5) -> None:
        """Score a model."""

    @group.command("list")
    def list_models() -> None:
        """List models."""

    @group.command()
    def show() -> None:
        """Show a model."""

    planted.add_typer(group, name="models")
    return planted


def test_an_undocumented_command_is_caught() -> None:
    text = "Run `climp-bench models list` or `climp-bench scores`."
    assert undocumented(get_command(planted_app()), text) == {"climp-bench score", "climp-bench models show"}


def test_a_broken_link_is_caught(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("x")
    page = tmp_path / "page.md"
    page.write_text("[a](there.md#part) ![b](gone.png) [c](https://example.org/x) [d](#here) [e](<lost.md>)")
    assert broken_links(page) == {"gone.png", "lost.md"}


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("climp-bench score m --k 3", None),
        (".venv/bin/climp-bench --help", None),
        ("climp-bench models list", None),
        ("climp-bench score m --kk 3", "kk"),
        ("climp-bench score m --k three", "--k"),
        ("climp-bench score", "Missing"),
        ("climp-bench modles list", "modles"),
        ("climp-bench models lost", "lost"),
    ],
)
def test_a_command_that_does_not_parse_is_caught(line: str, fault: str | None) -> None:
    (words,) = shown_commands(f"Text.\n\n```sh\ncd x && {line}  # comment\n```\n")
    found = parse_fault(get_command(planted_app()), words)
    assert found is None if fault is None else found is not None and fault in found
