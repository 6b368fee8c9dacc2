"""Recall at k of a million captions among 100,000 images: time, memory, float64 on a sample of queries.

``python -m tests.scale.recall_at_scale [--images 100000] [--captions-each 10] [--width 64]``
Exit code 1 where a sampled query's outcome differs from float64 and rounding does not explain it.
"""

from __future__ import annotations

import argparse
import resource
import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from climp_bench.metrics.retrieval import RetrievalOutcome, recall_at_k

KS = (1, 5, 10)
ROUNDING = 1e-6
"""Float32 scores of unit vectors are wrong by less than this (64 products of numbers below 1)."""

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Scene:
    """Unit embeddings of images (N, D) and captions (M, D), and the image of each caption (M,)."""

    image_ND: Floats
    text_MD: Floats
    image_of_text_M: Ints


def make(images: int, captions_each: int, width: int, seed: int = 0) -> Scene:
    """Captions are noisy copies of their image, so that recall lies well between 0 and 1."""
    rng = np.random.default_rng(seed)
    image = _unit(rng.standard_normal((images, width), dtype=np.float32))
    owner = rng.permutation(np.repeat(np.arange(images), captions_each))
    noise = rng.standard_normal((len(owner), width), dtype=np.float32)
    return Scene(image, _unit(image[owner] + np.float32(0.2) * noise), owner)


def _unit(rows: Floats) -> Floats:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def differences(
    query_QD: Floats, candidate_CD: Floats, match_QC: npt.NDArray[np.bool_], hits_kQ: npt.NDArray[np.bool_]
) -> tuple[int, int]:
    """Outcomes that differ from float64: within rounding of the cut, and beyond it."""
    scores = query_QD.astype(np.float64) @ candidate_CD.astype(np.float64).T
    best = np.where(match_QC, scores, -np.inf).max(axis=1)
    within = beyond = 0
    for k, hits in zip(KS, hits_kQ, strict=True):
        rivals = np.where(match_QC, -np.inf, scores)
        cut = np.partition(rivals, -k, axis=1)[:, -k]
        differs = hits != (best > cut)
        near = np.abs(best - cut) < ROUNDING
        within += int((differs & near).sum())
        beyond += int((differs & ~near).sum())
    return within, beyond


def check(scene: Scene, outcome: RetrievalOutcome, sample: int, seed: int = 1) -> tuple[int, int]:
    """``differences`` of ``sample`` random captions and as many images, a few at a time."""
    rng = np.random.default_rng(seed)
    n, m = len(scene.image_ND), len(scene.text_MD)
    within = beyond = 0
    for texts in np.array_split(rng.choice(m, min(sample, m), replace=False), max(1, sample // 100)):
        match = scene.image_of_text_M[texts, None] == np.arange(n)
        hits = np.stack([outcome.text_hits_M[k][texts] for k in KS])
        found = differences(scene.text_MD[texts], scene.image_ND, match, hits)
        within, beyond = within + found[0], beyond + found[1]
    for images in np.array_split(rng.choice(n, min(sample, n), replace=False), max(1, sample // 20)):
        match = images[:, None] == scene.image_of_text_M
        hits = np.stack([outcome.image_hits_N[k][images] for k in KS])
        found = differences(scene.image_ND[images], scene.text_MD, match, hits)
        within, beyond = within + found[0], beyond + found[1]
    return within, beyond


def main() -> None:
    """Measure, check, print; one line a fact."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--captions-each", type=int, default=10)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument(
        "--sample", type=int, default=500, help="queries of each direction checked in float64"
    )
    asked = parser.parse_args()
    scene = make(asked.images, asked.captions_each, asked.width)
    texts = len(scene.text_MD)
    print(f"{texts:,} captions x {asked.images:,} images, width {asked.width}")
    print(f"a full float32 matrix of scores: {4 * texts * asked.images / 1e9:,.1f} GB")
    started = time.perf_counter()
    outcome = recall_at_k(scene.image_ND, scene.text_MD, scene.image_of_text_M, KS)
    print(f"time: {time.perf_counter() - started:,.1f} s, both directions")
    print(f"peak resident memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")
    for k in KS:
        found, ties = outcome.image_retrieval_recall(k), outcome.text_ties[k]
        print(f"recall@{k} text to image: {found:.6f} ({ties} queries decided by the tie rule)")
        found, ties = outcome.text_retrieval_recall(k), outcome.image_ties[k]
        print(f"recall@{k} image to text: {found:.6f} ({ties} queries decided by the tie rule)")
    within, beyond = check(scene, outcome, asked.sample)
    print(f"{asked.sample} queries each way in float64: {beyond} outcomes differ, {within} more by rounding")
    if beyond:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
