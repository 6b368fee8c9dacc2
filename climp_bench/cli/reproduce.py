"""``climp-bench reproduce``: the whole paper, planned and carried out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from climp_bench.cli import console
from climp_bench.cli import options as opt

if TYPE_CHECKING:
    from climp_bench.run.plan import Measure
    from climp_bench.run.reproduce import Done, Look, Scale, Stage, Step

Run = Annotated[bool, typer.Option("--run", "--yes", "-y", help="Run what can run. Default: only the plan.")]
Only = Annotated[
    list[str] | None,
    typer.Option("--only", help="A part: zeroshot, ood, 'table 2', figure-3, ...; repeat for more."),
]
Paper = Annotated[
    bool,
    typer.Option("--paper", help="Run the paper's scale and data, fetching them, not the embedded twins."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only the plan, also with --run.")]
_MEASURES: dict[str, Measure] = {
    "zeroshot": "task", "resolution": "task", "ood": "ood", "dense": "dense", "geometry": "geometry",
}  # fmt: skip
_SUITES = {
    "zeroshot": "embedded", "resolution": "resolution-embedded", "ood": "ood-embedded",
    "dense": "dense-embedded", "geometry": "geometry-embedded",
}  # fmt: skip
_START_S = 6.0
_TRAINING_S = {"ablation": 200.0, "scaling": 200.0, "bias": 200.0}
"""Of the embedded experiments on one core; nothing that is kept is trained again."""
_TRAINING = "trains models of its own, and goes on where it stopped; of finished runs only the report is made"
_NO_GPU = "no GPU here: times are of this CPU, and so is memory; the paper's are of a GPU"


def reproduce(
    run: Run = False,
    only: Only = None,
    paper: Paper = False,
    dry_run: DryRun = False,
    model: opt.Models = None,
    data_root: opt.DataRoots = None,
    out: opt.Out = Path("reports"),
    cache: opt.Cache = None,
    device: opt.Device = "auto",
    offline: opt.Offline = False,
    json: opt.AsJson = False,
    quiet: opt.Quiet = False,
) -> None:
    """Plan the whole paper, table by table, run what can run here, and report it beside the paper's figures.

    Without `--run` it only says what can run, what is missing (weights, data, a GPU), how much is to be
    fetched and roughly how long it takes: on the embedded data, and at the paper's scale. A run skips what is
    recorded; a part that fails leaves the others alone (exit code 3). It ends with `OUT/report/index.html`
    and `OUT/report/paper.md`, the paper against what was measured.

    Examples:

      climp-bench reproduce

      climp-bench reproduce --run

      climp-bench reproduce --only "table 2" --only geometry --run

      climp-bench reproduce --paper --run --data-root ~/data
    """
    from climp_bench.run.reproduce import plan, select

    stages = select(only)
    planner = _Planner(model, tuple(data_root or ()), out, cache, device, offline)
    scales: tuple[Scale, ...] = ("paper",) if paper else ("embedded",) if run else ("embedded", "paper")
    commands = _commands()
    plans = {scale: plan(stages, scale, commands, partial(planner.look, scale=scale)) for scale in scales}
    if json:
        console.print_json({scale: [_as_json(step) for step in steps] for scale, steps in plans.items()})
    else:
        for scale, steps in plans.items():
            _show_plan(scale, steps)
    if run and not dry_run:
        _run(plans["paper" if paper else "embedded"], planner, quiet or json)
    elif not (quiet or json):
        console.note("Nothing was run. `climp-bench reproduce --run` runs the embedded twins.", always=True)


def _commands() -> set[str]:
    """The commands that climp-bench has."""
    from typer.main import get_command

    from climp_bench.cli.main import app

    return set(getattr(get_command(app), "commands", {}))


class _Planner:
    """Looks at stages, and writes their command lines."""

    def __init__(
        self,
        models: Sequence[str] | None,
        data_roots: tuple[Path, ...],
        out: Path,
        cache: Path | None,
        device: str,
        offline: bool,
    ) -> None:
        self.models, self.data_roots, self.out, self.cache = models, data_roots, out, cache
        self.device, self.offline = device, offline

    def words(self, step: Step) -> list[str]:
        """The command of a step, with the options of this one."""
        words = list(step.stage.words(step.scale))
        if words[0] not in (*_MEASURES, "efficiency"):
            return [*words, "--out", str(self.out / words[0]), "--device", self.device, "--quiet"]
        words += [word for name in self.models or () for word in ("--model", name)]
        words += ["--scale", "micro" if step.scale == "embedded" else "base"]
        words += ["--out", str(self.out), "--device", self.device, "--quiet"]
        if words[0] == "efficiency":
            return words
        words += [word for root in self.data_roots for word in ("--data-root", str(root))]
        words += ["--cache", str(self.cache)] if self.cache else []
        return words + ["--offline"] * (self.offline or step.scale == "embedded")

    def look(self, stage: Stage, scale: Scale) -> Look:
        """What a stage would take, without reading a model or an image."""
        from climp_bench.run.reproduce import Look

        words = stage.words(scale)
        sizes = _sizes(words)
        if words[0] not in (*_MEASURES, "efficiency"):
            return Look(0, seconds=_TRAINING_S[words[0]], why=(_TRAINING,))
        if words[0] == "efficiency":
            return self._cells(words, sizes, scale)
        from climp_bench.cli.geometry import suite_of
        from climp_bench.cli.prepare import Selection, survey
        from climp_bench.embed.cache import default_root
        from climp_bench.models.adapters import pick_device
        from climp_bench.models.peers import is_peer
        from climp_bench.run.dry_run import forecast, in_words, problems, totals
        from climp_bench.run.pace import seconds, weights_bytes
        from climp_bench.run.plan import Settings, make_plan

        offline = self.offline or scale == "embedded"
        selection = Selection(
            names=self.models, scale="micro" if scale == "embedded" else "base", device=self.device,
            offline=offline, quiet=True,
        )  # fmt: skip
        settings = Settings(
            out=self.out, cache=self.cache or default_root(), data_roots=self.data_roots, offline=offline,
            max_tokens=tuple(int(w) for k, w in enumerate(words) if words[k - 1] == "--max-tokens"),
        )  # fmt: skip
        named = words[words.index("--suite") + 1] if "--suite" in words else _SUITES[words[0]]
        named = words[1] if words[0] == "geometry" and len(words) > 1 else named
        encoders, unready = survey(selection)
        jobs = make_plan(encoders, [suite_of(named, list(self.data_roots))], _MEASURES[words[0]]).jobs
        found = forecast(jobs, encoders, unready, settings, sizes)
        sums = totals(found)
        here = pick_device(self.device)
        took = seconds(found, here)
        fetched = [
            f"{one.name}: about {in_words(weights_bytes(one.name))} of weights to fetch"
            for one in unready
            if not one.blocked and scale == "paper" and not is_peer(one.name)
        ]
        why = (*problems(found), *fetched, *[_NO_GPU] * (here == "cpu" and scale == "paper"))
        return Look(
            sums.evaluations, sums.recorded, sums.cannot, sums.images, sums.bytes, sums.unsized,
            None if took is None else took + _START_S, why,
        )  # fmt: skip

    def _cells(self, words: Sequence[str], sizes: Sequence[int] | None, scale: Scale) -> Look:
        from climp_bench.cli.efficiency import BUDGET_S, ROUNDS
        from climp_bench.cli.prepare import FAMILIES
        from climp_bench.models.adapters import pick_device
        from climp_bench.results import ResultStore
        from climp_bench.run.reproduce import Look

        here = pick_device(self.device)
        budget = float(words[words.index("--budget") + 1]) if "--budget" in words else BUDGET_S[here]
        level = "micro" if scale == "embedded" else "base"
        names = [name if "@" in name else f"{name}@{level}" for name in self.models or FAMILIES]
        cells = {(name, f"image-{size}") for name in names for size in sizes or ()}
        known = ResultStore(self.out / "records").read()
        recorded = {
            (r.model.name, r.task) for r in known if r.kind == "efficiency" and r.metric == "latency_ms"
        }
        left = len(cells - recorded)
        why = () if here == "cuda" else (_NO_GPU,)
        took = left * ROUNDS[here] * (budget + _START_S)
        return Look(len(cells), len(cells & recorded), seconds=took, why=why)


def _sizes(words: Sequence[str]) -> tuple[int, ...] | None:
    from climp_bench.specs import parse_resolutions

    return parse_resolutions(words[words.index("--res") + 1]) if "--res" in words else None


def _run(steps: Sequence[Step], planner: _Planner, quiet: bool) -> None:
    """Carry out a plan, then report.

    Raises:
        typer.Exit: with 3 if some parts failed, with 1 if all did or nothing could run.
    """
    from climp_bench.report.files import PAPER, write_files
    from climp_bench.run.reporting import make_report
    from climp_bench.run.reproduce import carry_out, exit_code, in_a_process

    def tell(step: Step, done: Done | None) -> None:
        if not quiet or (done is not None and done.code):
            _tell(step, done)

    done = carry_out(steps, planner.words, planner.out / "logs", in_a_process, tell)
    if not done:
        console.note("Nothing of this can run here.", always=True)
        raise typer.Exit(1)
    if all(one.code not in (None, 0, 3) for one in done):
        raise typer.Exit(1)
    made = make_report(planner.out, title="climp-bench reproduce")
    files = write_files(made, planner.out / "report")
    if not quiet:
        console.note(f"Written: {files[0]}, {files[0].with_name(PAPER)}", always=True)
    if code := exit_code(done):
        raise typer.Exit(code)


def _tell(step: Step, done: Done | None) -> None:
    from climp_bench.errors import ClimpError
    from climp_bench.run.reproduce import PARTIAL, last_error

    name = f"{step.stage.key} ({step.stage.paper})"
    if done is None:
        took = step.look.seconds if step.look else None
        console.note(f"{name}: running{f', roughly {duration(took)}' if took else ''}", always=True)
    elif done.code == 0:
        console.note(f"{name}: done in {duration(done.seconds)}", always=True)
    elif done.log is not None:
        what = "some evaluations failed" if done.code == PARTIAL else "it failed"
        console.show_error(
            ClimpError(f"{what}: {last_error(done.log)}", where=name, remedy=f"See {done.log}.")
        )


def _show_plan(scale: Scale, steps: Sequence[Step]) -> None:
    from rich.table import Table

    title = {"embedded": "embedded twins, scale micro", "paper": "the paper's data, scale base (--paper)"}
    table = Table(title=title[scale], title_justify="left", box=None, pad_edge=False)
    for name in ("paper", "part", "state", "recorded", "images", "fetch", "roughly"):
        table.add_column(name, justify="left" if name in ("paper", "part", "state") else "right")
    for step in steps:
        table.add_row(*_columns(step))
    console.print_table(table)
    for line in _missing(steps):
        console.out.print(f"- {line}", highlight=False, markup=False, soft_wrap=True)
    console.out.print()


def _columns(step: Step) -> list[str]:
    from climp_bench.run.dry_run import in_words

    stage, look = step.stage, step.look
    if look is None:
        return [stage.paper, stage.title, step.state, "-", "-", "-", "-"]
    fetch = in_words(look.bytes) if look.bytes else "-"
    if look.unsized:
        fetch = f"{fetch} + {look.unsized} sets" if look.bytes else f"{look.unsized} sets"
    took = duration(look.seconds) if step.runs and look.seconds is not None else "-"
    images = f"{look.images:,}" if look.images else "-"
    recorded = f"{look.recorded}/{look.evaluations}" if look.evaluations else "-"
    return [stage.paper, stage.title, step.state, recorded, images, fetch, took]


def _missing(steps: Sequence[Step]) -> list[str]:
    """What is missing, each reason once, with the parts that it is about."""
    about: dict[str, dict[str, None]] = {}
    for step in steps:
        reasons = list(step.look.why) if step.look else []
        if step.state == "not built":
            reasons = [f"`climp-bench {step.stage.full[0]}` is not there yet"]
        elif step.state == "by hand":
            reasons = [f"needs {step.stage.by_hand[step.scale]}"]
        for reason in reasons:
            about.setdefault(reason, {})[step.stage.key] = None
    return [f"{', '.join(keys)}: {reason}" for reason, keys in about.items()]


def duration(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3.5 h``, ``20 days``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.0f} days"


def _as_json(step: Step) -> dict[str, object]:
    look = vars(step.look) if step.look else None
    return {"part": step.stage.key, "paper": step.stage.paper, "state": step.state, "takes": look}
