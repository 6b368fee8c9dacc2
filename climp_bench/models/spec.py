"""What a model is, as plain data: its towers, its input, and where others publish its weights."""

from __future__ import annotations

import json
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

from climp_bench.specs import ImagePreprocess

SCALES = ("micro", "tiny", "small", "base-s1l20", "base")
"""Smallest first. ``base-s1l20`` is VMamba-Base with narrow scans, an alternative to the paper's ``base``."""


@dataclass(frozen=True)
class Source:
    """A published file.

    Attributes:
        repo: repository on the Hugging Face hub; "" if it is published elsewhere.
        filename: the file's path in the repository; of weights in shards, the name they would have in one.
        licence: as its publisher states it.
        revision: commit that is pinned; None where none has been read yet: then the commit that the default
            branch stands at is looked up, shown, and recorded with the weights.
        gated: whether its terms must be accepted on the hub first.
        url: where it is, if not on the hub.
        sha256: its digest there, hexadecimal; "" where its publisher states none that was read.
    """

    repo: str
    filename: str
    licence: str
    revision: str | None = None
    gated: bool = False
    url: str = ""
    sha256: str = ""


@dataclass(frozen=True)
class Origin:
    """Where the parts of a model are published; None for what is not.

    Attributes:
        weights: the trained dual encoder.
        image: an image tower to start training from.
        text: a text tower to start training from.
        tokenizer: the ``tokenizer.json`` of the text tower.
    """

    weights: Source | None = None
    image: Source | None = None
    text: Source | None = None
    tokenizer: Source | None = None


@dataclass(frozen=True)
class ModelSpec:
    """A model: everything needed to build it, feed it and name it.

    Attributes:
        family: the pair of towers, such as ``climp-m1``.
        scale: one of ``SCALES``.
        image: configuration of the image tower; its class decides which tower is built.
        text: configuration of the text tower.
        embed_dim: dimensions of the shared space.
        preprocess: how a decoded image becomes the image tower's input.
        tokenizer: name of the tokenizer: one that is shipped, for ``tokenizer.load``, or else one whose
            ``tokenizer.json`` lies beside the weights.
        description: one line for listings.
        source: the paper that the family comes from.
        origin: where weights, initial weights and the tokenizer are published.
    """

    family: str
    scale: str
    image: Any
    text: Any
    embed_dim: int
    preprocess: ImagePreprocess
    tokenizer: str
    description: str
    source: str = ""
    origin: Origin = Origin()

    def __post_init__(self) -> None:
        if self.scale not in SCALES or "@" in self.family:
            raise ValueError(f"{self.family!r} at {self.scale!r}: the scale must be one of {SCALES}")

    @property
    def name(self) -> str:
        """``family@scale``."""
        return f"{self.family}@{self.scale}"


def defaults(config: Any) -> dict[str, Any]:
    """The fields of a tower's configuration that have a default, with it, as it reads back from JSON.

    A field that is added to a configuration defaults to what towers were before they had it, so weights that
    were stored without the field mean its default.
    """
    found = {field.name: field.default for field in fields(config) if field.default is not MISSING}
    result: dict[str, Any] = json.loads(json.dumps(found, default=asdict))
    return result
