"""``climp-bench models``: list, show."""

from __future__ import annotations

from typing import Annotated

import typer

from climp_bench.cli import console
from climp_bench.cli import options as opt

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
) -> None:
    """Print a model's towers, sizes, preprocessing and weights, without reading the weights.

    Examples:

      climp-bench models show climp-m1

      climp-bench models show climp-m1@micro --card
    """
    from dataclasses import asdict

    from climp_bench.models.catalogue import describe
    from climp_bench.models.store import CARD, WeightsRef
    from climp_bench.models.weights import resolve

    choice = resolve(name, scale)
    spec, size = choice.spec, describe(choice.spec)
    lines = {
        "model": f"{spec.name}: {spec.description}",
        "source": spec.source,
        "image tower": f"{type(spec.image).__name__} {size.image:,} parameters {_brief(asdict(spec.image))}",
        "text tower": f"{type(spec.text).__name__} {size.text:,} parameters {_brief(asdict(spec.text))}",
        "all": f"{size.total:,} parameters, embeddings of {spec.embed_dim} dimensions",
        "tokenizer": f"{spec.tokenizer}, no length limit",
        "preprocessing": _brief(asdict(spec.preprocess)),
        "weights": _weights(choice.ref),
        "chosen": choice.reason,
    }
    width = max(map(len, lines))
    for key, text in lines.items():
        console.out.print(f"{key:<{width}}  {text}", highlight=False, markup=False, soft_wrap=True)
    if card and isinstance(choice.ref, WeightsRef):
        from rich.markdown import Markdown

        console.out.print(Markdown((choice.ref.directory / CARD).read_text(encoding="utf-8")))


def _brief(fields: dict[str, object]) -> str:
    return "(" + ", ".join(f"{key}={value}" for key, value in fields.items()) + ")"


def _weights(ref: object) -> str:
    from climp_bench.models.store import MODEL, WeightsRef

    if not isinstance(ref, WeightsRef):
        return "none here"
    return f"{ref.source}, {ref.files[MODEL].size / 1e6:.1f} MB, sha256 {ref.digest[:16]}, {ref.directory}"
