"""``EmbeddingSet``: one data set under one model, everything a metric needs and nothing else."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from climp_bench.data.dataset import Dataset, captions_of, labels_of, targets_of
from climp_bench.data.prompts import render
from climp_bench.specs import TaskKind

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Annotations:
    """What belongs to the images of a data set, read once for all models.

    Attributes:
        texts: captions, or every class in every template; M or T of them.
        owner: image index of each caption (retrieval), class index of each prompt (else); shape (M,).
        labels: class of each image, (N,); classification only.
        targets: classes present in each image, (N, C); multilabel only.
        groups: subgroup of each image, or None.
    """

    kind: TaskKind
    classes: tuple[str, ...]
    texts: tuple[str, ...]
    owner: Ints
    labels: Ints | None = None
    targets: Bools | None = None
    groups: tuple[str, ...] | None = None


@dataclass(frozen=True)
class EmbeddingSet:
    """Unit-norm float32 embeddings: images (N, P) and texts (M, P), with their annotations."""

    images: Floats
    texts: Floats
    notes: Annotations


def annotate(
    dataset: Dataset, templates: tuple[str, ...] | None = None, *, first_caption: bool = False
) -> Annotations:
    """Read labels or captions and render prompts.

    Args:
        templates: overrides the data set's own prompt templates.
        first_caption: only the first caption of every image counts (retrieval).

    Raises:
        DataError: labels out of range, empty captions, no class names; names the item.
    """
    if dataset.kind == "retrieval":
        captions, image_of = captions_of(dataset)
        if first_caption:
            firsts = np.unique(image_of, return_index=True)[1]
            captions, image_of = [captions[i] for i in firsts], image_of[firsts]
        return Annotations(dataset.kind, (), tuple(captions), image_of)
    prompts, class_of = render(dataset.classes, templates or dataset.templates)
    groups = [dataset.group(i) for i in range(len(dataset))]
    return Annotations(
        kind=dataset.kind,
        classes=dataset.classes,
        texts=tuple(prompts),
        owner=class_of,
        labels=labels_of(dataset) if dataset.kind == "classification" else None,
        targets=targets_of(dataset) if dataset.kind == "multilabel" else None,
        groups=tuple(g or "" for g in groups) if any(groups) else None,
    )


def merge_shared_names(notes: Annotations) -> Annotations:
    """One class for every distinct class name, in order of first appearance.

    Prompts of the classes that are merged are the same texts, so their mean is unchanged.
    """
    first: dict[str, int] = {}
    for name in notes.classes:
        first.setdefault(name, len(first))
    if len(first) == len(notes.classes):
        return notes
    merged = np.array([first[name] for name in notes.classes], dtype=np.int64)
    labels = None if notes.labels is None else merged[notes.labels]
    return replace(notes, classes=tuple(first), owner=merged[notes.owner], labels=labels)
