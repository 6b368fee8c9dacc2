"""Contrastive losses of a batch that is spread over processes, exact, without its whole B x B logits.

Every process holds all embeddings (B x P, a few MB) and looks at its own rows of the logits, ``chunk`` rows
at a time, once for the loss and once for the gradients, which are written out by hand. Processes exchange
embeddings and, for InfoNCE, 2 B numbers: the log-sum-exp of each image's and each text's row. With these a
process knows the gradient of the *whole* batch's loss by its own rows, so that no gradient of an embedding
ever travels.

Notation: c = cosines, s = scale, q = bias, B pairs, b of them of this process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, cast

import torch
from torch import Tensor

from climp_bench.train.world import World

LossKind = Literal["infonce", "siglip"]
Weigh = Callable[[Tensor, slice], Tensor]


def global_loss(
    kind: LossKind,
    image_bP: Tensor,
    text_bP: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    world: World | None = None,
    n: int | None = None,
    chunk: int = 1024,
) -> tuple[Tensor, Tensor]:
    """The loss of a whole batch, the same number in every process.

    Its backward gives ``image_bP`` and ``text_bP`` the gradient of that loss, and ``scale`` and ``bias`` this
    process's share of it: the sum over processes is the whole.

    Args:
        kind: ``infonce``: the mean of both cross-entropies (Radford et al. 2021, figure 3), in nats;
            ``siglip``: the sum over all pairs of -log sigmoid(+-(s c + q)), over B (Zhai et al. 2023, eq. 1).
        image_bP, text_bP: unit-norm float32 (or float64) embeddings of this process's share of the batch;
            row i of one belongs to row i of the other.
        scale: factor on the cosines, a scalar.
        bias: added to the scaled cosines, a scalar; of ``siglip`` only.
        world: the processes; by default this one alone.
        n: B; by default the rows given.
        chunk: rows of logits that exist at a time.

    Returns:
        The loss, and the share of images whose own text is the best of the batch (no gradient flows through
        it).
    """
    world, n = world or World(), len(image_bP) if n is None else n
    with torch.autocast(image_bP.device.type, enabled=False):
        if kind == "infonce":
            outcome = _InfoNce.apply(image_bP, text_bP, scale, world, n, chunk)
        else:
            offset = torch.zeros_like(scale) if bias is None else bias
            outcome = _SigLip.apply(image_bP, text_bP, scale, offset, world, n, chunk)
        loss, accuracy = cast(tuple[Tensor, Tensor], outcome)
        return loss, accuracy.detach()


class _InfoNce(torch.autograd.Function):
    """L = 1/2B sum_i [lse_j(s c_ij) + lse_j(s c_ji) - 2 s c_ii]."""

    @staticmethod
    def forward(
        ctx: Any, image_bP: Tensor, text_bP: Tensor, scale: Tensor, world: World, n: int, chunk: int
    ) -> tuple[Tensor, Tensor]:
        image_BP, text_BP = world.gather(image_bP, n), world.gather(text_bP, n)
        first = world.share(n).start
        best_b = image_bP.new_empty(len(image_bP))
        image_lse_b, text_lse_b = torch.empty_like(best_b), torch.empty_like(best_b)
        for rows in _chunks(len(image_bP), chunk):
            logits = scale * (image_bP[rows] @ text_BP.T)
            image_lse_b[rows] = logits.logsumexp(1)
            best_b[rows] = (logits.argmax(1) == _own(rows, first, logits.device)).to(best_b)
            text_lse_b[rows] = (scale * (text_bP[rows] @ image_BP.T)).logsumexp(1)
        own_b = scale * (image_bP * text_bP).sum(1)
        halves = (image_lse_b + text_lse_b) / 2 - own_b
        sums = world.sum_(torch.stack([halves.sum(), best_b.sum()])) / n
        ctx.save_for_backward(
            image_bP, text_bP, image_BP, text_BP, scale,
            image_lse_b, text_lse_b, world.gather(image_lse_b, n), world.gather(text_lse_b, n),
        )  # fmt: skip
        ctx.first, ctx.n, ctx.chunk = first, n, chunk
        return sums[0], sums[1]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        image_bP, text_bP, image_BP, text_BP, scale, image_lse_b, text_lse_b, image_lse_B, text_lse_B = (
            ctx.saved_tensors
        )

        def weigh(own_lse_b: Tensor, other_lse_B: Tensor) -> Weigh:
            def both(cosines: Tensor, rows: slice) -> Tensor:
                logits = scale * cosines
                both_ways: Tensor = (logits - own_lse_b[rows, None]).exp() + (logits - other_lse_B).exp()
                return both_ways

            return both

        place = (ctx.first, ctx.chunk, 2.0)
        image, along, _ = _pull(image_bP, text_BP, weigh(image_lse_b, text_lse_B), *place)
        text, _, _ = _pull(text_bP, image_BP, weigh(text_lse_b, image_lse_B), *place)
        share = grads[0] / (2 * ctx.n)
        return image * (share * scale), text * (share * scale), along * share, None, None, None


class _SigLip(torch.autograd.Function):
    """L = -1/B sum_ij log sigmoid(+-(s c_ij + q)), plus where i is j's own."""

    @staticmethod
    def forward(
        ctx: Any,
        image_bP: Tensor,
        text_bP: Tensor,
        scale: Tensor,
        bias: Tensor,
        world: World,
        n: int,
        chunk: int,
    ) -> tuple[Tensor, Tensor]:
        image_BP, text_BP = world.gather(image_bP, n), world.gather(text_bP, n)
        first = world.share(n).start
        total = right = image_bP.new_zeros(())
        for rows in _chunks(len(image_bP), chunk):
            logits = scale * (image_bP[rows] @ text_BP.T) + bias
            right = right + (logits.argmax(1) == _own(rows, first, logits.device)).sum()
            logits.diagonal(first + rows.start).neg_()
            # not softplus, which is linear above 20 and so off by up to 2e-9 a pair
            total = total - torch.nn.functional.logsigmoid(-logits).sum()
        sums = world.sum_(torch.stack([total, right])) / n
        ctx.save_for_backward(image_bP, text_bP, image_BP, text_BP, scale, bias)
        ctx.first, ctx.n, ctx.chunk = first, n, chunk
        return sums[0], sums[1]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        image_bP, text_bP, image_BP, text_BP, scale, bias = ctx.saved_tensors

        def weigh(cosines: Tensor, rows: slice) -> Tensor:
            likely: Tensor = (scale * cosines + bias).sigmoid()
            return likely

        place = (ctx.first, ctx.chunk, 1.0)
        image, along, total = _pull(image_bP, text_BP, weigh, *place)
        text, _, _ = _pull(text_bP, image_BP, weigh, *place)
        share = grads[0] / ctx.n
        return (
            image * (share * scale), text * (share * scale), along * share, total * share, None, None, None
        )  # fmt: skip


def _pull(
    own_bP: Tensor, other_BP: Tensor, weigh: Weigh, first: int, chunk: int, matched: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over the other side by weights w_ij, less ``matched`` where i is j's own.

    Returns:
        sum_j w_ij other_j (b, P), and the scalars sum_ij w_ij c_ij and sum_ij w_ij.
    """
    pulled_bP = torch.empty_like(own_bP)
    along, total = own_bP.new_zeros(()), own_bP.new_zeros(())
    for rows in _chunks(len(own_bP), chunk):
        cosines = own_bP[rows] @ other_BP.T
        weights = weigh(cosines, rows)
        weights.diagonal(first + rows.start).sub_(matched)
        pulled_bP[rows] = weights @ other_BP
        along, total = along + (weights * cosines).sum(), total + weights.sum()
    return pulled_bP, along, total


def _chunks(n: int, chunk: int) -> list[slice]:
    return [slice(start, min(start + chunk, n)) for start in range(0, n, chunk)]


def _own(rows: slice, first: int, device: torch.device) -> Tensor:
    return torch.arange(first + rows.start, first + rows.stop, device=device)
