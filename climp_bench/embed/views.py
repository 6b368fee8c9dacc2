"""A decoded image as several models want it: resized where it was decoded, once for all that see it alike.

A photograph of a megapixel is fifteen times the input of a model. Sent whole from the process that decoded
it, it costs the main process more than a GPU needs to encode it; so for a GPU it is fitted first, where that
makes it much smaller. An image that is small or to be enlarged goes as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from climp_bench.data.dataset import Image
from climp_bench.models.adapters import Encoder, Pixels
from climp_bench.specs import ImagePreprocess

if TYPE_CHECKING:
    import torch

WORTHWHILE = 2
"""An image is fitted where it has at least so many times the pixels of what is left."""


@dataclass(frozen=True)
class View:
    """An image: ``whole`` if some model needs that, and by geometry its pixels (3, h, w), where fitted."""

    whole: Image | None
    fitted: Mapping[ImagePreprocess, Pixels]


@dataclass(frozen=True)
class Viewer:
    """Makes views; it pickles, and imports torch where an image is worth fitting.

    Attributes:
        geometries: what models see, by ``geometry``; empty fits nothing.
        whole: whether some model has a transform of its own.
    """

    geometries: tuple[ImagePreprocess, ...] = ()
    whole: bool = False

    def __call__(self, image: Image) -> View:
        fitted: dict[ImagePreprocess, Pixels] = {}
        for wanted in self.geometries:
            height, width = wanted.size
            if image.shape[0] * image.shape[1] >= WORTHWHILE * height * width:
                fitted[wanted] = _fit(image, wanted)
        whole = self.whole or len(fitted) < len(self.geometries) or not self.geometries
        return View(image if whole else None, fitted)


def viewer_for(encoders: Mapping[str, Encoder]) -> Viewer:
    """What fits images for these models, in processes that decode for a GPU."""
    own = [encoder.own_transform is not None for encoder in encoders.values()]
    alike = {geometry(e.preprocess): None for e in encoders.values() if e.own_transform is None}
    return Viewer(tuple(alike), any(own))


def geometry(preprocess: ImagePreprocess) -> ImagePreprocess:
    """The same without its normalisation: all that shapes the pixels."""
    return replace(preprocess, mean=(0.0,) * 3, std=(1.0,) * 3)


def pixels_of(view: View, preprocess: ImagePreprocess) -> torch.Tensor:
    """uint8 (3, h, w) as a model with this preprocessing sees it."""
    import torch

    from climp_bench.data.transforms import to_pixels

    fitted = view.fitted.get(geometry(preprocess))
    if fitted is not None:
        return torch.from_numpy(fitted)
    assert view.whole is not None
    return to_pixels(view.whole, preprocess)


def _fit(image: Image, wanted: ImagePreprocess) -> Pixels:
    from climp_bench.data.transforms import to_pixels

    pixels: Pixels = to_pixels(image, wanted).numpy()
    return pixels
