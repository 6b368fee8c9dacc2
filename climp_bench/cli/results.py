"""``climp-bench results``: list, show, export, import."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from climp_bench.cli import console
from climp_bench.cli import options as opt

if TYPE_CHECKING:
    from climp_bench.results import ResultStore, RunRecord
    from climp_bench.results.export import Filter

results_app = typer.Typer(
    no_args_is_help=True,
    help="Results: what was measured, with its provenance, for other programs and from them.",
    rich_markup_mode="markdown",
)
Results = Annotated[
    Path, typer.Option("--results", "-r", help="The --out folder of the evaluations, or its `records`.")
]
Models = Annotated[list[str] | None, typer.Option("--model", "-m", help="Only these; * and ? match.")]
Suites = Annotated[list[str] | None, typer.Option("--suite", "-s", help="Only these; * and ? match.")]
Tasks = Annotated[list[str] | None, typer.Option("--task", "-t", help="Only these; * and ? match.")]
Metrics = Annotated[list[str] | None, typer.Option("--metric", help="Only these; * and ? match.")]
Statuses = Annotated[list[str] | None, typer.Option("--status", help="ok, partial, failed or skipped.")]


@results_app.command("list")
def list_results(
    results: Results = Path("reports"),
    model: Models = None,
    suite: Suites = None,
    task: Tasks = None,
    metric: Metrics = None,
    status: Statuses = None,
    runs: Annotated[
        bool, typer.Option("--runs", help="One line an evaluation in place of one a score.")
    ] = False,
    json: opt.AsJson = False,
) -> None:
    """List the scores of a results folder, each with its n, interval and status.

    Examples:

      climp-bench results list --model 'climp-*' --metric acc1

      climp-bench results list --runs --status failed
    """
    store = _open(results)
    records = _filter(model, suite, task, metric, status).choose(store.read())
    if json:
        console.print_json([record.model_dump(mode="json") | {"key": record.key} for record in records])
    elif not records:
        console.out.print(f"No such results in {store.root}.", highlight=False, soft_wrap=True)
    elif runs:
        _show_runs(records)
    else:
        _show_scores(records)


@results_app.command("show")
def show_result(
    key: Annotated[str, typer.Argument(help="The key of a score, or as much of its start as is unique.")],
    results: Results = Path("reports"),
    json: opt.AsJson = False,
) -> None:
    """Show one score with all its provenance: code, packages, host, weights, data, command line.

    Example:

      climp-bench results show 3f2a91c04b7d
    """
    from climp_bench.errors import UsageError

    store = _open(results)
    found = [record for record in store.read() if record.key.startswith(key)] if key else []
    if len(found) != 1:
        what = f"{len(found)} scores have a key that starts with {key!r}" if found else f"no score {key!r}"
        remedy = "`climp-bench results list` shows the keys."
        if found:
            remedy = "Which of them? " + ", ".join(
                f"{r.key[:16]} ({r.model.name}, {r.metric})" for r in found
            )
        raise UsageError(what, where=str(store.root), remedy=remedy)
    (record,) = found
    facts = record.model_dump(mode="json") | {"key": record.key, "file": str(store.path_of(record))}
    if json:
        console.print_json(facts)
        return
    lines = list(_lines(facts))
    width = max(len(name) for name, _ in lines)
    for name, text in lines:
        console.out.print(f"{name:<{width}}  {text}", highlight=False, markup=False, soft_wrap=True)


@results_app.command("export")
def export_results(
    results: Results = Path("reports"),
    format: Annotated[
        str,
        typer.Option(
            "--format", "-f", help="csv, json, parquet, clip_benchmark, clip_benchmark-csv or bundle."
        ),
    ] = "csv",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File, or folder for clip_benchmark's JSON files.")
    ] = None,
    model: Models = None,
    suite: Suites = None,
    task: Tasks = None,
    metric: Metrics = None,
    status: Statuses = None,
    quiet: opt.Quiet = False,
) -> None:
    """Write scores for other programs.

    `clip_benchmark` writes one JSON file a run with CLIP_benchmark's own keys, `clip_benchmark-csv` the CSV
    that its `build` makes of them; both take zero-shot classification and retrieval only. `bundle` is a zip
    of the records with their outcomes, to be imported elsewhere.

    Examples:

      climp-bench results export --format parquet --out scores.parquet

      climp-bench results export --format clip_benchmark-csv --suite embedded --out benchmark.csv

      climp-bench results export --format bundle --out run.zip
    """
    from climp_bench.errors import UsageError
    from climp_bench.registry import unknown
    from climp_bench.results.export import FORMATS

    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    way, store = FORMATS[format], _open(results)
    records = _filter(model, suite, task, metric, status).choose(store.read())
    if not records:
        remedy = "`climp-bench results list` shows what is there."
        raise UsageError("there is nothing to export", where=str(store.root), remedy=remedy)
    path = out or Path(way.default)
    count = way.write(records, store, path)
    console.out.print(f"Written: {path} ({count:,} {way.unit})", highlight=False, soft_wrap=True)
    missing = sum(record.value is None for record in records)
    if missing and format.startswith("clip_benchmark") and not quiet:
        console.note(f"{missing} failed or undefined scores are left out.", always=True)


@results_app.command("import")
def import_results(
    paths: Annotated[
        list[Path], typer.Argument(help="Bundles (.zip), CLIP_benchmark's JSON files, or folders of them.")
    ],
    results: Results = Path("reports"),
    n: Annotated[
        list[str] | None,
        typer.Option(
            "--n", help="DATASET=IMAGES for CLIP_benchmark's files, which do not say; repeat for more."
        ),
    ] = None,
    suite: Annotated[
        str, typer.Option("--suite", "-s", help="Suite to list CLIP_benchmark's results under.")
    ] = "imported",
    replace: Annotated[
        bool, typer.Option("--replace", help="Whether what is imported replaces other results of the same.")
    ] = False,
) -> None:
    """Take results from a bundle or from CLIP_benchmark into a results folder.

    Everything is checked before anything is written. A result of CLIP_benchmark keeps no sample count and no
    outcomes: it is imported as `partial`, without interval, and never passes a gate.

    Examples:

      climp-bench results import run.zip

      climp-bench results import benchmark/results --n imagenet1k=50000
    """
    from climp_bench.results.bundle import read_bundle
    from climp_bench.results.clip_benchmark import import_run, read_run

    store = _open(results)
    bundles = [path for path in paths if path.suffix == ".zip"]
    files = [file for path in paths if path not in bundles for file in _json_files(path)]
    counts = _counts(n or [])
    records = [
        import_run(run, counts(run.dataset, file), file, suite) for file in files for run in [read_run(file)]
    ]
    for path in bundles:
        done = read_bundle(path, store, replace=replace)
        text = f"{len(done.new)} new, {len(done.equal)} there already, {len(done.replaced)} replaced"
        console.out.print(
            f"{path}: {text}, {len(done.kept)} kept as they were", highlight=False, soft_wrap=True
        )
        if done.kept:
            console.note(f"Other results of the same were there: {', '.join(done.kept)}", always=True)
            console.note("--replace takes those of the bundle.", always=True)
    kept = 0
    for group in records:
        if store.path_of(group[0]).is_file() and not replace:
            kept += 1
        else:
            store.write(group)
    if files:
        text = f"{len(records) - kept} runs of CLIP_benchmark imported, {kept} kept as they were"
        console.out.print(text, highlight=False)


def _open(results: Path) -> ResultStore:
    from climp_bench.errors import UsageError
    from climp_bench.results import ResultStore

    if results.is_file():
        raise UsageError("is a file, not a folder of results", where=str(results), remedy="Name its folder.")
    return ResultStore(results if results.name == "records" else results / "records")


def _filter(
    model: list[str] | None,
    suite: list[str] | None,
    task: list[str] | None,
    metric: list[str] | None,
    status: list[str] | None,
) -> Filter:
    from typing import get_args

    from climp_bench.registry import unknown
    from climp_bench.results.export import Filter
    from climp_bench.results.schema import Status

    for word in status or ():
        if word not in get_args(Status):
            raise unknown("status", word, get_args(Status))
    groups = (model, suite, task, metric, status)
    models, suites, tasks, metrics, statuses = (tuple(group or ()) for group in groups)
    return Filter(models, suites, tasks, metrics, statuses)


def _show_scores(records: Sequence[RunRecord]) -> None:
    from rich.table import Table

    table = Table("model", "suite", "task", "metric", box=None, pad_edge=False)
    for name in ("value", "interval", "n", "status", "px", "key"):
        table.add_column(name, justify="right" if name in ("value", "interval", "n", "px") else "left")
    for r in records:
        value = "" if r.value is None else f"{r.value:.4g}"
        interval = f"[{r.interval.low:.4g}, {r.interval.high:.4g}]" if r.interval else ""
        size = "x".join(map(str, r.resolution)) if r.resolution else ""
        names = (r.model.name, r.suite, r.task, r.metric)
        cells = (value, interval, f"{r.n_evaluated:,}", r.status, size, r.key[:12])
        table.add_row(*names, *(cell.replace("[", "\\[") for cell in cells))
    console.print_table(table)


def _show_runs(records: Sequence[RunRecord]) -> None:
    from rich.table import Table

    from climp_bench.results import slot_key

    groups: dict[str, list[RunRecord]] = {}
    for record in records:
        groups.setdefault(slot_key(record), []).append(record)
    table = Table(
        "model", "suite", "task", "status", "scores", "px", "dtype", "started", box=None, pad_edge=False
    )
    for group in groups.values():
        first = group[0]
        states = {record.status for record in group}
        state = next((s for s in ("failed", "partial", "ok") if s in states), "skipped")
        size = "x".join(map(str, first.resolution)) if first.resolution else ""
        started = f"{first.provenance.started_at:%Y-%m-%d %H:%M}"
        names = (first.model.name, first.suite, first.task, state, str(len(group)))
        table.add_row(*names, size, first.provenance.dtype, started)
    console.print_table(table)


def _lines(value: Any, name: str = "") -> list[tuple[str, str]]:
    """Nested facts as (dotted name, text); what does not apply is left out."""
    if isinstance(value, dict):
        return [line for key, inner in value.items() for line in _lines(inner, f"{name}.{key}".lstrip("."))]
    if isinstance(value, list):
        return [(name, " ".join(map(str, value)))] if value else []
    return [] if value is None or value == "" else [(name, str(value))]


def _json_files(path: Path) -> list[Path]:
    from climp_bench.errors import StoreError

    if path.is_dir():
        found = sorted(path.rglob("*.json"))
        if not found:
            raise StoreError("holds no JSON file", where=str(path))
        return found
    return [path]


def _counts(told: Sequence[str]) -> Callable[[str, Path], int]:
    """(data set, file) -> how many images it has: as told, else as the catalogue says."""
    from climp_bench.data.catalogue import DATASETS
    from climp_bench.errors import UsageError

    known: dict[str, int] = {}
    for text in told:
        name, _, count = text.rpartition("=")
        if not name or not count.isdecimal() or int(count) == 0:
            raise UsageError(f"{text!r} is no count", where="--n", remedy="Write --n DATASET=IMAGES.")
        known[name.removeprefix("wds/")] = int(count)

    def count_of(dataset: str, file: Path) -> int:
        name = dataset.removeprefix("wds/")
        if name in known:
            return known[name]
        if name in DATASETS:
            return DATASETS.get(name).n
        what = f"how many images has {name}? CLIP_benchmark's file does not say"
        raise UsageError(what, where=str(file), remedy=f"Add --n {name}=IMAGES.")

    return count_of
