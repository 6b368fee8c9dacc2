"""``climp-bench models``: list, show, pull, import, push."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from climp_bench.cli import console
from climp_bench.cli import options as opt
from climp_bench.cli.push import push

if TYPE_CHECKING:
    from climp_bench.models.counting import TowerCost
    from climp_bench.models.spec import ModelSpec
    from climp_bench.models.weights import Choice, Weights

models_app = typer.Typer(no_args_is_help=True, help="Models: what is evaluated.", rich_markup_mode="markdown")


@models_app.command("list")
def list_models(json: opt.AsJson = False) -> None:
    """List the models, and which have weights here.

    Example:

      climp-bench models list
    """
    from rich.table import Table

    from climp_bench.models.catalogue import all_models, describe
    from climp_bench.models.store import locate

    rows = []
    for spec in all_models():
        ref, size = locate(spec), describe(spec)
        rows.append(
            {
                "model": spec.name,
                "image_parameters": size.image,
                "text_parameters": size.text,
                "total_parameters": size.total,
                "weights": ref.source if ref else None,
                "description": spec.description,
            }
        )
    if json:
        console.print_json(rows)
        return
    table = Table("model", box=None, pad_edge=False)
    for name in ("image tower", "text tower"):
        table.add_column(name, justify="right")
    table.add_column("weights")
    table.add_column("what it is")
    for row in rows:
        sizes = [f"{int(str(row[key])) / 1e6:.2f}M" for key in ("image_parameters", "text_parameters")]
        description = str(row["description"])
        table.add_row(str(row["model"]), *sizes, str(row["weights"] or "none"), description)
    console.out.print(table)


@models_app.command("show")
def show_model(
    name: Annotated[str, typer.Argument(help="FAMILY or FAMILY@SCALE.")],
    scale: opt.Scale = None,
    card: Annotated[bool, typer.Option("--card", help="Print the model card too.")] = False,
    json: opt.AsJson = False,
) -> None:
    """Print a model's towers, sizes, compute, preprocessing and weights, without reading the weights.

    Examples:

      climp-bench models show climp-m1 --scale base

      climp-bench models show climp-m1@micro --card
    """
    from climp_bench.models.store import CARD, WeightsRef
    from climp_bench.models.weights import resolve

    choice = resolve(name, scale)
    facts = _facts(choice)
    if json:
        console.print_json(facts)
        return
    width = max(map(len, facts))
    for key, text in facts.items():
        console.out.print(f"{key:<{width}}  {text}", highlight=False, markup=False, soft_wrap=True)
    if card and isinstance(choice.ref, WeightsRef):
        from rich.markdown import Markdown

        console.out.print(Markdown((choice.ref.directory / CARD).read_text(encoding="utf-8")))


@models_app.command("pull")
def pull_model(
    name: Annotated[str, typer.Argument(help="FAMILY or FAMILY@SCALE whose weights are published.")],
    scale: opt.Scale = None,
    repo: Annotated[
        str, typer.Option("--repo", help="Repository OWNER/NAME. Default: the one of the catalogue.")
    ] = "",
    revision: Annotated[
        str | None, typer.Option("--revision", help="Commit or branch of it. Default: the pinned one.")
    ] = None,
    quiet: opt.Quiet = False,
) -> None:
    """Fetch a model's published weights into the local store, where they are found by name.

    `--repo` names another repository, such as one that `models push` filled; the model is then the one named.
    Says first what it fetches, how large it is and under which licence. Stopped, the same command goes on.
    The digest that the hub states is checked, and the commit is recorded with the weights.

    Examples:

      climp-bench models pull climp-m1@base

      climp-bench models pull climp-m2 --scale base --revision 0123abc

      climp-bench models pull climp-m1@micro --repo ann/climp-micro
    """
    from climp_bench.models.acquire import published, pull
    from climp_bench.models.catalogue import find

    spec = find(name, scale) if repo else published(name, scale)
    if quiet:
        console.no_download_bars()
    ref = pull(spec, repo=repo, revision=revision, announce=lambda text: _say(f"Fetching {text}", quiet))
    _say(f"{spec.name} is stored in {ref.directory} (sha256 {ref.digest[:16]}).", quiet)


@models_app.command("import")
def import_model(
    name: Annotated[str, typer.Argument(help="FAMILY@SCALE that the weights are of.")],
    path: Annotated[Path, typer.Argument(help="A checkpoint file, or a folder that holds one.")],
    scale: opt.Scale = None,
    tokenizer: opt.TokenizerFile = None,
    quiet: opt.Quiet = False,
) -> None:
    """Check weights from a file and put them into the local store, where they are found by name.

    Reads safetensors (whole or in shards) and PyTorch files of tensors only: the CLIMP release, folders that
    this program saved, and checkpoints with the same keys. A file that does not fit changes nothing.

    Example:

      climp-bench models import climp-m1@base ~/CLIMP-Mamba1 --tokenizer ~/gpt-neox/tokenizer.json
    """
    from climp_bench.models.acquire import import_weights
    from climp_bench.models.catalogue import find

    spec = find(name, scale)
    ref = import_weights(spec, path, tokenizer=tokenizer)
    _say(f"{spec.name} is stored in {ref.directory} (sha256 {ref.digest[:16]}).", quiet)


models_app.command()(push)


def _say(text: str, quiet: bool) -> None:
    if not quiet:
        console.note(text, always=True)


def _facts(choice: Choice) -> dict[str, str]:
    """What there is to say of a model, by heading."""
    from dataclasses import asdict

    from climp_bench.models.catalogue import describe
    from climp_bench.models.counting import count

    spec, size = choice.spec, describe(choice.spec)
    counts = count(spec)
    return {
        "model": f"{spec.name}: {spec.description}",
        "source": spec.source,
        "image tower": f"{type(spec.image).__name__} {size.image:,} parameters {_brief(asdict(spec.image))}",
        "text tower": f"{type(spec.text).__name__} {size.text:,} parameters {_brief(asdict(spec.text))}",
        "all": f"{size.total:,} parameters, embeddings of {spec.embed_dim} dimensions",
        "image compute": f"{_compute(counts.image)}, one image of 224 x 224",
        "text compute": f"{_compute(counts.text)}, one text of 77 tokens",
        "text context": "no limit, nothing is cut",
        "tokenizer": spec.tokenizer,
        "preprocessing": _brief(asdict(spec.preprocess)),
        "published": _published(spec),
        "weights": _weights(choice.ref),
        "chosen": choice.reason,
    }


def _compute(cost: TowerCost) -> str:
    """Multiply-adds and operations, and what ran without being counted."""
    missed = f" (not counted: {', '.join(cost.unsupported)})" if cost.unsupported else ""
    return f"{cost.macs / 1e9:,.3f} GMACs, {cost.flops / 1e9:,.3f} GFLOPs{missed}"


def _brief(fields: dict[str, object]) -> str:
    return "(" + ", ".join(f"{key}={value}" for key, value in fields.items()) + ")"


def _published(spec: ModelSpec) -> str:
    """Where weights and initial weights are published, under which licence."""
    named = {
        "weights": spec.origin.weights,
        "image tower to start from": spec.origin.image,
        "text tower to start from": spec.origin.text,
        "tokenizer": spec.origin.tokenizer,
    }
    parts = []
    for what, source in named.items():
        if source is not None:
            place = f"hf:{source.repo}" if source.repo else source.url
            gated = ", gated" if source.gated else ""
            parts.append(f"{what}: {place} {source.filename} ({source.licence}{gated})")
    return "; ".join(parts) or "nothing"


def _weights(ref: Weights | None) -> str:
    from climp_bench.models.store import MODEL, WeightsRef

    if not isinstance(ref, WeightsRef):
        return "none here"
    return f"{ref.source}, {ref.files[MODEL].size / 1e6:.1f} MB, sha256 {ref.digest[:16]}, {ref.directory}"
