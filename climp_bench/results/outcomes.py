"""Per-sample outcomes of one evaluation: for each score that is a mean over samples, which were right.

One ``.npz`` an evaluation. Parquet would keep a byte for a bit and need pyarrow; bits packed by numpy take
6 kB for 50,000 samples, and numpy alone reads them back. Not kept: mean average precision (a ranking within
each class, no outcome of a sample), mean per-class recall and the worst group (means over other weights than
one a sample, and the worst group may be another one in another run).
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from climp_bench.errors import StoreError

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Over = Literal["images", "texts"]
FORMAT = 1
_OWN = ("format", "ids", "over", "step_to_image_of_text")
_REMEDY = "Evaluate again with --fresh."


@dataclass(frozen=True)
class Hits:
    """Which samples were right.

    Attributes:
        right: one boolean a sample, (n,).
        over: a sample is an image, or a text; texts of one image form a cluster.
    """

    right: Bools
    over: Over = "images"


@dataclass(frozen=True)
class Outcomes:
    """The outcomes of one evaluation.

    Attributes:
        ids: the data set's own name of each image, (N,).
        hits: by metric.
        image_of_text: index of the image that each text belongs to, (M,); None without captions. The k-th
            text of an image is its k-th caption, so texts need no names of their own.
    """

    ids: tuple[str, ...]
    hits: Mapping[str, Hits]
    image_of_text: Ints | None = field(default=None)

    def __post_init__(self) -> None:
        for metric, hits in self.hits.items():
            if len(hits.right) != self._length(hits.over):
                found = f"{len(hits.right)} outcomes for {self._length(hits.over)} {hits.over}"
                raise ValueError(f"{metric}: {found}")

    def clusters(self, metric: str) -> Ints | None:
        """The image that each sample of a metric belongs to, (n,); None where each is an image itself."""
        return self.image_of_text if self.hits[metric].over == "texts" else None

    def samples(self, metric: str) -> str:
        """Digest of what the samples of a metric are and of their order: equal where runs can be paired."""
        clusters = self.clusters(metric)
        named = [self.ids, None if clusters is None else clusters.tolist()]
        return hashlib.sha256(json.dumps(named).encode()).hexdigest()[:32]

    def _length(self, over: Over) -> int:
        if over == "images":
            return len(self.ids)
        return 0 if self.image_of_text is None else len(self.image_of_text)


def encode(outcomes: Outcomes) -> bytes:
    """The content of the file: the same outcomes give the same bytes."""
    over = {metric: hits.over for metric, hits in outcomes.hits.items()}
    arrays: dict[str, Any] = {
        "format": np.array(FORMAT),
        "ids": _text(outcomes.ids),
        "over": _text(over),
        **{metric: np.packbits(hits.right) for metric, hits in sorted(outcomes.hits.items())},
    }
    if outcomes.image_of_text is not None:
        arrays["step_to_image_of_text"] = np.diff(outcomes.image_of_text, prepend=0).astype(np.int32)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def digest(content: bytes) -> str:
    """What a record states of the file of its outcomes."""
    return hashlib.sha256(content).hexdigest()


def read_outcomes(path: Path, expected: str) -> Outcomes:
    """The outcomes in a file.

    Args:
        path: of the file.
        expected: its digest by the records beside it.

    Raises:
        StoreError: it is missing, is not the file those records were made with, or cannot be read.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise StoreError("the per-sample outcomes are missing", where=str(path), remedy=_REMEDY) from error
    except OSError as error:
        what = f"the per-sample outcomes cannot be read ({error.strerror})"
        raise StoreError(what, where=str(path), remedy="Check that you may read the file.") from error
    if digest(content) != expected:
        what = "the per-sample outcomes are not those of the records beside them (their digest differs)"
        raise StoreError(what, where=str(path), remedy=_REMEDY)
    try:
        return _decode(content)
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise StoreError(f"not per-sample outcomes ({error})", where=str(path), remedy=_REMEDY) from error


def _decode(content: bytes) -> Outcomes:
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        if int(arrays["format"]) != FORMAT:
            raise ValueError(f"format {int(arrays['format'])}, this climp-bench reads {FORMAT}")
        ids, over = tuple(_read(arrays["ids"])), _read(arrays["over"])
        steps = "step_to_image_of_text"
        owner = arrays[steps].cumsum(dtype=np.int64) if steps in arrays else None
        lengths = {"images": len(ids), "texts": 0 if owner is None else len(owner)}
        hits = {}
        for metric in arrays.files:
            if metric not in _OWN:
                axis = over[metric]
                bits = np.unpackbits(arrays[metric], count=lengths[axis])
                hits[metric] = Hits(bits.astype(np.bool_), axis)
    return Outcomes(ids, hits, owner)


def _text(value: object) -> npt.NDArray[np.uint8]:
    return np.frombuffer(json.dumps(value).encode(), np.uint8)


def _read(array: npt.NDArray[np.uint8]) -> Any:
    return json.loads(array.tobytes())
