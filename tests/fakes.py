"""A real, tiny encoder for tests: it goes through every path of ``embed`` without any weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from climp_bench.models.adapters import Array, Encoder
from climp_bench.specs import ImagePreprocess


def _unit(rows: Any) -> Array:
    rows = np.asarray(rows, np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


class ToyEncoder(Encoder):
    """Images: fixed random projection of the pixels. Texts: histogram of characters.

    Args:
        name: family name.
        poison: a text or a pixel sum remainder that yields NaN, to test how that is met.
    """

    def __init__(self, name: str = "toy", *, poison: str = "", size: tuple[int, int] = (8, 8)) -> None:
        self.family, self.scale = name, "micro"
        self.weights_digest = f"digest-of-{name}"
        self.weights_source = "test"
        self.preprocess = ImagePreprocess(size=size)
        self.text_transform = "characters"
        self.device, self.dtype, self.backends, self.gpu = "cpu", "float32", {"toy": "numpy"}, None
        self.poison = poison
        self.image_batches = 0
        self.texts_encoded = 0
        rng = np.random.default_rng(sum(map(ord, name)))
        self._projection = rng.standard_normal((3 * size[0] * size[1], 16)).astype(np.float32)

    def encode_images(self, images: Sequence[Any]) -> Array:
        self.image_batches += 1
        rows = np.stack([image.numpy().reshape(-1) for image in images]) @ self._projection
        if self.poison == "images":
            rows[0] = np.nan
            return rows
        return _unit(rows)

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        return [[ord(c) % 16 for c in text] for text in texts]

    def encode_tokens(self, tokens: Sequence[list[int]]) -> Array:
        self.texts_encoded += len(tokens)
        rows = np.stack([np.bincount(t, minlength=16).astype(np.float32) + 0.01 * len(t) for t in tokens])
        if self.poison == "texts":
            rows[-1] = np.nan
            return rows
        return _unit(rows)
