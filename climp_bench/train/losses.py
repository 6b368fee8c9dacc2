"""The contrastive loss."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def contrastive_loss(image_BP: Tensor, text_BP: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric InfoNCE over a batch of pairs (Radford et al. 2021, figure 3).

    Args:
        image_BP, text_BP: unit-norm float32 embeddings; row i of one belongs to row i of the other.
        scale: factor on the cosines, a scalar.

    Returns:
        The mean of both cross-entropies, in nats, and the share of images whose own text is the best of the
        batch (no gradient flows through it).
    """
    with torch.autocast(image_BP.device.type, enabled=False):
        logits_BB = scale.float() * image_BP.float() @ text_BP.float().T
        own = torch.arange(len(logits_BB), device=logits_BB.device)
        loss = (F.cross_entropy(logits_BB, own) + F.cross_entropy(logits_BB.T, own)) / 2
        return loss, (logits_BB.detach().argmax(dim=1) == own).float().mean()
