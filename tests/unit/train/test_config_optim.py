from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from climp_bench.errors import TrainingError
from climp_bench.models.catalogue import build, find
from climp_bench.train import FAMILIES, MICRO, TrainConfig, micro
from climp_bench.train.optim import decays, learning_rate, make_optimiser


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("samples", 0), ("batch_size", 1), ("lr", 0.0), ("lr", math.nan), ("weight_decay", -0.1),
        ("betas", (0.9, 1.0)), ("warmup_fraction", 1.5), ("grad_clip", 0.0), ("precision", "fp8"),
        ("dense_every", -1), ("lowres_prob", 1.1), ("held_out", 1), ("log_every", 0), ("seed", -1),
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(TrainingError, match=field):
        micro("climp-m1", **{field: value})


def test_a_pool_must_fill_a_batch() -> None:
    with pytest.raises(TrainingError, match="pool_size"):
        TrainConfig("climp-m1", batch_size=64, pool_size=63)


def test_every_family_has_the_same_recipe() -> None:
    for family in FAMILIES:
        own = micro(family)
        assert own.family == family
        assert own == MICRO.__class__(**{**vars(MICRO), "family": family})


def test_steps_are_whole_batches() -> None:
    assert TrainConfig("climp-m1", samples=1000, batch_size=300).steps == 3


@given(
    steps=st.integers(1, 400),
    warmup=st.floats(0, 0.9),
    lr=st.floats(1e-6, 1.0),
)
def test_the_learning_rate_rises_to_its_peak_then_falls(steps: int, warmup: float, lr: float) -> None:
    config = TrainConfig("x", samples=steps * 2, batch_size=2, pool_size=2, warmup_fraction=warmup, lr=lr)
    rates = [learning_rate(step, config) for step in range(steps)]
    top = rates.index(max(rates))
    assert all(0 < rate <= lr * (1 + 1e-12) for rate in rates)
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert abs(top - round(warmup * steps)) <= 1


def test_the_learning_rate_by_hand() -> None:
    config = TrainConfig("x", samples=100, batch_size=10, pool_size=10, warmup_fraction=0.2, lr=1.0)
    rates = [learning_rate(step, config) for step in range(10)]
    assert rates[:3] == pytest.approx([0.5, 1.0, 1.0])
    assert rates[6] == pytest.approx(0.5)  # half of the eight steps after the warm-up
    assert rates[9] == pytest.approx((1 + math.cos(math.pi * 7 / 8)) / 2)


@pytest.mark.parametrize("family", FAMILIES)
def test_only_matrices_that_are_no_scan_parameters_decay(family: str) -> None:
    model = build(find(family, "micro"), seed=0)
    decayed = {name for name, parameter in model.named_parameters() if decays(name, parameter)}
    kept = {name for name, _ in model.named_parameters()} - decayed
    assert {"vision_projection.weight", "text_projection.weight"} <= decayed
    assert "logit_scale" in kept
    endings = ("A_log", "A_logs", ".D", ".Ds", "dt_bias", "dt_projs_bias", ".bias", "norm.weight")
    assert not [name for name in decayed if name.endswith(endings)]
    assert not [name for name in kept if name.endswith(("_proj.weight", "x_proj_weight", "dt_projs_weight"))]


def test_the_groups_hold_every_parameter_once() -> None:
    model = build(find("climp-m2", "micro"), seed=0)
    decayed, kept = make_optimiser(model, MICRO, "cpu").param_groups
    assert (decayed["weight_decay"], kept["weight_decay"]) == (MICRO.weight_decay, 0.0)
    held = [id(parameter) for group in (decayed, kept) for parameter in group["params"]]
    assert sorted(held) == sorted(id(parameter) for parameter in model.parameters())


def test_undecayed_parameters_stay_when_there_is_no_gradient_signal() -> None:
    model = build(find("climp-m2", "micro"), seed=0)
    optimiser = make_optimiser(model, MICRO, "cpu")
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert "vision_projection.weight" in moved
    assert not [name for name in moved if name.endswith(("A_log", "A_logs", "Ds", "dt_bias", "logit_scale"))]
