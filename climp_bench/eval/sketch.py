"""A joint space in numbers that a report can draw, made beside ``describe`` from the same embeddings."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from climp_bench.embed.sets import EmbeddingSet, Floats, Ints
from climp_bench.eval.geometry import NEIGHBOURS
from climp_bench.metrics.geometry import neighbour_counts
from climp_bench.results.pictures import Sketch

BINS = 100
LARGEST_IMAGES = 2000
POINTS = 120
OFTEN = 400
"""Candidates that occur more often are counted together."""
_ROWS = 256


def sketch(embeddings: EmbeddingSet, seed: int = 0) -> Sketch:
    """Similarities of matched and unmatched pairs, hubs, and two axes to look at.

    Of more than ``LARGEST_IMAGES`` images a random subset is taken, with all its texts.

    Args:
        embeddings: with captions.
        seed: of the subset.
    """
    image_ND, text_MD, owner_M = embeddings.images, embeddings.texts, embeddings.notes.owner
    if len(image_ND) > LARGEST_IMAGES:
        pick = np.sort(np.random.default_rng(seed).choice(len(image_ND), LARGEST_IMAGES, replace=False))
        own = np.flatnonzero(np.isin(owner_M, pick))
        image_ND, text_MD, owner_M = image_ND[pick], text_MD[own], np.searchsorted(pick, owner_M[own])
    matched, unmatched = _similarities(image_ND, text_MD, owner_M)
    points, explained = _two_axes(np.concatenate([image_ND, text_MD]))
    firsts = np.unique(owner_M, return_index=True)[1][:POINTS]
    shown = points[owner_M[firsts]], points[len(image_ND) + firsts]
    return Sketch(
        images=len(image_ND),
        texts=len(text_MD),
        matched=tuple(matched.tolist()),
        unmatched=tuple(unmatched.tolist()),
        hubs={"image": _occurrences(text_MD, image_ND), "text": _occurrences(image_ND, text_MD)},
        image_points=tuple((float(x), float(y)) for x, y in shown[0].round(3)),
        text_points=tuple((float(x), float(y)) for x, y in shown[1].round(3)),
        explained=round(explained, 4),
    )


def _similarities(image_ND: Floats, text_MD: Floats, owner_M: Ints) -> tuple[Ints, Ints]:
    """Pairs by cosine, the matching ones and all others, (BINS,) each."""
    everything = np.zeros(BINS, np.int64)
    for start in range(0, len(text_MD), _ROWS):
        everything += _histogram(text_MD[start : start + _ROWS] @ image_ND.T)
    matched = _histogram((image_ND[owner_M] * text_MD).sum(axis=1))
    return matched, np.maximum(everything - matched, 0)


def _histogram(cosines: Floats) -> Ints:
    return np.histogram(np.clip(cosines, -1, 1), bins=BINS, range=(-1, 1))[0].astype(np.int64)


def _occurrences(queries: Floats, candidates: Floats) -> tuple[int, ...] | None:
    if len(candidates) <= NEIGHBOURS:
        return None
    counts = neighbour_counts(queries, candidates, k=NEIGHBOURS)
    return tuple(np.bincount(np.minimum(counts, OFTEN)).tolist())


def _two_axes(rows_ND: Floats) -> tuple[npt.NDArray[np.float64], float]:
    """Coordinates on the two main axes (principal components), (N, 2), and their share of the variance."""
    centred = rows_ND.astype(np.float64) - rows_ND.mean(axis=0, dtype=np.float64)
    variances, axes = np.linalg.eigh(centred.T @ centred)
    total = float(variances.sum())
    main = axes[:, ::-1][:, :2]
    main = main * np.where(main[np.abs(main).argmax(axis=0), [0, 1]] < 0, -1.0, 1.0)
    return centred @ main, float(variances[-2:].sum()) / total if total > 0 else 0.0
