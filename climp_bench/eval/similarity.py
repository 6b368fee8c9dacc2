"""Where in an image a model sees a caption (CLIMP, Figures 2 and 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from climp_bench.data.dataset import Image
from climp_bench.embed.batches import prepare
from climp_bench.errors import MetricError
from climp_bench.models.adapters import Encoder

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class SimilarityMap:
    """Cosines of one image's patches with a caption.

    Attributes:
        model: its name.
        size: height and width of the input in pixels.
        patches_hw: cosine of each patch, float32; a row of the map is a row of patches.
        whole: cosine of the whole image with the caption.
    """

    model: str
    size: tuple[int, int]
    patches_hw: Floats
    whole: float

    @property
    def peak(self) -> tuple[float, float]:
        """Centre of the patch with the highest cosine, as shares of height and width from the upper left."""
        row, column = np.unravel_index(int(self.patches_hw.argmax()), self.patches_hw.shape)
        height, width = self.patches_hw.shape
        return (int(row) + 0.5) / height, (int(column) + 0.5) / width


def similarity(encoder: Encoder, image: Image, caption: str) -> SimilarityMap:
    """The cosine of every patch, and of the image, with a caption.

    A patch's vector is its feature after the tower's final norm, sent through the image projection in place
    of the pooled feature. Towers that pool by mean (VMamba, NaFlexViT) were trained on averages of these;
    those that pool by a class token (RoPE-ViT, FlexiViT) were not, so their maps say less.

    Args:
        encoder: with patches, see ``Encoder.encode_patches``.
        image: uint8 RGB (H, W, 3).
        caption: any text.

    Raises:
        UsageError: the model shows no patches, or cannot take this size.
        MetricError: a vector is not finite.
    """
    pixels = prepare(image, encoder)
    patches = encoder.encode_patches(pixels)
    (whole,) = encoder.encode_images([pixels])
    (text,) = encoder.encode_tokens(encoder.tokenize([caption]))
    cosines = patches @ text
    if not (np.isfinite(cosines).all() and np.isfinite(whole).all()):
        remedy = "Check the weights, or use --dtype float32."
        raise MetricError("a vector is not finite", where=encoder.name, remedy=remedy)
    height, width = (int(side) for side in pixels.shape[-2:])
    return SimilarityMap(encoder.name, (height, width), cosines.astype(np.float32), float(whole @ text))


def similarities(
    encoders: Sequence[Encoder], image: Image, caption: str, sizes: Sequence[int] | None
) -> list[SimilarityMap]:
    """``similarity`` of every model, at its own size or at each of ``sizes``, sizes outermost."""
    if sizes is None:
        return [similarity(encoder, image, caption) for encoder in encoders]
    return [similarity(e.at((size, size)), image, caption) for size in sizes for e in encoders]
