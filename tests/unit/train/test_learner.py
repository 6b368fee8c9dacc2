"""One step's gradients are those of the whole batch, however it is cut and spread."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from climp_bench.models.catalogue import build, find
from climp_bench.train import FAMILIES
from climp_bench.train.learner import Learner
from climp_bench.train.spreading import blocks, clip_gradients_
from climp_bench.train.world import World
from tests.unit.train.processes import spread
from tests.unit.train.small import N, cut, gradients, reference, small_spec, whole_batch

CASES: list[dict[str, Any]] = [
    {},
    {"chunk": 37},
    {"parts": 2},
    {"parts": 5, "kind": "siglip", "chunk": 50},
    {"parts": 2, "checkpointing": True},
]
SPREAD: list[dict[str, Any]] = [
    {**case, "strategy": strategy}
    for strategy in ("ddp", "fsdp")
    for case in ({}, {"parts": 2, "chunk": 37, "checkpointing": True}, {"parts": 3, "kind": "siglip"})
]


@pytest.fixture(scope="module")
def references() -> dict[str, dict[str, Tensor]]:
    return {kind: reference(kind) for kind in ("infonce", "siglip")}


def assert_same(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            got[name], value, rtol=1e-5, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("case", CASES, ids=str)
def test_one_process(case: dict[str, Any], references: dict[str, dict[str, Tensor]]) -> None:
    (got,) = gradients([case])
    assert_same(got, references[case.get("kind", "infonce")])


@pytest.mark.parametrize("size", [2, 3])
def test_several_processes(size: int, references: dict[str, dict[str, Tensor]]) -> None:
    for outcomes in spread(size, gradients, SPREAD):
        for case, got in zip(SPREAD, outcomes, strict=True):
            assert_same(got, references[case.get("kind", "infonce")])


def test_a_wrong_gradient_would_be_seen(references: dict[str, dict[str, Tensor]]) -> None:
    """The mean of the gradients of two halves, each contrasted by itself, is not the batch's."""
    batch = whole_batch()
    wrong = []
    for part in cut(batch, range(N), 2):
        learner = Learner(build(small_spec(), seed=1).train(), World())
        loss, _ = learner.gradients([part], 0, N // 2)
        wrong.append(
            {"loss": loss} | {n: p.grad for n, p in learner.parameters().items() if p.grad is not None}
        )
    mean = {name: (wrong[0][name] + wrong[1][name]) / 2 for name in wrong[0]}
    with pytest.raises(AssertionError):
        assert_same(mean, references["infonce"])


def test_both_passes_drop_alike() -> None:
    """With drop path, parts give the gradient of one graph that holds them all, drawn from the same seeds."""

    def learner() -> Learner:
        return Learner(build(small_spec(drop_path=0.5), seed=1).train(), World(), seed=9)

    parts = cut(whole_batch(32), range(32), 4)
    ours = learner()
    ours.gradients(parts, 5, 32)
    twin = learner()
    kept = [twin._embed(part, 5, k) for k, part in enumerate(parts)]
    image, text = (torch.cat(side) for side in zip(*kept, strict=True))
    logits, own = twin.model.logit_scale.exp() * image @ text.T, torch.arange(32)
    (torch.nn.functional.cross_entropy(logits, own) + torch.nn.functional.cross_entropy(logits.T, own)).div(
        2
    ).backward()
    for (name, mine), its in zip(ours.parameters().items(), twin.parameters().values(), strict=True):
        torch.testing.assert_close(
            mine.grad, its.grad, rtol=1e-4, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}"
        )
    without = twin._embed(parts[0], 6, 0)[0]
    assert not torch.equal(without, kept[0][0]), "drop path draws nothing: the test shows nothing"


def test_the_last_part_is_embedded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    learner, seen = Learner(build(small_spec(), seed=1).train(), World()), []
    embed = learner._embed
    monkeypatch.setattr(learner, "_embed", lambda part, step, k: seen.append(k) or embed(part, step, k))
    learner.gradients(cut(whole_batch(12), range(12), 3), 0, 12)
    assert seen == [0, 1, 2, 0, 1]


def test_steps_leave_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    Learner(build(small_spec(drop_path=0.5), seed=1).train(), World()).gradients([whole_batch(8)], 0, 8)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_tower_has_its_blocks(family: str) -> None:
    spec = find(family, "micro")
    with torch.device("meta"):
        model = build(spec)
    depth = sum(spec.image.depths) if hasattr(spec.image, "depths") else spec.image.depth
    assert len(blocks(model.vision_encoder)) == depth
    assert len(blocks(model.text_encoder)) == spec.text.n_layer


@pytest.mark.parametrize("most", [0.1, 100.0])
def test_clipping(most: float) -> None:
    parameters = [torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(()))]
    parameters[0].grad, parameters[1].grad = torch.tensor([1.0, 2.0, 4.0]), torch.tensor(2.0)
    assert float(clip_gradients_(parameters, most)) == pytest.approx(5.0)
    assert parameters[0].grad[2].item() == pytest.approx(4 * min(1, most / 5), rel=1e-4)
    assert parameters[1].grad.item() == pytest.approx(2 * min(1, most / 5), rel=1e-4)
