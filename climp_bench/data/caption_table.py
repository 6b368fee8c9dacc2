"""Captions to be rephrased, and the images they belong to: of a data set, or of a CSV or JSONL file."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from climp_bench.data.columns import recognise
from climp_bench.data.dataset import Dataset, Image, captions_of
from climp_bench.data.textfiles import read_text
from climp_bench.errors import DataError

DRAWN = (224, 224)
"""Size in pixels of images that are made and not stored."""


@dataclass(frozen=True)
class Captioned:
    """One image.

    Attributes:
        id: what the source calls it.
        captions: at least one, none empty.
        picture: gives the suffix and the content of an image file; None if the source has no images.
    """

    id: str
    captions: tuple[str, ...]
    picture: Callable[[], tuple[str, bytes]] | None = None


def of_dataset(dataset: Dataset) -> list[Captioned]:
    """The images of a retrieval set; as files they are PNG, without loss.

    Raises:
        DataError: it is no retrieval set, or a caption is empty.
    """
    if dataset.kind != "retrieval":
        remedy = "Name a data set with captions."
        raise DataError(f"a {dataset.kind} data set has no captions", where=dataset.name, remedy=remedy)
    captions_of(dataset)

    def picture(index: int) -> tuple[str, bytes]:
        return ".png", _png(dataset.image(index, DRAWN))

    return [
        Captioned(dataset.item_id(i), dataset.captions(i), partial(picture, i)) for i in range(len(dataset))
    ]


def of_file(path: Path) -> list[Captioned]:
    """The rows of a CSV or JSONL file. Rows of one image are one image with several captions.

    Columns are found by their usual names: captions as in tables of images; the image's path, from the file's
    folder, in ``image``, ``file_name`` and the like. Paths that do not exist are names and no images.

    Raises:
        DataError: it cannot be read, has no column of captions, or an empty one; names the line.
    """
    rows = _rows(path)
    if not rows:
        raise DataError("no rows", where=str(path), remedy="One line a caption or an image is needed.")
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = recognise(names, str(path))
    found: dict[str, list[str]] = {}
    for number, row in enumerate(rows, start=1):
        values = [row.get(name) for name in columns.captions]
        texts = [t for value in values for t in (value if isinstance(value, list) else [value])]
        bad = not texts or any(not isinstance(text, str) or not text.strip() for text in texts)
        if bad or not row.get(columns.image):
            what = "a caption is empty or no text" if bad else f"no {columns.image!r}"
            raise DataError(what, where=f"{path}, row {number}", remedy="Fill or remove it.")
        found.setdefault(str(row[columns.image]), []).extend(map(str, texts))
    files = {name: path.parent / name for name in found}
    return [
        Captioned(name, tuple(texts), partial(_content, files[name]) if files[name].is_file() else None)
        for name, texts in found.items()
    ]


def _rows(path: Path) -> Sequence[dict[str, object]]:
    text = read_text(path)
    if path.suffix == ".csv":
        return [dict(row) for row in csv.DictReader(io.StringIO(text))]
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"not JSON ({error})", where=f"{path}, line {number}") from error
        if not isinstance(row, dict):
            raise DataError("not a JSON object", where=f"{path}, line {number}")
        rows.append(row)
    return rows


def _content(image: Path) -> tuple[str, bytes]:
    return image.suffix, image.read_bytes()


def _png(image: Image) -> bytes:
    from PIL import Image as PILImage

    buffer = io.BytesIO()
    PILImage.fromarray(np.ascontiguousarray(image)).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()
