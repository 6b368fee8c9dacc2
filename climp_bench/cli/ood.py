"""``climp-bench ood``: accuracy on shifted sets, and detection of what is out of distribution."""

from __future__ import annotations

from pathlib import Path

import typer

from climp_bench.cli import options as opt


def ood(
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
    weights: opt.Weights = None,
    tokenizer: opt.TokenizerFile = None,
    random_weights: opt.RandomWeights = False,
    offline: opt.Offline = False,
    dry_run: opt.DryRun = False,
    rank_timeout: opt.RankTimeout = 600.0,
    json: opt.AsJson = False,
    quiet: opt.Quiet = False,
) -> None:
    """Top-1 and top-5 accuracy on shifted sets, their average, and what was lost to the shift.

    A set that a suite calls out of distribution (`ood_reference`) also gets what such sets are made for:
    AUROC, AUPR and FPR95 of telling its images from those of the reference, by zero-shot confidence.
    Embeddings are shared with `zeroshot` through the cache. Writes `OUT/ood-SUITE.md`, `.csv` and `.png`.

    Examples:

      climp-bench ood

      climp-bench ood --model climp-m1 --model rope-vit

      climp-bench ood --suite imagenet-ood --model open_clip:ViT-B-16/laion2b_s34b_b88k --data-root ~/data
    """
    from climp_bench.cli.evaluate import Output, run_suites
    from climp_bench.cli.prepare import Selection
    from climp_bench.cli.tables import show_ood
    from climp_bench.embed.cache import default_root
    from climp_bench.report.ood import write_ood
    from climp_bench.run.plan import Settings
    from climp_bench.suite import load_all

    selection = Selection(
        names=model, scale=scale, device=device, dtype=dtype, backend=backend, weights=weights,
        tokenizer=tokenizer, random_weights=random_weights, offline=offline, quiet=quiet or json,
    )  # fmt: skip
    settings = Settings(
        out=out, cache=cache or default_root(), data_roots=tuple(data_root or ()), fresh=fresh,
        workers=opt.default_workers(workers, device), seed=seed, debug=context.obj["debug"],
        skip_corrupt=skip_corrupt, rank_timeout=rank_timeout,
    )  # fmt: skip
    output = Output(write_ood, show_ood)
    suites = load_all(suite or ["ood-embedded"])
    run_suites(suites, selection, settings, output, json=json, measure="ood", dry_run=dry_run)
