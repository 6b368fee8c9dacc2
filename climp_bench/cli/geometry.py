"""``climp-bench geometry``: how image and text embeddings lie in the shared space."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from climp_bench.cli import options as opt

if TYPE_CHECKING:
    from climp_bench.suite import Suite

Names = Annotated[
    list[str] | None,
    typer.Argument(help="Captioned data sets, or suites of them. Default: those of the embedded default."),
]
Sample = Annotated[
    int | None,
    typer.Option("--sample", min=20, help="Estimate on random subsets of so many images, with intervals."),
]


def geometry(
    context: typer.Context,
    names: Names = None,
    model: opt.Models = None,
    scale: opt.Scale = None,
    data_root: opt.DataRoots = None,
    out: opt.Out = Path("reports"),
    cache: opt.Cache = None,
    device: opt.Device = "auto",
    dtype: opt.DType = "float32",
    backend: opt.Backend = "auto",
    sample: Sample = None,
    fresh: opt.Fresh = False,
    workers: opt.Workers = None,
    skip_corrupt: opt.SkipCorrupt = False,
    seed: opt.Seed = 0,
    weights: opt.Weights = None,
    tokenizer: opt.TokenizerFile = None,
    random_weights: opt.RandomWeights = False,
    offline: opt.Offline = False,
    dry_run: opt.DryRun = False,
    rank_timeout: opt.RankTimeout = 600.0,
    json: opt.AsJson = False,
    quiet: opt.Quiet = False,
) -> None:
    """Alignment, uniformity, modality gap, effective rank and hubness of a model's embeddings.

    Exact on the whole set by default. Writes `OUT/geometry-NAME.md`, `.csv` and `.png`. Embeddings are shared
    with `zeroshot` through the cache.

    Examples:

      climp-bench geometry

      climp-bench geometry scenes-dense --model climp-m1 --model rope-vit

      climp-bench geometry my-captions --data-root ~/data --sample 1000
    """
    from climp_bench.cli.evaluate import Output, run_suites
    from climp_bench.cli.prepare import Selection
    from climp_bench.cli.tables import show_geometry
    from climp_bench.embed.cache import default_root
    from climp_bench.report.geometry import write_geometry
    from climp_bench.run.plan import Settings

    suites = [suite_of(name, data_root or []) for name in names or ["geometry-embedded"]]
    selection = Selection(
        names=model, scale=scale, device=device, dtype=dtype, backend=backend, weights=weights,
        tokenizer=tokenizer, random_weights=random_weights, offline=offline, quiet=quiet or json,
    )  # fmt: skip
    settings = Settings(
        out=out, cache=cache or default_root(), data_roots=tuple(data_root or ()), fresh=fresh,
        workers=opt.default_workers(workers, device), seed=seed, sample=sample, debug=context.obj["debug"],
        skip_corrupt=skip_corrupt, rank_timeout=rank_timeout,
    )  # fmt: skip
    output = Output(write_geometry, show_geometry)
    run_suites(suites, selection, settings, output, json=json, measure="geometry", dry_run=dry_run)


def suite_of(name: str, data_roots: list[Path]) -> Suite:
    """A suite of the data set of that name, or else the suite of that name or path."""
    from climp_bench.data.catalogue import DATASETS
    from climp_bench.registry import unknown
    from climp_bench.suite import available, load, of_dataset

    if name in DATASETS or any((root / name).is_dir() for root in data_roots):
        return of_dataset(name)
    if name in available() or name.endswith(".toml"):
        return load(name)
    raise unknown("name", name, [*available(), *DATASETS.names()])
