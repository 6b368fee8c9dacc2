"""``climp-bench ablation``: what the image tower does and what the text tower does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from climp_bench.cli import console
from climp_bench.cli import options as opt
from climp_bench.ranks import is_helper

if TYPE_CHECKING:
    from climp_bench.run.experiment import Trial

SUITE = "experiment-embedded"
Recipe = Annotated[
    str | None,
    typer.Option("--recipe", help="Train the models whole by a recipe or its path. Default: thumbnails."),
]
Seeds = Annotated[int, typer.Option("--seeds", min=1, help="Runs of each kind.")]
Steps = Annotated[
    int | None, typer.Option("--steps", min=1, help="Optimiser steps of each run, in place of the recipe's.")
]
SuiteName = Annotated[str, typer.Option("--suite", "-s", help="Suite that each model is scored on.")]
Changes = Annotated[
    list[str] | None, typer.Option("--set", help="Change the recipe: key=value; repeat for more.")
]


def ablation(
    recipe: Recipe = None,
    seeds: Seeds = 3,
    steps: Steps = None,
    changes: Changes = None,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", help="A family; repeat for more. Default: two image by three text."),
    ] = None,
    suite: SuiteName = SUITE,
    data_root: opt.DataRoots = None,
    out: opt.Out = Path("reports/ablation"),
    device: opt.Device = "auto",
    fresh: opt.Fresh = False,
    json: opt.AsJson = False,
    quiet: opt.Quiet = False,
) -> None:
    """Train every image tower with every text tower under one budget, and score them: the paper's table 8.

    By default thumbnails of the towers, for seconds each. `--recipe` trains the models themselves. Stopped,
    even killed, the same command goes on where it was.

    Examples:

      climp-bench ablation

      climp-bench ablation --recipe climp-cc12m --set data.path=/data/cc12m --suite clip-bench-31
    """
    from climp_bench.report.experiment import CUT, OVER, SMALL, plot_ablation, tables, write_experiment
    from climp_bench.run.experiment import PAIRS, make_trial, refuse_repeats

    families = model or list(PAIRS)
    refuse_repeats(families, "--model")
    name, width = recipe or "ablation-embedded", 2 if recipe is None else None
    edits = [*(changes or []), *step_edits(name, changes or [], steps)]
    trials = [make_trial(name, edits, f, seed, width=width) for f in families for seed in range(seeds)]
    runs = carry_out(trials, suite, data_root, out, device, fresh, quiet or json, whole=recipe is not None)
    facts, small = common_facts(name, trials, suite, runs), width is not None
    plot_ablation(runs, out / "ablation.png")
    written = write_experiment("ablation", runs, facts, out, small=small, remarks=[OVER])
    remarks = [*[SMALL] * small, OVER, CUT]
    show(runs, facts, tables(runs), remarks, [*written, out / "ablation.png"], json=json, quiet=quiet)


def step_edits(name: str, changes: Sequence[str], steps: int | None) -> list[str]:
    """The change to a recipe that makes it take so many steps."""
    from climp_bench.train.recipe import load

    batch = load(name, changes).budget.batch_size
    return [] if steps is None else [f"budget.samples={steps * batch}"]


def carry_out(
    trials: Sequence[Trial], suite: str, data_roots: Sequence[Path] | None, out: Path, device: str,
    fresh: bool, quiet: bool, *, whole: bool,
) -> list[dict[str, Any]]:  # fmt: skip
    """Run the trials with a bar: of trials, or for whole models of each one's steps. With their records."""
    from climp_bench.run.experiment import run_trials
    from climp_bench.run.experiment_records import with_records
    from climp_bench.suite import load
    from climp_bench.train import Quiet, default_progress

    loud = whole and not quiet
    with told(len(trials), quiet, whole) as report:
        runs = run_trials(
            trials, load(suite), out, device, data_roots=tuple(data_roots or ()), fresh=fresh,
            watcher=console.RunWatcher(0, None), report=report,
            progress=default_progress if loud else Quiet,
        )  # fmt: skip
    if is_helper():
        raise typer.Exit
    return with_records(trials, runs, out)


@contextmanager
def told(total: int, quiet: bool, whole: bool) -> Iterator[Callable[[str], None]]:
    """A function to tell of each trial that is done: by a bar, or lines where each has a bar of its own."""
    if whole and not quiet:
        yield lambda label: console.note(f"Done: {label}", always=True)
        return
    with console.steps(total + 1, quiet) as step:
        step("training")
        yield step


def common_facts(
    name: str, trials: Sequence[Trial], suite: str, runs: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """What the trials of one experiment share, and what their runs saw, for the page.

    Args:
        name: of the recipe, or its path; what it says of itself is told only if nothing was changed.
        trials: made by it.
        suite: what they were scored on.
        runs: of the trials.
    """
    from climp_bench.report.experiment import with_budget
    from climp_bench.run.experiment import departures

    recipe, specs, changed = trials[0].recipe, [trial.spec for trial in trials], departures(name, trials)
    facts: dict[str, Any] = {"recipe": f"{recipe.name}: {recipe.about}" if recipe.about else recipe.name}
    if changed:
        facts |= {"recipe": f"{recipe.name}, with changes", "changes": "; ".join(changed)}
    facts["batch"] = recipe.budget.batch_size
    if recipe.budget.epochs:
        facts["passes over the pairs"] = recipe.budget.epochs
    sides = sorted({"x".join(map(str, spec.preprocess.size)) for spec in specs})
    return {
        **with_budget(facts, runs), "learning rate": recipe.optimiser.lr, "loss": recipe.loss.kind,
        "pixels": ", ".join(sides), "scored on": suite,
    }  # fmt: skip


def show(
    runs: Sequence[Mapping[str, Any]], facts: Mapping[str, Any], tables: Mapping[str, list[list[str]]],
    remarks: Sequence[str], written: Sequence[Path], *, json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Print tables by title (head first), what there is to say of them and which files there are, or JSON."""
    if json:
        console.print_json({"facts": dict(facts), "runs": list(runs)})
        return
    from rich.table import Table

    for title, (head, *rows) in tables.items():
        shown = Table(title=title, title_justify="left")
        for name in head:
            shown.add_column(name)
        for row in rows:
            shown.add_row(*row)
        console.print_table(shown)
    if not quiet:
        for remark in remarks:
            console.note(remark, always=True)
        console.note(f"Written: {', '.join(map(str, written))}", always=True)
