"""Contact sheets: images of a data set in a grid, with their labels or captions beneath."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image as PILImage
from PIL import ImageDraw

from climp_bench.data.catalogue import open_dataset
from climp_bench.data.dataset import Dataset, Image, check_label
from climp_bench.data.scenes import TASKS
from climp_bench.errors import DataError
from climp_bench.files import write_atomic

TOUR = "scenes"
"""This name means one image row for every task of the scenes world."""
COLUMNS = 6
_GAP, _LINE, _LETTER = 8, 12, 6.0


def write_sheet(name: str, n: int, size: int, path: Path, data_roots: Sequence[Path] = ()) -> None:
    """Write a PNG of ``n`` images spread over the data set (for ``scenes``: some of every task).

    Args:
        name: a data set, or ``scenes``.
        n: how many images (for ``scenes``: at least; whole rows are filled).
        size: longest side of each image in pixels; scenes are drawn natively at it.

    Raises:
        UsageError: no such data set. DataError: an image cannot be read, or the file cannot be written.
    """
    tiles: list[tuple[Image, list[str]]] = []
    if name == TOUR:
        for task in TASKS.names():
            tiles += _tiles(open_dataset(task), COLUMNS, size, title=task)
    else:
        tiles = _tiles(open_dataset(name, data_roots), n, size)
    sheet = _paste(tiles, size)
    write_atomic(path, lambda handle: sheet.save(handle, format="PNG"), DataError)


def _tiles(dataset: Dataset, n: int, size: int, title: str = "") -> list[tuple[Image, list[str]]]:
    count = min(n, len(dataset))
    tiles = []
    for k in range(count):
        index = k * len(dataset) // count
        text = [title] if title else []
        for line in _words(dataset, index):
            text += textwrap.wrap(line, max(8, int(size / _LETTER)))
        tiles.append((_fit(dataset.image(index, (size, size)), size), text))
    return tiles


def _words(dataset: Dataset, index: int) -> list[str]:
    if dataset.kind == "classification":
        return [_class_name(dataset, index, dataset.label(index))]
    if dataset.kind == "multilabel":
        return [", ".join(_class_name(dataset, index, c) for c in dataset.positives(index))]
    return [f"- {caption}" for caption in dataset.captions(index)[:2]]


def _class_name(dataset: Dataset, index: int, label: int) -> str:
    check_label(dataset, index, label)
    return dataset.classes[label]


def _fit(image: Image, size: int) -> Image:
    picture = PILImage.fromarray(image)
    scale = size / max(picture.size)
    sides = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return np.asarray(picture.resize(sides, PILImage.Resampling.NEAREST if scale > 2 else None))


def _paste(tiles: Sequence[tuple[Image, list[str]]], size: int) -> PILImage.Image:
    rows = [tiles[i : i + COLUMNS] for i in range(0, len(tiles), COLUMNS)]
    heights = [size + _LINE * max(len(text) for _, text in row) + 2 * _GAP for row in rows]
    width = COLUMNS * (size + _GAP) + _GAP
    sheet = PILImage.new("RGB", (width, sum(heights) + _GAP), "white")
    pen = ImageDraw.Draw(sheet)
    top = _GAP
    for row, height in zip(rows, heights, strict=True):
        for column, (image, text) in enumerate(row):
            left = _GAP + column * (size + _GAP)
            sheet.paste(PILImage.fromarray(image), (left, top))
            for k, line in enumerate(text):
                pen.text((left, top + size + 2 + k * _LINE), line, fill="black", font_size=10)
        top += height
    return sheet
