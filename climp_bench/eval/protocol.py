"""Where a protocol's rules meet embeddings and models."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from climp_bench.errors import UsageError
from climp_bench.models.adapters import Encoder
from climp_bench.suite.protocols import Rules

Floats = npt.NDArray[np.float32]


def rounded(values: Floats, dtype: str) -> Floats:
    """float32 values to the nearest of ``dtype`` (``float16``, ``bfloat16``, ``float32``), ties to even."""
    if dtype == "float32":
        return values
    if dtype == "float16":
        return values.astype(np.float16).astype(np.float32)
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    even = (bits >> np.uint32(16)) & np.uint32(1)
    return ((bits + np.uint32(0x7FFF) + even) & np.uint32(0xFFFF0000)).view(np.float32)


def half_scores(image_ND: Floats, weights_DC: Floats, dtype: str) -> Floats:
    """``100 * image @ weights`` as autocast computes it, (N, C): factors and products in ``dtype``.

    Sums are float32, as in the matrix units of GPUs; only their order may differ from theirs.
    """
    scaled = rounded(np.float32(100.0) * rounded(image_ND, dtype), dtype)
    return rounded(scaled @ rounded(weights_DC, dtype), dtype)


def check_model(rules: Rules, encoder: Encoder) -> None:
    """Raise ``UsageError`` if a model does not get its images as the protocol prescribes."""
    wanted = rules.preprocess
    if wanted is None:
        return
    own = encoder.preprocess
    if encoder.own_transform is None and replace(own, size=wanted.size) == wanted:
        return
    what = (
        f"the protocol wants images resized by {wanted.mode}, {wanted.interpolation}, ImageNet mean and std"
    )
    remedy = 'Evaluate it under another protocol: a suite of your own with protocol = "corrected".'
    raise UsageError(f"{what}; this model prescribes its own", where=encoder.name, remedy=remedy)
