"""``climp-bench dense``: retrieval with long captions, and what their length is worth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from climp_bench.cli import options as opt

MaxTokens = Annotated[
    list[int] | None,
    typer.Option("--max-tokens", min=4, help="Also with captions cut to so many tokens; repeat for a curve."),
]


def dense(
    context: typer.Context,
    model: opt.Models = None,
    suite: opt.Suites = None,
    max_tokens: MaxTokens = None,
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
    """Recall with long captions, their lengths in each model's tokens, and what is cut of them.

    Recall@1, 5 and 10 both ways; token lengths and the share of captions that a text tower cuts; recall of
    the captions that are cut and of those that are not. `--max-tokens` measures again with captions cut to so
    many tokens: what a longer context is worth. Writes `OUT/dense-SUITE.md`, `.csv` and `.png`.

    Examples:

      climp-bench dense

      climp-bench dense --model climp-m1 --max-tokens 16 --max-tokens 32 --max-tokens 64 --max-tokens 128

      climp-bench dense --suite dense-captions --data-root ~/data --model open_clip:ViT-B-16/openai
    """
    from climp_bench.cli.evaluate import Output, run_suites
    from climp_bench.cli.prepare import Selection
    from climp_bench.cli.tables import show_dense
    from climp_bench.embed.cache import default_root
    from climp_bench.report.dense import write_dense
    from climp_bench.run.plan import Settings
    from climp_bench.suite import load_all

    selection = Selection(
        names=model, scale=scale, device=device, dtype=dtype, backend=backend, weights=weights,
        tokenizer=tokenizer, random_weights=random_weights, offline=offline, quiet=quiet or json,
    )  # fmt: skip
    settings = Settings(
        out=out, cache=cache or default_root(), data_roots=tuple(data_root or ()), fresh=fresh,
        workers=opt.default_workers(workers, device), seed=seed, debug=context.obj["debug"],
        skip_corrupt=skip_corrupt, rank_timeout=rank_timeout, max_tokens=tuple(sorted(set(max_tokens or ()))),
    )  # fmt: skip
    output = Output(write_dense, show_dense)
    suites = load_all(suite or ["dense-embedded"])
    run_suites(suites, selection, settings, output, json=json, measure="dense", dry_run=dry_run)
