"""The key of an embedding: everything that shapes the vectors, and nothing else."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

CODE_VERSION = "1"
"""Raised whenever a change in climp-bench changes embeddings of unchanged models and data."""


@dataclass(frozen=True)
class EmbeddingKey:
    """What a stored array of embeddings depends on.

    Attributes:
        side: ``image`` or ``text``.
        weights: sha256 of the weights file.
        model: family@scale.
        transform: image preprocessing, or tokenizer digest for text; as canonical text.
        dtype: dtype the encoder computed in.
        backend: compute backends that really ran, such as ``selective_scan=torch``.
        device: device type; kernels differ between them.
        data: digest of the images (source fingerprint, split, count) or of the texts in order.
        code: version of the embedding code.
    """

    side: str
    weights: str
    model: str
    transform: str
    dtype: str
    backend: str
    device: str
    data: str
    code: str = CODE_VERSION

    def digest(self) -> str:
        """sha256 over all fields."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()
