"""``climp-bench resolution``: scores against the size of the input."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from climp_bench.cli import options as opt

Sizes = Annotated[
    str,
    typer.Option("--res", help="Sizes in pixels: 224..896 (a ladder), 64..128:16 (steps) or 64,96,128."),
]


def resolution(
    context: typer.Context,
    model: opt.Models = None,
    suite: opt.Suites = None,
    res: Sizes = "64,96,128",
    scale: opt.Scale = None,
    data_root: opt.DataRoots = None,
    out: opt.Out = Path("reports"),
    cache: opt.Cache = None,
    device: opt.Device = "auto",
    dtype: opt.DType = "float32",
    backend: opt.Backend = "auto",
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
    """Accuracy and recall of every model at several input sizes, without retraining.

    Every tower takes other sizes as its paper prescribes: scans over more pixels, rotary tables rebuilt,
    position tables resampled, native aspect ratio. Writes `OUT/resolution-SUITE.md`, `.csv` and `.png`.

    Examples:

      climp-bench resolution

      climp-bench resolution --model climp-m1 --model rope-vit --res 64..160:32

      climp-bench resolution --scale base --res 224..896 --suite my-suite.toml --data-root ~/data
    """
    from climp_bench.cli.evaluate import Output, run_suites
    from climp_bench.cli.prepare import Selection
    from climp_bench.cli.tables import show_resolution
    from climp_bench.embed.cache import default_root
    from climp_bench.report.resolution import write_resolution
    from climp_bench.run.plan import Settings
    from climp_bench.specs import parse_resolutions
    from climp_bench.suite import load_all

    sizes = parse_resolutions(res)
    selection = Selection(
        names=model, scale=scale, device=device, dtype=dtype, backend=backend, weights=weights,
        tokenizer=tokenizer, random_weights=random_weights, offline=offline, quiet=quiet or json,
    )  # fmt: skip
    settings = Settings(
        out=out, cache=cache or default_root(), data_roots=tuple(data_root or ()), fresh=fresh,
        workers=opt.default_workers(workers, device), seed=seed, debug=context.obj["debug"],
        skip_corrupt=skip_corrupt, rank_timeout=rank_timeout,
    )  # fmt: skip
    output = Output(write_resolution, show_resolution)
    suites = load_all(suite or ["resolution-embedded"])
    run_suites(suites, selection, settings, output, json=json, sizes=sizes, dry_run=dry_run)
