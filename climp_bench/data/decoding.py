"""Bytes of an image file to pixels."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image as PILImage
from PIL import UnidentifiedImageError

from climp_bench.data.dataset import Image
from climp_bench.errors import DataError

_UNDECODABLE = (OSError, ValueError, SyntaxError, EOFError, PILImage.DecompressionBombError)


class CorruptImage(DataError):
    """The bytes of one image are not a whole picture; the others may be."""


OR_SKIP = "An evaluation can leave it out: --skip-corrupt."
"""Ends the remedy for an image of a data set."""


def decode(content: bytes, *, where: str, remedy: str) -> Image:
    """uint8 RGB (H, W, 3) of any format that Pillow reads.

    Args:
        content: the file.
        where, remedy: for the error.

    Raises:
        CorruptImage: it is no image, or a damaged one.
    """
    try:
        with PILImage.open(io.BytesIO(content)) as picture:
            return _as_rgb(picture)
    except _UNDECODABLE as error:
        reason = "not an image of a known format" if isinstance(error, UnidentifiedImageError) else error
        raise CorruptImage(
            f"the image cannot be decoded ({str(reason).rstrip('.')})", where=where, remedy=remedy
        ) from error


def _as_rgb(picture: PILImage.Image) -> Image:
    """Eight bits a channel. Sixteen are scaled: Pillow alone would clip almost every pixel to white."""
    if picture.mode.startswith("I"):
        grey = (np.clip(np.asarray(picture), 0, 65535) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    return np.asarray(picture.convert("RGB"))
