"""``climp-bench scaling``: scores against the number of training pairs, and against the size of the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from climp_bench.cli import ablation as shared
from climp_bench.cli import options as opt
from climp_bench.cli.ablation import Changes, Recipe, Seeds, Steps, SuiteName

app = typer.Typer(
    help="Scores against the number of training pairs, or the size of the image tower.", no_args_is_help=True
)
FAMILIES = ("climp-m1", "rope-vit")
PAIRS = (256, 512, 1024, 2048)
WIDTHS = (1, 2, 4)
Families = Annotated[
    list[str] | None,
    typer.Option("--model", "-m", help=f"A family; repeat for more. Default: {', '.join(FAMILIES)}."),
]
FEW = (
    "The law is fitted by least squares between logarithms, its interval by a bootstrap over runs; with a "
    "handful of seeds that is too narrow rather than too wide."
)


@app.command("data")
def data(
    recipe: Recipe = None,
    pairs: Annotated[
        list[int] | None,
        typer.Option("--pairs", min=2, help="Training pairs; repeat for each size. Default: 256 to 2,048."),
    ] = None,
    seeds: Seeds = 3,
    changes: Changes = None,
    model: Families = None,
    suite: SuiteName = shared.SUITE,
    data_root: opt.DataRoots = None,
    out: opt.Out = Path("reports/scaling"),
    device: opt.Device = "auto",
    fresh: opt.Fresh = False,
    json: opt.AsJson = False,
    quiet: opt.Quiet = False,
) -> None:
    """Train on more and more pairs, and fit a power law to the error: the paper's figure 4.

    Of embedded scenes so many distinct pairs, for as many passes as the recipe says (or one); of other data
    so many pairs are seen, once each. Stopped, even killed, the same command goes on where it was.

    Examples:

      climp-bench scaling data

      climp-bench scaling data --recipe climp-cc12m --pairs 1000000 --pairs 3000000 --pairs 9000000
    """
    from climp_bench.run.experiment import make_trial, pairs_edits, refuse_repeats

    families, sizes = model or list(FAMILIES), sorted(pairs or PAIRS)
    refuse_repeats(families, "--model")
    refuse_repeats(sizes, "--pairs")
    name, width = recipe or "scaling-embedded", 2 if recipe is None else None
    trials = [
        make_trial(name, [*(changes or []), *pairs_edits(name, changes or [], n)], family, seed, point=n,
                   width=width)
        for family in families for n in sizes for seed in range(seeds)
    ]  # fmt: skip
    runs = shared.carry_out(
        trials, suite, data_root, out, device, fresh, quiet or json, whole=recipe is not None
    )
    facts = shared.common_facts(name, trials, suite, runs)
    titles = ("pairs", "training pairs")
    _conclude("scaling-data", titles, runs, facts, out, small=recipe is None, json=json, quiet=quiet)


@app.command("model")
def model_(
    recipe: Recipe = None,
    scale: Annotated[
        list[str] | None,
        typer.Option("--scale", help="With --recipe: a scale of the image tower; repeat for each."),
    ] = None,
    seeds: Seeds = 3,
    steps: Steps = None,
    changes: Changes = None,
    model: Families = None,
    suite: SuiteName = shared.SUITE,
    data_root: opt.DataRoots = None,
    out: opt.Out = Path("reports/scaling"),
    device: opt.Device = "auto",
    fresh: opt.Fresh = False,
    json: opt.AsJson = False,
    quiet: opt.Quiet = False,
) -> None:
    """Train image towers of several sizes under one budget, the text tower as it is: the paper's table 7.

    By default thumbnails of three widths. Stopped, even killed, the same command goes on where it was.

    Examples:

      climp-bench scaling model

      climp-bench scaling model --recipe climp-cc12m --scale small --scale base --set data.path=/data/cc12m
    """
    from climp_bench.errors import UsageError
    from climp_bench.models.catalogue import describe
    from climp_bench.run.experiment import make_trial, refuse_repeats

    if (recipe is None) == bool(scale):
        remedy = "Name a --recipe and each --scale, or neither for the thumbnails."
        raise UsageError("scales are of whole models, which need both", where="--scale", remedy=remedy)
    families = model or list(FAMILIES)
    refuse_repeats(families, "--model")
    refuse_repeats(scale or [], "--scale")
    name = recipe or "ablation-embedded"
    edits = [*(changes or []), *shared.step_edits(name, changes or [], steps)]
    levels: list[tuple[int | None, str | None]] = [(None, level) for level in scale or []]
    levels = levels or [(width, None) for width in WIDTHS]
    made = [
        make_trial(name, edits, family, seed, width=width, scale=level)
        for family in families for width, level in levels for seed in range(seeds)
    ]  # fmt: skip
    trials = [trial.at(describe(trial.spec).image) for trial in made]
    silent = quiet or json
    runs = shared.carry_out(trials, suite, data_root, out, device, fresh, silent, whole=recipe is not None)
    facts = shared.common_facts(name, trials, suite, runs)
    titles = ("image parameters", "parameters of the image tower")
    _conclude("scaling-model", titles, runs, facts, out, small=recipe is None, json=json, quiet=quiet)


def _conclude(
    name: str, titles: tuple[str, str], runs: Sequence[Mapping[str, Any]], facts: Mapping[str, Any],
    out: Path, *, small: bool, json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Fit, write and print. ``titles`` are of the sizes in tables, and of the plot's axis."""
    from climp_bench.report.experiment import CUT, OVER, SMALL, tables, write_experiment
    from climp_bench.report.scaling import law_title, laws, plot_scaling

    (point, axis), picture, remarks = titles, out / f"{name}.png", [OVER, FEW]
    fitted = {law_title(axis): laws(runs)}
    plot_scaling(runs, axis, picture)
    written = write_experiment(name, runs, facts, out, point=point, small=small, more=fitted, remarks=remarks)
    said = [*[SMALL] * small, *remarks, CUT]
    shown = {**tables(runs, point), **fitted}
    shared.show(runs, facts, shown, said, [*written, picture], json=json, quiet=quiet)
