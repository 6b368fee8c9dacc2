"""Similarity maps as a picture and as numbers."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from climp_bench.errors import StoreError
from climp_bench.files import write_text
from climp_bench.report.plots import save

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def write_maps(
    maps: Sequence[dict[str, Any]], image: npt.NDArray[np.uint8], caption: str, path: Path
) -> Path:
    """Draw the maps over the image side by side, and write the numbers beside the picture.

    Args:
        maps: ``model``, ``size`` (height, width), ``patches`` (rows of cosines) and ``whole`` of each.
        image: uint8 RGB (H, W, 3).
        caption: the text.
        path: of the PNG.

    Returns:
        The path of the numbers, ``path`` with the ending ``.json``.

    Raises:
        StoreError: a file cannot be written.
    """
    _plot(maps, image, caption, path)
    numbers = path.with_suffix(".json")
    content = {"caption": caption, "maps": list(maps)}
    write_text(numbers, json.dumps(content, indent=1, allow_nan=False) + "\n", StoreError)
    return numbers


def _plot(maps: Sequence[dict[str, Any]], image: npt.NDArray[np.uint8], caption: str, path: Path) -> None:
    from matplotlib.figure import Figure

    tall, wide = image.shape[:2]
    across = min(len(maps) + 1, 6)
    down = -(-(len(maps) + 1) // across)
    figure = Figure(figsize=(2.6 * across, 0.5 + down * (2.1 * tall / wide + 0.5)), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).ravel()
    panels[0].imshow(image)
    panels[0].set_title("image", fontsize=9)
    grey = image.mean(axis=2)
    for axes, one in zip(panels[1:], maps, strict=False):
        extent = (0, wide, tall, 0)
        axes.imshow(grey, cmap="gray", extent=extent)
        shown = axes.imshow(
            one["patches"], cmap="viridis", alpha=0.65, extent=extent, interpolation="nearest"
        )
        size = f"{one['size'][0]} x {one['size'][1]}"
        axes.set_title(f"{one['model']}\n{size}, image {one['whole']:.2f}", fontsize=9)
        bar = figure.colorbar(shown, ax=axes, shrink=0.75)
        bar.ax.tick_params(labelsize=7)
    for axes in panels:
        axes.set_axis_off()
    figure.suptitle("\n".join(textwrap.wrap(f"“{caption}”", 30 * across)), fontsize=10)
    save(figure, path)
