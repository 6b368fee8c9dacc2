from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from climp_bench.train.losses import contrastive_loss


def pairs(seed: int, batch: int, width: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(2, batch, width, generator=generator)
    image, text = F.normalize(rows, dim=-1)
    return image, text


def brute_force(image: torch.Tensor, text: torch.Tensor, scale: float) -> tuple[float, float]:
    """Both cross-entropies in float64, term by term."""
    a, b = image.double().numpy(), text.double().numpy()
    n, total, right = len(a), 0.0, 0
    for i in range(n):
        row = [scale * float(np.dot(a[i], b[j])) for j in range(n)]
        column = [scale * float(np.dot(a[j], b[i])) for j in range(n)]
        for scores in (row, column):
            total += math.log(sum(math.exp(s - max(scores)) for s in scores)) + max(scores) - scores[i]
        right += row.index(max(row)) == i
    return total / (2 * n), right / n


@given(seed=st.integers(0, 10_000), batch=st.integers(1, 9), scale=st.floats(0.1, 100))
def test_loss_and_accuracy_equal_a_brute_force_twin(seed: int, batch: int, scale: float) -> None:
    image, text = pairs(seed, batch)
    loss, accuracy = contrastive_loss(image, text, torch.tensor(scale))
    expected, right = brute_force(image, text, float(torch.tensor(scale)))
    assert float(loss) == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert float(accuracy) == pytest.approx(right)


def test_gradients_equal_those_of_log_sum_exp() -> None:
    image, text = (x.requires_grad_() for x in pairs(3, 7))
    scale = torch.tensor(14.0, requires_grad=True)
    ours = torch.autograd.grad(contrastive_loss(image, text, scale)[0], (image, text, scale))
    logits = scale * image @ text.T
    twin = (logits.logsumexp(0) + logits.logsumexp(1)).mean() / 2 - logits.diagonal().mean()
    for got, expected in zip(ours, torch.autograd.grad(twin, (image, text, scale)), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)


def test_autocast_does_not_round_the_logits() -> None:
    image, text = pairs(1, 8, width=64)
    scale = torch.tensor(100.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside, _ = contrastive_loss(image, text, scale)
    outside, _ = contrastive_loss(image, text, scale)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, outside)
