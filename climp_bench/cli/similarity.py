"""``climp-bench similarity``: where in an image a model sees a caption."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from climp_bench.cli import console
from climp_bench.cli import options as opt

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
        names=model, scale=scale, device=device, dtype=dtype, weights=weights, tokenizer=tokenizer,
        random_weights=random_weights, offline=offline, quiet=quiet or json,
    )  # fmt: skip
    roots = tuple(data_root or ())
    open_picture(image, (64, 64), roots)  # before models are read
    encoders = make_encoders(selection)
    largest = max(max(e.preprocess.size) for e in encoders) if sizes is None else max(sizes)
    picture = open_picture(image, (largest, largest), roots)
    found = similarities(encoders, picture, caption, sizes)
    maps = [
        {"model": m.model, "size": list(m.size), "whole": m.whole, "patches": m.patches_hw.tolist(),
         "peak": list(m.peak)}
        for m in found
    ]  # fmt: skip
    path = as_png(out)
    shown = open_picture(image, (DRAWN, DRAWN), roots)
    numbers = write_maps(maps, shown, caption, path)
    if json:
        console.print_json({"caption": caption, "maps": maps})
        return
    for m in found:
        low, high = float(m.patches_hw.min()), float(m.patches_hw.max())
        down, right = (f"{100 * share:.0f}%" for share in m.peak)
        console.out.print(
            f"{m.model} at {m.size[0]} x {m.size[1]}: image {m.whole:.3f}, patches {low:.3f} to {high:.3f}, "
            f"highest {down} down, {right} right",
            highlight=False,
            soft_wrap=True,
        )
    if not quiet:
        console.note(f"Written: {path}, {numbers}", always=True)


def as_png(path: Path) -> Path:
    """``path`` as a PNG file."""
    return path if path.suffix.lower() == ".png" else path.with_name(path.name + ".png")
