"""What a report needs beside scores: a few example answers with thumbnails, or a sketch of a space.

One ``.pictures.json`` an evaluation, optional and bounded, beside its records. It names the weights and the
samples that it was made with; beside other records it counts as absent.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError

from climp_bench.results.schema import Part, RunRecord

LARGEST_BYTES = 100_000
"""No file of pictures is larger."""


def _jpeg(text: str) -> str:
    if not base64.b64decode(text, validate=True).startswith(b"\xff\xd8\xff"):
        raise ValueError("not a JPEG in base64")
    return text


Jpeg = Annotated[str, AfterValidator(_jpeg)]


class Answer(Part):
    """One of the best answers of a model: a class or a caption (``text``), or an image (``item``)."""

    text: str = ""
    item: str = ""
    right: bool
    cosine: float


class Example(Part):
    """A sample, and what a model made of it.

    Attributes:
        query: what was asked: an image for its class or caption, or a caption for its image.
        item: the image's name in its data set.
        text: its class, or its caption.
        right: whether it counts as a hit of ``metric``.
        metric: the score that it is one of the samples of.
        answers: the best first.
    """

    query: Literal["image", "text"]
    item: str
    text: str
    right: bool
    metric: str
    answers: tuple[Answer, ...]


class Sketch(Part):
    """A joint space in numbers that can be drawn.

    Attributes:
        images, texts: how many it was made of.
        matched, unmatched: how many pairs have a cosine in each of the equal bins of [-1, 1].
        hubs: by side (``image``, ``text``), how many candidates are among the 10 nearest of 0, 1, 2, ...
            queries, up to the most; above 400 they are counted together. None with too few candidates.
        image_points, text_points: the first pairs on the two main axes of images and texts together.
        explained: the share of the variance that those two axes hold.
    """

    images: int
    texts: int
    matched: tuple[int, ...]
    unmatched: tuple[int, ...]
    hubs: dict[Literal["image", "text"], tuple[int, ...] | None]
    image_points: tuple[tuple[float, float], ...]
    text_points: tuple[tuple[float, float], ...]
    explained: float


class Pictures(Part):
    """The content of a file.

    Attributes:
        weights_digest, fingerprint: of the model and of the samples, as in the records.
        thumbnails: JPEG in base64, by name of the image.
        problem: why there is no example although there should be.
    """

    format: Literal[1] = 1
    weights_digest: str | None = None
    fingerprint: str | None = None
    examples: tuple[Example, ...] = ()
    thumbnails: dict[str, Jpeg] = Field(default_factory=dict)
    sketch: Sketch | None = None
    problem: str = ""

    def encode(self) -> bytes:
        """The content of the file, without the last examples if all were too large."""
        content = self.model_dump_json().encode()
        if len(content) <= LARGEST_BYTES or not self.examples:
            return content
        kept = self.examples[:-1]
        named = {example.item for example in kept} | {a.item for example in kept for a in example.answers}
        shown = {item: jpeg for item, jpeg in self.thumbnails.items() if item in named}
        return self.model_copy(update={"examples": kept, "thumbnails": shown}).encode()


def read_pictures(path: Path, record: RunRecord) -> Pictures | None:
    """The pictures that go with a record; None where there are none, or only those of another run."""
    try:
        found = Pictures.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
    same = found.weights_digest == record.model.weights_digest
    return found if same and found.fingerprint == record.dataset.fingerprint else None
