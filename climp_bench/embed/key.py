"""The key of an embedding: everything that shapes the vectors, and nothing else."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Literal

from climp_bench.models.adapters import Encoder

CODE_VERSION = "4"
"""Raised whenever a change in climp-bench changes embeddings of unchanged models and data, or their parts."""


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
        data: digest of the images or of the texts, in order.
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


def face(side: Literal["image", "text"], encoder: Encoder) -> EmbeddingKey:
    """The part of a key that is the model's: everything but ``data``, which is empty."""
    return EmbeddingKey(
        side=side,
        weights=encoder.weights_digest,
        model=encoder.name,
        transform=_image_transform(encoder) if side == "image" else encoder.text_transform,
        dtype=encoder.dtype,
        backend=",".join(f"{op}={name}" for op, name in sorted(encoder.backends.items())),
        device=encoder.device,
        data="",
    )


def _image_transform(encoder: Encoder) -> str:
    described = asdict(encoder.preprocess)
    if encoder.own_transform is not None:
        described["own_transform"] = encoder.own_transform.description
    return json.dumps(described, sort_keys=True)
