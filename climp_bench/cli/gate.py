"""``climp-bench gate``: hold a run against rules; ``gate update``: write a new baseline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from climp_bench.cli import console
from climp_bench.cli import options as opt
from climp_bench.errors import StoreError, UsageError
from climp_bench.files import write_text

if TYPE_CHECKING:
    from climp_bench.gate.check import Verdict
    from climp_bench.gate.rules import Gate

Rules = Annotated[str, typer.Option("--rules", "-r", help="A shipped gate's name, or path of a TOML file.")]
Results = Annotated[Path, typer.Option("--results", help="Results directory of the run to judge.")]
Baseline = Annotated[
    Path | None,
    typer.Option("--baseline", help="Baseline file or results directory. Default: the one the rules name."),
]
JUnit = Annotated[Path | None, typer.Option("--junit", help="Write JUnit XML to this file.")]
GitHub = Annotated[
    bool | None,
    typer.Option(
        "--github/--no-github",
        help="Annotations and step summary of GitHub Actions. Default: where they run.",
        show_default=False,
    ),
]
ShowAll = Annotated[bool, typer.Option("--all", help="Show every check, not only broken rules.")]


class CheckByDefault(TyperGroup):
    """``climp-bench gate --rules X`` is ``climp-bench gate check --rules X``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put ``check`` before arguments that start with no command of the group."""
        if not args or (args[0] not in self.commands and args[0] not in ("-h", "--help")):
            args = ["check", *args]
        return super().parse_args(ctx, args)


gate_app = typer.Typer(
    cls=CheckByDefault,
    help="Gates: rules that a run must keep. Without a word, `gate` is `gate check`.",
    rich_markup_mode="markdown",
)


@gate_app.command("check")
def check(
    rules: Rules = "embedded",
    results: Results = Path("reports"),
    baseline: Baseline = None,
    junit: JUnit = None,
    github: GitHub = None,
    show_all: ShowAll = False,
    json: opt.AsJson = False,
) -> None:
    """Judge a run: 0 if every rule is kept, 1 if one is broken, 2 if the rules or paths are wrong.

    A score that is missing, partial, failed or undefined fails, and so does one made by another protocol, on
    other data, on another number of samples, or at another resolution or precision than the baseline's.

    Examples:

      climp-bench gate check --rules embedded --results reports

      climp-bench gate check --rules my-gate.toml --results runs/today --baseline runs/yesterday

      climp-bench gate check --rules my-gate.toml --results runs/today --junit gate.xml --github
    """
    from climp_bench.gate.check import judge
    from climp_bench.gate.outputs import failed
    from climp_bench.gate.rules import load_gate
    from climp_bench.gate.runs import open_run

    gate, path = load_gate(rules)
    place = baseline or _named_baseline(gate, path)
    base = open_run(place).scores if place else None
    verdicts = judge(gate, open_run(results).scores, base)
    _write(gate, verdicts, junit, github)
    if json:
        import dataclasses

        console.print_json([dataclasses.asdict(verdict) for verdict in verdicts])
    else:
        _show(gate, verdicts, show_all)
    if failed(verdicts):
        raise typer.Exit(1)


@gate_app.command("update")
def update(
    rules: Rules = "embedded",
    results: Results = Path("reports"),
    baseline: Annotated[
        Path | None, typer.Option("--baseline", help="File to write. Default: the one the rules name.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would change; write nothing.")] = False,
) -> None:
    """Make a run the new baseline of a gate, and print what that changes.

    Only scores that a rule covers go into the file, which is sorted, one line a score, and meant to be
    committed. A failed or partial score is refused.

    Examples:

      climp-bench gate update --rules my-gate.toml --results runs/today --dry-run

      climp-bench gate update --rules my-gate.toml --results runs/today
    """
    from climp_bench.gate.baseline import BASELINE_SUFFIX, changes, encode_baseline, parse_baseline
    from climp_bench.gate.rules import load_gate
    from climp_bench.gate.runs import open_run

    gate, path = load_gate(rules)
    place = baseline or _named_baseline(gate, path)
    if place is None or not place.name.endswith(BASELINE_SUFFIX):
        remedy = f'Write baseline = "NAME{BASELINE_SUFFIX}" into the rules, or give --baseline.'
        raise UsageError(f"a baseline is a file *{BASELINE_SUFFIX}", where=str(place or path), remedy=remedy)
    covered = [score for score in open_run(results).scores if gate.covers(score)]
    if not covered:
        raise UsageError("no rule covers a score of this run", where=str(results), remedy="Check the rules.")
    text = encode_baseline(covered)
    old = open_run(place).scores if place.is_file() else ()
    found = changes(old, parse_baseline(text, place))
    for change in found:
        console.out.print(change.text, highlight=False, markup=False, soft_wrap=True)
    if not dry_run:
        write_text(place, text, StoreError)
    done = "would change" if dry_run else "changed"
    console.out.print(f"{place}: {len(found)} scores {done}.", highlight=False, soft_wrap=True)


def _named_baseline(gate: Gate, path: Path) -> Path | None:
    """The baseline that the rules name, from the folder they are in."""
    return None if gate.baseline is None else path.parent / gate.baseline


def _write(gate: Gate, verdicts: Sequence[Verdict], junit: Path | None, github: bool | None) -> None:
    """The files and lines for machines; asked for, or where GitHub Actions run."""
    import os

    from climp_bench.gate.outputs import to_junit, to_markdown, workflow_commands

    if junit is not None:
        write_text(junit, to_junit(gate.name, verdicts), StoreError)
    there = os.environ.get("GITHUB_ACTIONS") == "true"
    if github is False or not (github or there):
        return
    for line in workflow_commands(gate.name, verdicts):
        console.err.print(line, highlight=False, markup=False, soft_wrap=True)
    if page := os.environ.get("GITHUB_STEP_SUMMARY"):
        try:
            with Path(page).open("a", encoding="utf-8") as file:
                file.write(to_markdown(gate.name, verdicts))
        except OSError as error:
            remedy = "Unset GITHUB_STEP_SUMMARY, or give --no-github."
            what = f"the step summary cannot be written ({error.strerror})"
            raise StoreError(what, where=page, remedy=remedy) from error


def _show(gate: Gate, verdicts: Sequence[Verdict], show_all: bool) -> None:
    from rich.markup import escape
    from rich.table import Table

    from climp_bench.gate.outputs import HEAD, failed, row, summary

    shown = [v for v in verdicts if show_all or v.reasons]
    if shown:
        table = Table(box=None, pad_edge=False)
        for name in HEAD:
            number = name in ("before", "now", "change")
            table.add_column(name, justify="right" if number else "left", no_wrap=name != "why")
        for verdict in sorted(shown, key=lambda v: ("fail", "report", "pass").index(v.answer)):
            table.add_row(*map(escape, row(verdict)))
        console.print_table(table)
    state = "[bold red]failed[/bold red]" if failed(verdicts) else "[bold green]passed[/bold green]"
    line = f"Gate {escape(gate.name)} {state}: {summary(verdicts)}"
    console.out.print(line, highlight=False, soft_wrap=True)
