"""``climp-bench similarity``: where in an image a model sees a caption."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from climp_bench.cli import console
from climp_bench.cli import options as opt

if TYPE_CHECKING:
    from climp_bench.eval.similarity import SimilarityMap

DRAWN = 320
"""Pixels a side at which an embedded scene is shown, whatever size models see."""


def similarity(
    image: Annotated[str, typer.Argument(help="An image file, or DATASET:INDEX such as scenes-dense:3.")],
    caption: Annotated[str, typer.Argument(help="Any text.")],
    model: opt.Models = None,
    res: Annotated[
        str | None, typer.Option("--res", help="Sizes in pixels, such as 64,128. Default: each model's own.")
    ] = None,
    scale: opt.Scale = None,
    data_root: opt.DataRoots = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="PNG to write; the numbers go beside it.")] = Path(
        "similarity.png"
    ),
    device: opt.Device = "auto",
    dtype: opt.DType = "float32",
    backend: opt.Backend = "auto",
    weights: opt.Weights = None,
    tokenizer: opt.TokenizerFile = None,
    random_weights: opt.RandomWeights = False,
    offline: opt.Offline = False,
    json: opt.AsJson = False,
    quiet: opt.Quiet = False,
) -> None:
    """Draw, for every patch of an image, its similarity to a caption, one panel a model.

    A patch's vector is its feature after the tower's final norm, through the image projection in place of the
    pooled feature. Each panel has its own colour scale. The numbers go into a JSON file beside the picture.

    Examples:

      climp-bench similarity scenes-dense:3 "a red circle"

      climp-bench similarity photo.jpg "a dog on the left" --model climp-m1@base --res 224,448
    """
    from climp_bench.cli.prepare import Selection, make_encoders
    from climp_bench.data.picture import open_picture
    from climp_bench.eval.similarity import similarities
    from climp_bench.report.similarity import write_maps
    from climp_bench.specs import parse_resolutions

    sizes = parse_resolutions(res) if res else None
    selection = Selection(
        names=model, scale=scale, device=device, dtype=dtype, backend=backend, weights=weights,
        tokenizer=tokenizer, random_weights=random_weights, offline=offline, quiet=quiet or json,
    )  # fmt: skip
    roots = tuple(data_root or ())
    open_picture(image, (64, 64), roots)  # before models are read
    encoders = make_encoders(selection)
    largest = max(max(e.preprocess.size) for e in encoders) if sizes is None else max(sizes)
    picture = open_picture(image, (largest, largest), roots)
    found = similarities(encoders, picture, caption, sizes)
    maps = [_plain(one) for one in found]
    path = as_png(out)
    numbers = write_maps(maps, open_picture(image, (DRAWN, DRAWN), roots), caption, path)
    if json:
        console.print_json({"caption": caption, "maps": maps})
        return
    for one in found:
        console.out.print(_line(one), highlight=False, soft_wrap=True)
    if not quiet:
        console.note(f"Written: {path}, {numbers}", always=True)


def _plain(one: SimilarityMap) -> dict[str, Any]:
    patches = one.patches_hw.tolist()
    return {
        "model": one.model,
        "size": list(one.size),
        "whole": one.whole,
        "patches": patches,
        "peak": list(one.peak),
    }


def _line(one: SimilarityMap) -> str:
    low, high = float(one.patches_hw.min()), float(one.patches_hw.max())
    down, right = (f"{100 * share:.0f}%" for share in one.peak)
    where = f"{one.model} at {one.size[0]} x {one.size[1]}"
    return (
        f"{where}: image {one.whole:.3f}, patches {low:.3f} to {high:.3f}, highest {down} down, {right} right"
    )


def as_png(path: Path) -> Path:
    """``path`` as a PNG file."""
    return path if path.suffix.lower() == ".png" else path.with_name(path.name + ".png")
