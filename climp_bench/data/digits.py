"""scikit-learn's bundled handwritten digits: real images that travel with an installed library.

Source: scikit-learn ``load_digits``, the test part of UCI "Optical Recognition of Handwritten Digits"
(Alpaydin & Kaynak 1998), 1,797 images of 8 x 8 pixels with 17 grey levels, white on black, CC BY 4.0.
"""

from __future__ import annotations

import hashlib

import numpy as np

from climp_bench.data.dataset import Dataset, Image


class SklearnDigits(Dataset):
    """1,797 real handwritten digits, 8 x 8, as zero-shot classification. Chance is 10%."""

    name = "sklearn-digits"
    kind = "classification"
    split = "all"
    n_expected = 1797
    drawn = True
    expected_histogram = (178, 182, 177, 183, 181, 182, 181, 179, 174, 180)
    classes = tuple("0123456789")
    templates = (
        "the digit {c}",
        "a photo of the digit {c}",
        "a white digit {c} on a black background",
        "a picture of the digit {c}.",
    )

    def __init__(self) -> None:
        from sklearn.datasets import load_digits

        bunch = load_digits()
        self._images = np.rint(bunch.images * (255.0 / 16.0)).astype(np.uint8)
        self._labels = bunch.target

    def __len__(self) -> int:
        return len(self._labels)

    def image(self, index: int, size: tuple[int, int]) -> Image:
        return np.repeat(self._images[index][:, :, None], 3, axis=2)

    def item_id(self, index: int) -> str:
        return f"load_digits/{index}"

    def source_fingerprint(self) -> str:
        content = self._images.tobytes() + self._labels.astype(np.int64).tobytes()
        return hashlib.sha256(content).hexdigest()

    def label(self, index: int) -> int:
        return int(self._labels[index])
