"""What the shipped weights make of a few pictures and captions that never change."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

from climp_bench.data.catalogue import DATASETS
from climp_bench.data.transforms import to_tensor
from climp_bench.models.adapters import CatalogueEncoder
from climp_bench.models.store import HOME_VARIABLE
from climp_bench.models.weights import resolve

GOLDEN = Path(__file__).with_name("micro_embeddings.json")
FAMILIES = ("climp-m1", "climp-m2", "rope-vit", "flexivit", "naflexvit")
IMAGES = (("scenes-shape", 3, (64, 64)), ("scenes-captions", 11, (64, 64)), ("scenes-captions", 5, (48, 80)))
"""Data set, index, and the size drawn at: the last is resized, or kept at its own aspect ratio."""
TEXTS = (("scenes-captions", 0), ("scenes-captions", 11), ("scenes-dense", 2))
DIMS, DECIMALS = 8, 5


def shipped_encoder(family: str) -> CatalogueEncoder:
    """The encoder with the weights that travel with the package, whatever the user's own store holds."""
    with tempfile.TemporaryDirectory() as empty, mock.patch.dict(os.environ, {HOME_VARIABLE: empty}):
        choice = resolve(family, "micro")
    assert choice.ref is not None and choice.ref.source == "shipped"
    return CatalogueEncoder(choice)


def compute(family: str) -> dict[str, Any]:
    """Digest of the weights, and the first dimensions of every embedding, on the CPU in float32."""
    encoder = shipped_encoder(family)
    images = []
    for name, index, size in IMAGES:
        picture = DATASETS.get(name).open(None).image(index, size)
        images.append(encoder.encode_images([to_tensor(picture, encoder.preprocess)])[0])
    texts = [DATASETS.get(name).open(None).captions(index)[0] for name, index in TEXTS]
    return {
        "weights": encoder.weights_digest,
        "images": [_head(row) for row in images],
        "texts": [_head(row) for row in encoder.encode_tokens(encoder.tokenize(texts))],
    }


def _head(row: Any) -> list[float]:
    return [round(float(value), DECIMALS) for value in row[:DIMS]]
