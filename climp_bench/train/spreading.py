"""How a model is spread over processes: copies that average gradients (DDP), or shards of it (FSDP2)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from climp_bench.errors import BackendError
from climp_bench.models.dual_encoder import DualEncoder
from climp_bench.ops.dispatch import ops, preferred
from climp_bench.train.world import World, explained

Strategy = Literal["ddp", "fsdp"]


class Towers(nn.Module):
    """Both towers and projections of a dual encoder, without its logit scale, which belongs to the loss.

    Args:
        model: stays as it is; parameters are shared with it.
    """

    def __init__(self, model: DualEncoder) -> None:
        super().__init__()
        self.vision_encoder, self.vision_projection = model.vision_encoder, model.vision_projection
        self.text_encoder, self.text_projection = model.text_encoder, model.text_projection
        self._encode_image, self._encode_text = model.encode_image, model.encode_text

    def forward(
        self, images: Any, ids_BL: Tensor, lengths_B: Tensor, **image_kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Unit-norm float32 embeddings of images and texts, (B, P) each."""
        return self._encode_image(images, **image_kwargs), self._encode_text(ids_BL, lengths_B)


class Spread:
    """Towers whose gradients are brought together over all processes, when asked.

    A gradient arrives as the *sum* over processes: DDP and FSDP2 average, so ``backward`` multiplies first.

    Args:
        model: on its device.
        world: the processes; alone, nothing is wrapped.
        strategy: ``ddp`` or ``fsdp``.

    Raises:
        BackendError: this PyTorch has no FSDP2.
    """

    def __init__(self, model: DualEncoder, world: World, strategy: Strategy = "ddp") -> None:
        self.world, self.inner = world, Towers(model)
        self.sharded = world.size > 1 and strategy == "fsdp"
        self._outer: nn.Module = self.inner
        if self.sharded:
            _shard(self.inner, world)
        elif world.size > 1:
            warnings.filterwarnings(
                "ignore", "Grad strides do not match"
            )  # a matter of speed on 1-pixel kernels
            ids = None if world.device == "cpu" else [torch.cuda.current_device()]
            with explained():
                self._outer = DistributedDataParallel(self.inner, ids, gradient_as_bucket_view=True)

    def embed(self, *inputs: Any, **image_kwargs: Any) -> tuple[Tensor, Tensor]:
        """Embeddings of images and texts, to be followed by ``backward`` within the same ``synced``."""
        outer = self._outer if torch.is_grad_enabled() else self.inner
        with explained(), self.scans():
            return cast(tuple[Tensor, Tensor], outer(*inputs, **image_kwargs))

    def backward(self, embeddings: tuple[Tensor, Tensor], grads: tuple[Tensor, Tensor]) -> None:
        """Add to the gradients of the parameters what ``grads`` at the embeddings mean for them."""
        with explained(), self.scans():
            torch.autograd.backward(embeddings, [grad * self.world.size for grad in grads])

    def synced(self, last: bool) -> AbstractContextManager[None]:
        """Within, gradients travel if this is the last part of a step, else they stay and add up."""
        if self.sharded:
            for part in self.inner.children():
                cast(Any, part).set_requires_gradient_sync(last)
        elif self.world.size > 1 and not last:
            return cast(DistributedDataParallel, self._outer).no_sync()
        return nullcontext()

    def scans(self) -> AbstractContextManager[None]:
        """Shards on a CPU scan in PyTorch: memory that numpy has looked at cannot be freed as FSDP2 must."""
        on_cpu = self.sharded and self.world.device == "cpu"
        return preferred(dict.fromkeys(ops(), "torch")) if on_cpu else nullcontext()


def blocks(tower: nn.Module) -> list[nn.Module]:
    """The repeated blocks of a tower, in order: of its ``blocks``, or of ``layers`` that have none."""
    found = []
    for name, module in tower.named_modules():
        last = name.rsplit(".", 1)[-1]
        inner = any(child.endswith(".blocks") for child, _ in module.named_modules())
        if isinstance(module, nn.Sequential | nn.ModuleList) and (
            last == "blocks" or (last == "layers" and not inner)
        ):
            found += list(module)
    return found


def checkpoint_activations(model: DualEncoder) -> None:
    """Keep only the inputs of blocks, and compute the rest again going backwards (Chen et al. 2016)."""
    for tower in (model.vision_encoder, model.text_encoder):
        for block in blocks(tower):
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def has_fsdp2() -> bool:
    """Whether this PyTorch has ``fully_shard`` in public."""
    try:
        from torch.distributed.fsdp import fully_shard  # noqa: F401
    except ImportError:
        return False
    return True


def _shard(towers: Towers, world: World) -> None:
    if not has_fsdp2():
        raise BackendError(
            f"PyTorch {torch.__version__} has no FSDP2",
            remedy='Use 2.6 or later, or compute.strategy = "ddp".',
        )
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(world.device, (world.size,))
    for part in towers.children():  # each by itself, so that an image can be encoded without a text
        for block in blocks(part):
            fully_shard(block, mesh=mesh, reshard_after_forward=True)
        fully_shard(part, mesh=mesh, reshard_after_forward=True)


def clip_gradients_(parameters: list[nn.Parameter], most: float) -> Tensor:
    """Scale all gradients so that their norm together is at most ``most``; the norm before, a scalar.

    Parameters may be shards; each kind is measured by itself, for the two do not mix in one call.
    """
    kinds: dict[bool, list[Tensor]] = {}
    for parameter in parameters:
        if parameter.grad is not None:
            kinds.setdefault(hasattr(parameter.grad, "full_tensor"), []).append(parameter.grad)
    norms = [torch.nn.utils.get_total_norm(grads) for grads in kinds.values()]
    whole = [cast(Any, norm).full_tensor() if hasattr(norm, "full_tensor") else norm for norm in norms]
    norm = torch.stack(whole).norm()
    factor = (most / (norm + 1e-6)).clamp(max=1.0)
    for grads in kinds.values():
        torch._foreach_mul_([cast(Any, g).to_local() if hasattr(g, "to_local") else g for g in grads], factor)
    return cast(Tensor, norm)


@contextmanager
def seeded(seed: int, device: str) -> Iterator[None]:
    """Within, torch draws as ``seed`` says; its own state is put back afterwards."""
    with torch.random.fork_rng(devices=[] if device == "cpu" else [torch.cuda.current_device()]):
        torch.manual_seed(seed)
        yield
