"""``climp-bench data rephrase``: long captions out of short ones, by a language model."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict

import typer

from climp_bench.cli import console
from climp_bench.cli import options as opt

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from climp_bench.data.caption_table import Captioned
    from climp_bench.data.rephrase import Job, Rephraser, Rephrasing

Source = Annotated[
    str, typer.Argument(help="A captioned data set, or a CSV or JSONL file with image and caption columns.")
]
Model = Annotated[
    str,
    typer.Option("--model", "-m", help="A causal LM: folder or hub name; with --endpoint, its name there."),
]
OutFolder = Annotated[Path, typer.Option("--out", "-o", help="Folder of the new data set; goes on if begun.")]
PromptName = Annotated[
    str, typer.Option("--prompt", help="caption: one each; image: one of all of an image; or FILE.toml:NAME.")
]
Url = Annotated[str | None, typer.Option("--endpoint", help="OpenAI-compatible service: https://HOST/v1.")]
KeyVariable = Annotated[
    str, typer.Option("--key-variable", help="Environment variable that holds the endpoint's key.")
]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Only the first so many captions.")]
Batch = Annotated[int, typer.Option("--batch", min=1, help="Prompts or requests at a time.")]
MaxTokens = Annotated[int, typer.Option("--max-tokens", min=1, help="Longest answer in tokens.")]
Temperature = Annotated[float, typer.Option("--temperature", min=0.0, help="0 takes the likeliest words.")]
MinWords = Annotated[int, typer.Option("--min-words", min=1, help="Shorter answers count as too short.")]
RetryBad = Annotated[bool, typer.Option("--retry-bad", help="Ask again where the answer was not usable.")]
Draws = Annotated[int, typer.Option("--seed", min=0, help="Of answers drawn at a temperature.")]
LLMType = Annotated[str, typer.Option("--dtype", help="Of a local model: float32, bfloat16 or float16.")]


def rephrase(
    source: Source,
    model: Model,
    out: OutFolder,
    prompt: PromptName = "caption",
    endpoint: Url = None,
    key_variable: KeyVariable = "OPENAI_API_KEY",
    data_root: opt.DataRoots = None,
    limit: Limit = None,
    batch: Batch = 8,
    max_tokens: MaxTokens = 200,
    temperature: Temperature = 0.0,
    min_words: MinWords = 30,
    seed: Draws = 0,
    retry_bad: RetryBad = False,
    device: opt.Device = "auto",
    dtype: LLMType = "float32",
    offline: opt.Offline = False,
    dry_run: opt.DryRun = False,
    quiet: opt.Quiet = False,
) -> None:
    """Have a language model rephrase captions at length, and make a data set of them (Flickr8k-Rephrased).

    Every answer is kept in `OUT/captions.jsonl` as it comes; killed, the same command goes on. What is empty,
    a refusal, too short or no answer at all is kept with its status, counted, and left out of the data set,
    which is written beside it as a table of images. Exit code 3 if some answers are not usable.

    Examples:

      climp-bench data rephrase flickr8k --model Qwen/Qwen2.5-7B-Instruct --out data/flickr8k-rephrased

      climp-bench data rephrase captions.csv --endpoint http://localhost:8000/v1 --model qwen --out data/long

      climp-bench data rephrase flickr8k --model PATH --prompt image --out data/long --limit 20 --dry-run
    """
    from climp_bench.data.rephrase import Rephrasing, read_prompt
    from climp_bench.errors import WeightsError

    asked = read_prompt(prompt)
    images = _images(source, tuple(data_root or ()), offline=offline or dry_run, quiet=quiet)
    how = _How(max_tokens=max_tokens, temperature=temperature, seed=seed, batch=batch)
    llm: Rephraser | None = None
    lacking = ""
    try:
        remote = endpoint and _remote(endpoint, model, key_variable, how)
        llm = remote or _local(model, device, dtype, how, offline=offline or dry_run, quiet=quiet)
    except WeightsError as error:
        if not dry_run:
            raise
        lacking = str(error)
    work = Rephrasing(source, images, asked, llm.facts if llm else None, out, min_words)
    jobs = work.left(limit, retry=retry_bad)
    if llm is None or dry_run:
        _forecast(work, jobs, limit, lacking)
        return
    with console.steps(len(jobs), quiet) as step:
        work.run(llm, jobs, lambda line: step(line.id))
    _tell(work, limit)


class _How(TypedDict):
    max_tokens: int
    temperature: float
    seed: int
    batch: int


def _remote(url: str, model: str, key_variable: str, how: _How) -> Rephraser:
    from climp_bench.data.endpoint import open_endpoint

    return open_endpoint(url, model, key_variable, **how)


def _local(model: str, device: str, dtype: str, how: _How, *, offline: bool, quiet: bool) -> Rephraser:
    from climp_bench.data.local_llm import LocalModel
    from climp_bench.models.adapters import DTYPES, pick_device
    from climp_bench.registry import unknown

    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    return LocalModel(
        model, device=pick_device(device), dtype=dtype, offline=offline, announce=_announcer(quiet), **how
    )


def _announcer(quiet: bool) -> Callable[[str], None]:
    if quiet:
        console.no_download_bars()
        return lambda text: None
    return lambda text: console.note(f"Fetching {text}", always=True)


def _images(source: str, data_roots: tuple[Path, ...], *, offline: bool, quiet: bool) -> list[Captioned]:
    from climp_bench.data.caption_table import of_dataset, of_file
    from climp_bench.data.catalogue import open_dataset
    from climp_bench.data.dataset import check_count

    if source.endswith((".csv", ".jsonl")):
        return of_file(Path(source))
    dataset = open_dataset(source, data_roots, offline=offline, announce=_announcer(quiet))
    check_count(dataset, None)
    return of_dataset(dataset)


def _print(text: str) -> None:
    console.out.print(text, highlight=False, markup=False, soft_wrap=True)


def _forecast(work: Rephrasing, jobs: Sequence[Job], limit: int | None, lacking: str) -> None:
    total = len(work.jobs[:limit])
    _print(f"{total:,} captions: {total - len(jobs):,} answered, {len(jobs):,} to ask for.")
    if lacking:
        _print(f"The model: {lacking}")
    if jobs:
        system, user = work.prompt.of(jobs[0].source)
        _print(f"The first prompt ({work.prompt.name}, version {work.prompt.version}):\n\n{system}\n\n{user}")


def _tell(work: Rephrasing, limit: int | None) -> None:
    """What there is now; exits with 3 if some of it is not usable."""
    total = len(work.jobs[:limit])
    lines = [work.ledger.lines[key] for job in work.jobs[:limit] if (key := (job.image, job.caption))
             in work.ledger.lines]  # fmt: skip
    counts = Counter(line.status for line in lines)
    bad = {status: n for status, n in counts.items() if status != "ok"}
    words = sorted(len(line.text.split()) for line in lines if line.status == "ok")
    middle = f", {words[len(words) // 2]} words each in the middle" if words else ""
    _print(f"{len(lines):,} of {total:,} captions answered, {counts['ok']:,} usable{middle}.")
    if bad:
        told = ", ".join(f"{n:,} {status}" for status, n in sorted(bad.items()))
        _print(f"Not usable: {told}; see {work.folder / 'captions.jsonl'}. --retry-bad asks for them again.")
    if cut := sum(line.cut for line in lines):
        _print(f"Stopped at --max-tokens: {cut:,}.")
    n, lost = work.write_dataset()
    whole = len(work.images)
    if n:
        _print(f"Written: {work.folder}, {n:,} of {whole:,} images with their rephrased captions.")
    elif not any(image.picture for image in work.images):
        _print("The source has no images, so no data set was written; captions.jsonl has the captions.")
    if lost:
        _print(f"Left out: {lost:,} images without a usable caption.")
    if bad:
        raise typer.Exit(3)
