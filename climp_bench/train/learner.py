"""One optimiser step on a contrastive batch of any size, exact, whatever fits into memory at a time.

A batch is spread over processes, and each process's share is cut into parts. The loss of the whole batch
needs only embeddings, so a step has three phases (Gao et al. 2021, "GradCache"): embed every part without
keeping activations, but for the last one; take the loss of all embeddings and its gradient at each; send that
gradient back through the last part, and embed each other one again, now with activations, to send back its
own. Dropout and stochastic depth draw from a seed that belongs to the part, so both passes draw alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from climp_bench.models.dual_encoder import DualEncoder
from climp_bench.train.data import Batch
from climp_bench.train.global_loss import LossKind, global_loss
from climp_bench.train.spreading import Spread, Strategy, clip_gradients_, seeded
from climp_bench.train.world import World

SIGLIP_SCALE, SIGLIP_BIAS = 10.0, -10.0
"""First factor and bias of the sigmoid loss (Zhai et al. 2023, section 3.2)."""
DROPS = 2  # stream of random numbers, beside ORDER and CHOICES of train.data


class Objective(nn.Module):
    """What the loss learns beside the towers: the model's logit scale, and a bias if the loss has one.

    Args:
        model: whose logit scale it is; set to the loss's first value.
        kind: of the loss.
    """

    def __init__(self, model: DualEncoder, kind: LossKind) -> None:
        super().__init__()
        self.kind, self.logit_scale = kind, model.logit_scale
        self.logit_bias: nn.Parameter | None = None
        if kind == "siglip":
            self.logit_bias = nn.Parameter(torch.full_like(self.logit_scale, SIGLIP_BIAS))
            with torch.no_grad():
                self.logit_scale.fill_(np.log(SIGLIP_SCALE))


@dataclass(frozen=True)
class StepOutcome:
    """Loss and in-batch accuracy of the whole batch, and the norm of its gradients before clipping."""

    loss: Tensor
    accuracy: Tensor
    norm: Tensor


class Learner:
    """A model that takes steps.

    Args:
        model: on its device, in the mode it is to be trained in.
        world: the processes.
        kind: of the loss.
        chunk: rows of logits that exist at a time.
        strategy: how the model is spread.
        bf16: run the towers under bfloat16 autocast. The loss is always float32.
        seed: of what the towers draw.
    """

    def __init__(
        self,
        model: DualEncoder,
        world: World,
        *,
        kind: LossKind = "infonce",
        chunk: int = 1024,
        strategy: Strategy = "ddp",
        bf16: bool = False,
        seed: int = 0,
    ) -> None:
        self.model, self.world, self.chunk, self.bf16, self.seed = model, world, chunk, bf16, seed
        self.objective = Objective(model, kind)
        self.spread = Spread(model, world, strategy)
        self._named = dict(model.named_parameters())  # noted now: while in use, a sharded module shows others
        if self.objective.logit_bias is not None:
            self._named["logit_bias"] = self.objective.logit_bias

    def parameters(self) -> dict[str, nn.Parameter]:
        """Every parameter by name: those of the model, then what the loss adds."""
        return self._named

    def autocast(self) -> torch.autocast:
        """bfloat16 where asked for."""
        return torch.autocast(self.world.device, dtype=torch.bfloat16, enabled=self.bf16)

    def gradients(self, parts: Sequence[Batch], step: int, n: int) -> tuple[Tensor, Tensor]:
        """Put the gradients of the whole batch's loss into the parameters; its loss and accuracy.

        Args:
            parts: this process's share of the batch; every process has as many.
            step: number of the step, for what the towers draw.
            n: pairs of the whole batch.
        """
        kept, last = [], len(parts) - 1
        for k, part in enumerate(parts):
            with torch.set_grad_enabled(k == last), self.spread.synced(last == 0):
                kept.append(self._embed(part, step, k))
        image_bP, text_bP = (torch.cat(side).detach().requires_grad_() for side in zip(*kept, strict=True))
        for parameter in self.objective.parameters():
            parameter.grad = None
        loss, accuracy = global_loss(
            self.objective.kind, image_bP, text_bP, self.objective.logit_scale.exp(),
            self.objective.logit_bias, world=self.world, n=n, chunk=self.chunk,
        )  # fmt: skip
        loss.backward()
        assert image_bP.grad is not None and text_bP.grad is not None
        for parameter in self.objective.parameters():
            assert parameter.grad is not None
            self.world.sum_(parameter.grad)
        sizes = [len(part.ids_BL) for part in parts]
        pulls = list(zip(image_bP.grad.split(sizes), text_bP.grad.split(sizes), strict=True))
        order = (last, *range(last))
        for k in order:
            with self.spread.synced(k == order[-1]):
                self.spread.backward(kept[k] if k == last else self._embed(parts[k], step, k), pulls[k])
        return loss.detach(), accuracy

    def step(
        self, parts: Sequence[Batch], step: int, n: int, optimiser: torch.optim.Optimizer, clip: float
    ) -> StepOutcome:
        """One optimiser step, as ``gradients`` says; nothing waits for the device."""
        optimiser.zero_grad()
        loss, accuracy = self.gradients(parts, step, n)
        norm = clip_gradients_(list(self.parameters().values()), clip)
        optimiser.step()
        self.model.clamp_logit_scale_()
        return StepOutcome(loss, accuracy, norm)

    def _embed(self, part: Batch, step: int, k: int) -> tuple[Tensor, Tensor]:
        key = np.random.SeedSequence([self.seed, DROPS, step, self.world.rank, k]).generate_state(
            1, np.uint64
        )
        with seeded(int(key[0] >> 1), self.world.device), self.autocast():
            return self.spread.embed(part.images, part.ids_BL, part.lengths_B, **part.image_kwargs)
