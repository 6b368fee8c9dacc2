"""``climp-bench zeroshot``: zero-shot classification and retrieval."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import typer

from climp_bench.cli import options as opt


def zeroshot(
    context: typer.Context,
    model: opt.Models = None,
    suite: opt.Suites = None,
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
    retrain: opt.Retrain = False,
    weights: opt.Weights = None,
    tokenizer: opt.TokenizerFile = None,
    random_weights: opt.RandomWeights = False,
    offline: opt.Offline = False,
    dry_run: opt.DryRun = False,
    rank_timeout: opt.RankTimeout = 600.0,
    json: opt.AsJson = False,
    quiet: opt.Quiet = False,
) -> None:
    """Zero-shot classification and retrieval of every model on every task of a suite.

    With no arguments: the five families at scale micro on the embedded suite; needs no network and no GPU.
    Writes `OUT/zeroshot-SUITE.md`, `.csv`, `.png` and one record file per model and task under `OUT/records`.

    Examples:

      climp-bench zeroshot

      climp-bench zeroshot --model climp-m1 --model rope-vit --data-root ~/data --suite my-suite.toml

      climp-bench zeroshot --model climp-m1 --scale base --device cuda --backend torch

      climp-bench zeroshot --model climp-m1@micro --model open_clip:ViT-B-32/laion2b_s34b_b79k
    """
    from climp_bench.cli.evaluate import Output, run_suites
    from climp_bench.cli.prepare import Selection
    from climp_bench.cli.tables import show_scores
    from climp_bench.embed.cache import default_root
    from climp_bench.report.page import write_report
    from climp_bench.run.plan import Settings
    from climp_bench.suite import load_all

    selection = Selection(
        names=model, scale=scale, device=device, dtype=dtype, backend=backend, tokenizer=tokenizer,
        weights=weights, random_weights=random_weights, offline=offline, retrain=retrain, quiet=quiet or json,
    )  # fmt: skip
    settings = Settings(
        out=out, cache=cache or default_root(), data_roots=tuple(data_root or ()), fresh=fresh,
        workers=opt.default_workers(workers, device), seed=seed, debug=context.obj["debug"],
        skip_corrupt=skip_corrupt, rank_timeout=rank_timeout,
    )  # fmt: skip
    output = Output(partial(write_report, command="zeroshot"), show_scores)
    run_suites(load_all(suite or ["embedded"]), selection, settings, output, json=json, dry_run=dry_run)
