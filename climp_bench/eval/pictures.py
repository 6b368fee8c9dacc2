"""A few samples that a model got right and wrong, with thumbnails, for reports."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image

from climp_bench.data.dataset import Dataset
from climp_bench.embed.sets import EmbeddingSet, Ints, merge_shared_names
from climp_bench.errors import ClimpError
from climp_bench.eval.scores import Score
from climp_bench.metrics.classification import prompt_weights
from climp_bench.results.pictures import Answer, Example, Pictures
from climp_bench.suite.protocols import rules

EACH = 4
"""Hits and misses of a classification task; of retrieval ``EACH`` with images and half as many with texts."""
ANSWERS = 3
SIDE = 96
"""Longest side of a thumbnail in pixels."""
_LONGEST = 300


def picture(dataset: Dataset, embeddings: EmbeddingSet, scores: Sequence[Score], protocol: str) -> Pictures:
    """Examples of classification and retrieval; nothing of other tasks.

    Which samples are tried first does not depend on the model, so that models show the same ones. An image
    that cannot be read any more leaves a reason in place of examples.

    Args:
        dataset: that the embeddings are of.
        embeddings: of one model.
        scores: with their outcomes.
        protocol: of the suite.
    """
    examples: list[Example] = []
    if embeddings.notes.kind == "classification":
        examples = _named(dataset, embeddings, scores, protocol)
    elif embeddings.notes.kind == "retrieval":
        examples = _described(dataset, embeddings, scores) + _found(dataset, embeddings, scores)
    names = dict.fromkeys(e.item for e in examples) | dict.fromkeys(
        a.item for e in examples for a in e.answers
    )
    place = {dataset.item_id(i): i for i in range(len(dataset))} if examples else {}
    try:
        thumbnails = {name: _thumbnail(dataset, place[name]) for name in sorted(names) if name}
    except ClimpError as error:
        return Pictures(problem=str(error))
    return Pictures(examples=tuple(examples), thumbnails=thumbnails)


def _named(
    dataset: Dataset, embeddings: EmbeddingSet, scores: Sequence[Score], protocol: str
) -> list[Example]:
    """Images and the classes that the model names them by."""
    notes = embeddings.notes
    if rules(protocol).shared_names == "merged":
        notes = merge_shared_names(notes)
    score = next((s for s in scores if s.metric == "acc1" and s.outcomes is not None), None)
    if score is None or score.outcomes is None or notes.labels is None:
        return []
    weight_DC = prompt_weights(embeddings.texts, notes.owner, len(notes.classes))
    examples = []
    for i in _chosen(score.outcomes, EACH):
        cosine_C = embeddings.images[i] @ weight_DC
        label = int(notes.labels[i])
        answers = tuple(
            Answer(text=notes.classes[c], right=int(c) == label, cosine=_rounded(cosine_C[c]))
            for c in _best(cosine_C)
        )
        right = bool(score.outcomes[i])
        text = notes.classes[label]
        examples.append(
            Example(
                query="image", item=dataset.item_id(i), text=text, right=right, metric="acc1", answers=answers
            )
        )
    return examples


def _described(dataset: Dataset, embeddings: EmbeddingSet, scores: Sequence[Score]) -> list[Example]:
    """Images and the captions that the model finds for them."""
    notes = embeddings.notes
    score = _strictest(scores, "text_retrieval_recall@")
    if score is None or score.outcomes is None:
        return []
    examples = []
    for i in _chosen(score.outcomes, EACH):
        cosine_M = embeddings.texts @ embeddings.images[i]
        answers = tuple(
            Answer(text=_cut(notes.texts[m]), right=int(notes.owner[m]) == i, cosine=_rounded(cosine_M[m]))
            for m in _best(cosine_M)
        )
        own = notes.texts[int(np.flatnonzero(notes.owner == i)[0])]
        right = bool(score.outcomes[i])
        examples.append(
            Example(
                query="image", item=dataset.item_id(i), text=_cut(own), right=right, metric=score.metric,
                answers=answers,
            )
        )  # fmt: skip
    return examples


def _found(dataset: Dataset, embeddings: EmbeddingSet, scores: Sequence[Score]) -> list[Example]:
    """Captions and the images that the model finds for them."""
    notes = embeddings.notes
    score = _strictest(scores, "image_retrieval_recall@")
    if score is None or score.outcomes is None:
        return []
    examples = []
    for m in _chosen(score.outcomes, EACH // 2):
        cosine_N = embeddings.images @ embeddings.texts[m]
        owner = int(notes.owner[m])
        answers = tuple(
            Answer(item=dataset.item_id(int(n)), right=int(n) == owner, cosine=_rounded(cosine_N[n]))
            for n in _best(cosine_N)
        )
        right = bool(score.outcomes[m])
        examples.append(
            Example(
                query="text", item=dataset.item_id(owner), text=_cut(notes.texts[m]), right=right,
                metric=score.metric, answers=answers,
            )
        )  # fmt: skip
    return examples


def _strictest(scores: Sequence[Score], start: str) -> Score | None:
    """The score with the smallest k that has outcomes."""
    found = [s for s in scores if s.metric.removeprefix(start).isdecimal() and s.outcomes is not None]
    return min(found, key=lambda s: int(s.metric.removeprefix(start)), default=None)


def _chosen(right_N: npt.NDArray[np.bool_], each: int) -> list[int]:
    """Up to ``each`` hits, then as many misses, in an order that depends on the number of samples only."""
    order = np.random.default_rng(0).permutation(len(right_N))
    return [int(i) for wanted in (True, False) for i in order[right_N[order] == wanted][:each]]


def _best(cosines: npt.NDArray[np.float32]) -> Ints:
    return np.argsort(-cosines, kind="stable")[:ANSWERS]


def _rounded(cosine: np.float32) -> float:
    return round(float(cosine), 3)


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


@lru_cache(maxsize=256)
def _thumbnail(dataset: Dataset, index: int) -> str:
    """As base64 of a JPEG file; kept, for the next model mostly shows the same images."""
    picture = Image.fromarray(dataset.image(index, (SIDE, SIDE)))
    picture.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=78, optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
