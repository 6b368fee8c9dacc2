"""Chunked and spread losses against plain autograd on the whole batch."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from climp_bench.train.global_loss import LossKind, global_loss
from climp_bench.train.world import World, share

KINDS: tuple[LossKind, ...] = ("infonce", "siglip")
Inputs = tuple[Tensor, Tensor, Tensor, Tensor]


def inputs(seed: int, batch: int, dtype: torch.dtype, scale: float = 14.0, bias: float = -3.0) -> Inputs:
    generator = torch.Generator().manual_seed(seed)
    image, text = F.normalize(torch.randn(2, batch, 6, generator=generator, dtype=dtype), dim=-1)
    values = (image, text, torch.tensor(scale, dtype=dtype), torch.tensor(bias, dtype=dtype))
    return tuple(value.clone().requires_grad_() for value in values)  # type: ignore[return-value]


def plain(kind: LossKind, image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """The papers' pseudocode, on all B x B logits."""
    logits = scale * image @ text.T
    own = torch.arange(len(logits))
    if kind == "infonce":
        return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    signs = 2 * torch.eye(len(logits), dtype=logits.dtype) - 1
    return -F.logsigmoid(signs * (logits + bias)).sum() / len(logits)


def leaves(kind: LossKind, values: Inputs) -> Inputs:
    return values if kind == "siglip" else values[:3]  # type: ignore[return-value]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dtype", "within"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@settings(max_examples=40, deadline=None)
@example(seed=4729, batch=3, chunk=1, scale=55.0)  # logits just above 20, where softplus turns linear
@given(
    seed=st.integers(0, 10_000), batch=st.integers(1, 17), chunk=st.integers(1, 20), scale=st.floats(0.1, 100)
)
def test_equals_plain_autograd(
    kind: LossKind, dtype: torch.dtype, within: float, seed: int, batch: int, chunk: int, scale: float
) -> None:
    values = inputs(seed, batch, dtype, scale)
    loss, accuracy = global_loss(kind, *values, chunk=chunk)
    twin = plain(kind, *values)
    torch.testing.assert_close(loss, twin, rtol=within, atol=within)
    ours = torch.autograd.grad(3 * loss, leaves(kind, values))
    for got, expected in zip(ours, torch.autograd.grad(3 * twin, leaves(kind, values)), strict=True):
        torch.testing.assert_close(got, expected, rtol=within, atol=within * max(1.0, scale))
    best = (values[0] @ values[1].T).argmax(1)
    assert float(accuracy) == pytest.approx(float((best == torch.arange(batch)).double().mean()))
    assert not accuracy.requires_grad


class Threads:
    """Processes as threads that meet at a barrier."""

    def __init__(self, size: int) -> None:
        self.barrier, self.box = threading.Barrier(size), [torch.empty(0)] * size

    def meet(self, rank: int, value: Tensor) -> list[Tensor]:
        self.box[rank] = value.detach().clone()
        self.barrier.wait()
        met = list(self.box)
        self.barrier.wait()
        return met


class Member(World):
    """A world whose processes are threads."""

    def __init__(self, rank: int, size: int, threads: Threads) -> None:
        super().__init__(rank, size)
        object.__setattr__(self, "threads", threads)

    def gather(self, own_b: Tensor, n: int) -> Tensor:
        return torch.cat(self.threads.meet(self.rank, own_b))  # type: ignore[attr-defined, no-any-return]

    def sum_(self, tensor: Tensor) -> Tensor:
        return tensor.copy_(sum(self.threads.meet(self.rank, tensor)))  # type: ignore[attr-defined, arg-type, no-any-return]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [2, 3, 5])
def test_shares_of_a_batch_give_the_gradients_of_the_whole(kind: LossKind, size: int) -> None:
    n, whole = 11, inputs(5, 11, torch.float64)
    expected = torch.autograd.grad(plain(kind, *whole), leaves(kind, whole))
    threads, outcomes = Threads(size), [None] * size  # type: list[Any]

    def member(rank: int) -> None:
        rows = share(n, size, rank)
        own = [value.detach()[rows.start : rows.stop].requires_grad_() for value in whole[:2]]
        own += [value.detach().clone().requires_grad_() for value in whole[2:]]
        loss, _ = global_loss(kind, *own, world=Member(rank, size, threads), n=n, chunk=2)
        outcomes[rank] = (loss.detach(), torch.autograd.grad(loss, leaves(kind, tuple(own))))  # type: ignore[arg-type]

    members = [threading.Thread(target=member, args=(rank,)) for rank in range(size)]
    for thread in members:
        thread.start()
    for thread in members:
        thread.join()
    for loss, _ in outcomes:
        torch.testing.assert_close(loss, plain(kind, *whole).detach(), rtol=1e-12, atol=0)
    for k, reference in enumerate(expected):
        parts = [grads[k] for _, grads in outcomes]
        together = torch.cat(parts) if k < 2 else torch.stack(parts).sum(0)
        torch.testing.assert_close(together, reference, rtol=1e-10, atol=1e-12)


def test_never_more_logits_than_a_chunk() -> None:
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            outcome = func(*args, **(kwargs or {}))
            if isinstance(outcome, Tensor):
                largest = max(largest, outcome.numel())
            return outcome

    values = inputs(0, 64, torch.float32)
    with Watch():
        loss, _ = global_loss("infonce", *values, chunk=8)
        loss.backward()
    assert largest == 64 * 8


def test_autocast_does_not_round_the_logits() -> None:
    values = inputs(1, 8, torch.float32, 100.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside, _ = global_loss("infonce", *values)
    assert torch.equal(inside, global_loss("infonce", *values)[0])


@given(n=st.integers(1, 100), size=st.integers(1, 9))
def test_shares_are_consecutive_and_near_equal(n: int, size: int) -> None:
    parts = [share(n, size, k) for k in range(size)]
    assert [i for part in parts for i in part] == list(range(n))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
