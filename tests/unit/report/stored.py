"""A small store with per-sample outcomes, pictures and hostile names, for the tests of reports."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from climp_bench.metrics.uncertainty import wilson
from climp_bench.report.document import Standing
from climp_bench.results import ResultStore, RunRecord
from climp_bench.results.outcomes import Hits, Outcomes, digest, encode
from climp_bench.results.pictures import Answer, Example, Pictures
from climp_bench.specs import Interval
from tests.unit.results.records import FAILED, record

HOSTILE = "<script>alert('x')</script>|\"&]]>_{}\\ "
N = 200


def named(model: str) -> dict[str, Any]:
    family, _, scale = model.partition("@")
    return {"name": model, "family": family, "scale": scale or None, "weights_digest": f"digest of {family}"}


def write(
    store: ResultStore, model: str, task: str, right: int, pictures: Pictures | None = None, **facts: Any
) -> RunRecord:
    """Store ``acc1`` of a model that is right on the first ``right`` of ``N`` samples."""
    hits = np.arange(N) < right
    content = encode(Outcomes(tuple(f"i{k}" for k in range(N)), {"acc1": Hits(hits)}))
    made = record(
        **{
            "model": named(model), "task": task, "value": right / N, "interval": wilson(right, N),
            "n_expected": N, "n_evaluated": N, "outcomes_digest": digest(content), "extra": {"chance": 0.1},
            "dataset": {"name": task, "split": "test", "fingerprint": "f00d"}, **facts,
        }
    )  # fmt: skip
    store.write([made], content, pictures.encode() if pictures else None)
    return made


def failed(store: ResultStore, model: str, task: str, **facts: Any) -> None:
    """Store a failure with a hostile reason."""
    error = {"what": HOSTILE, "where": "cuda:0", "remedy": "Mend it."}
    store.write(
        [record(**FAILED | {"model": named(model), "task": task, "metric": "any", "error": error} | facts)]
    )


def jpeg(seed: int) -> str:
    pixels = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG")
    return base64.b64encode(buffer.getvalue()).decode()


def shots(model: str, text: str = "a red circle") -> Pictures:
    """A hit with an image and a miss with a caption."""
    family = model.partition("@")[0]
    named_one = Example(
        query="image", item="i0", text=text, right=True, metric="acc1",
        answers=(Answer(text=text, right=True, cosine=0.5), Answer(text="another", right=False, cosine=0.4)),
    )  # fmt: skip
    found = Example(
        query="text", item="i1", text=text, right=False, metric="image_retrieval_recall@1",
        answers=(Answer(item="i0", right=False, cosine=0.3), Answer(item="i1", right=True, cosine=0.2)),
    )  # fmt: skip
    return Pictures(
        weights_digest=f"digest of {family}", fingerprint="f00d", examples=(named_one, found),
        thumbnails={"i0": jpeg(0), "i1": jpeg(1)},
    )  # fmt: skip


def fill(root: Path) -> ResultStore:
    """Three models on two tasks: one far ahead on the first, all alike on the second, one failure."""
    store = ResultStore(root / "records")
    for model, first, second in (("a@micro", 180, 100), ("b@micro", 140, 101), ("c@micro", 100, 99)):
        write(store, model, "easy", first, shots(model))
        write(store, model, "even", second)
    write(store, "a@micro", HOSTILE, 50, shots("a@micro", HOSTILE))
    failed(store, "b@micro", HOSTILE)
    write(store, "a@micro", "swept", 120, resolution=(64, 64), suite="sizes")
    write(store, "a@micro", "swept", 60, resolution=(96, 96), suite="sizes")
    plain = {"n_expected": N, "n_evaluated": N, "interval": Interval(0.2, 0.4, 0.95, "x"), "value": 0.3}
    store.write([record(model=named("a@micro"), task="geo", kind="geometry", metric="alignment", **plain)])
    return store


def untested(rows: Any, columns: Any) -> list[Standing]:
    """A judge that tests nothing."""
    return [Standing() for _ in rows]
