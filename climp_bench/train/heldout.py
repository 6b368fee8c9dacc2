"""Retrieval on held-out scenes, measured while training."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from climp_bench.metrics.retrieval import recall_at_k
from climp_bench.models.dual_encoder import DualEncoder
from climp_bench.train.data import Captions, Scenes

CUTS = (1, 5)
BATCH = 250


@torch.no_grad()
def held_out_recall(model: DualEncoder, scenes: Scenes) -> dict[str, float]:
    """Recall at 1 and 5 among held-out scenes, the mean of both directions, with every caption.

    Args:
        model: left in the mode (training or not) it came in.
        scenes: pictures and captions that training does not show.

    Returns:
        ``short_recall@1``, ``short_recall@5``, ``dense_recall@1`` and ``dense_recall@5``, each in [0, 1].
    """
    training = model.training
    model.eval()
    try:
        every = np.arange(scenes.count)
        image_ND = np.concatenate([
            model.encode_image(scenes.images.take(rows)).float().cpu().numpy() for rows in _parts(every)
        ])  # fmt: skip
        scores = {}
        for kind, captions in scenes.captions.items():
            owner = np.repeat(every, captions.variants)
            outcome = recall_at_k(image_ND, _texts(model, captions, owner), owner, CUTS)
            for k in CUTS:
                both = outcome.image_retrieval_recall(k) + outcome.text_retrieval_recall(k)
                scores[f"{kind}_recall@{k}"] = both / 2
    finally:
        model.train(training)
    return scores


def _texts(model: DualEncoder, captions: Captions, owner: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    variant = np.arange(len(owner)) % captions.variants
    parts = [
        model.encode_text(*captions.take(owner[part], variant[part])).float().cpu().numpy()
        for part in _parts(np.arange(len(owner)))
    ]
    return np.concatenate(parts)


def _parts(rows: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    return [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
