"""A picture named on a command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from climp_bench.data.catalogue import open_dataset
from climp_bench.data.dataset import Image
from climp_bench.data.decoding import decode
from climp_bench.errors import DataError, UsageError


def open_picture(name: str, size: tuple[int, int], data_roots: Sequence[Path] = ()) -> Image:
    """uint8 RGB (H, W, 3) of an image file, or of ``DATASET:INDEX``.

    Args:
        name: a path, or a data set and the index of one of its images.
        size: height and width that an embedded scene is drawn at; a file has its own.
        data_roots: where data sets are looked for.

    Raises:
        UsageError: there is no such file or data set, or the index is not one of its images.
        DataError: the image is damaged.
    """
    path = Path(name).expanduser()
    if path.is_file():
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(f"cannot be read ({error})", where=str(path), remedy="Check the file.") from error
        return decode(content, where=str(path), remedy="Name another file.")
    dataset_name, colon, number = name.rpartition(":")
    if not colon:
        remedy = "Name an image file, or DATASET:INDEX such as scenes-dense:3."
        raise UsageError("there is no such file", where=name, remedy=remedy)
    dataset = open_dataset(dataset_name, data_roots)
    if not number.isdigit() or int(number) >= len(dataset):
        remedy = f"Name one from {dataset_name}:0 to {dataset_name}:{len(dataset) - 1}."
        raise UsageError("there is no image of that index", where=name, remedy=remedy)
    return dataset.image(int(number), size)
