"""The Mamba-1 tower against transformers' MambaModel with the same weights."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import MambaConfig, MambaModel

from climp_bench.models.mamba1 import Mamba1, Mamba1Config

CONFIG = Mamba1Config(vocab_size=50, d_model=40, n_layer=3, d_state=16)


@pytest.fixture
def pair() -> tuple[Mamba1, nn.Module]:
    """Our tower and transformers', with the same random weights."""
    torch.manual_seed(0)
    theirs = MambaModel(
        MambaConfig(
            vocab_size=CONFIG.vocab_size,
            hidden_size=CONFIG.d_model,
            num_hidden_layers=CONFIG.n_layer,
            state_size=CONFIG.d_state,
            use_cache=False,
        )
    )
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    ours = Mamba1(CONFIG)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


def relative(got: torch.Tensor, expected: torch.Tensor) -> float:
    return float((got - expected).detach().norm() / expected.detach().norm())


@pytest.mark.parametrize("length", [1, 3, 30, 77])
def test_features_and_gradients_are_those_of_transformers(
    pair: tuple[Mamba1, nn.Module], length: int
) -> None:
    ours, theirs = pair
    ids = torch.randint(0, CONFIG.vocab_size, (4, length))
    got, expected = ours.forward_features(ids), theirs(input_ids=ids).last_hidden_state
    assert relative(got, expected) < 1e-5
    weights = torch.randn_like(expected)
    (got * weights).sum().backward()
    (expected * weights).sum().backward()
    wanted = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        if length == 1 and name.endswith("A_log"):
            assert not parameter.grad.any()  # one position has nothing to decay
        else:
            assert relative(parameter.grad, wanted[name].grad) < 1e-4, name


def test_the_last_real_token_is_taken_and_right_padding_is_not_seen(pair: tuple[Mamba1, nn.Module]) -> None:
    ours, theirs = pair
    ours.eval()
    ids, lengths = torch.randint(1, CONFIG.vocab_size, (3, 9)), torch.tensor([9, 4, 1])
    with torch.no_grad():
        got = ours(ids, lengths)
        padded = ours(F.pad(ids, (0, 6), value=7), lengths)
        for row, length in enumerate(lengths.tolist()):
            alone = theirs(input_ids=ids[row : row + 1, :length]).last_hidden_state[0, -1]
            assert relative(got[row], alone) < 1e-5
    torch.testing.assert_close(padded, got, rtol=1e-5, atol=1e-6)


def test_left_padding_with_a_mask_in_transformers_agrees(pair: tuple[Mamba1, nn.Module]) -> None:
    ours, theirs = pair
    ids, lengths = torch.randint(1, CONFIG.vocab_size, (3, 9)), torch.tensor([9, 4, 1])
    left, mask = torch.zeros_like(ids), torch.zeros_like(ids)
    for row, length in enumerate(lengths.tolist()):
        left[row, 9 - length :], mask[row, 9 - length :] = ids[row, :length], 1
    with torch.no_grad():
        expected = theirs(input_ids=left, attention_mask=mask).last_hidden_state[:, -1]
        assert relative(ours(ids, lengths), expected) < 1e-5


def test_a_tower_in_half_precision_keeps_a_float32_residual_stream() -> None:
    torch.manual_seed(0)
    tower = Mamba1(CONFIG)
    ids, lengths = torch.randint(0, CONFIG.vocab_size, (2, 12)), torch.tensor([12, 5])
    with torch.no_grad():
        exact = tower(ids, lengths)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = tower(ids, lengths)
        half = tower.bfloat16()
        stream = half.layers(half.embeddings(ids))
        got = half(ids, lengths)
    assert stream.dtype == torch.float32
    assert got.dtype == torch.bfloat16
    assert relative(mixed.float(), exact) < 0.02
    assert relative(got.float(), exact) < 0.05


@torch.no_grad()
def test_initialisation_follows_the_paper() -> None:
    torch.manual_seed(0)
    config = Mamba1Config(vocab_size=50, d_model=64, n_layer=16)
    mixer = Mamba1(config).layers[0].mixer
    assert torch.allclose(mixer.A_log.exp(), torch.arange(1.0, 17).expand(128, 16))
    assert torch.equal(mixer.D, torch.ones(128))
    step = F.softplus(mixer.dt_proj.bias)
    assert step.min() >= 1e-3 * 0.999 and step.max() <= 1e-1 * 1.001
    assert step.log().mean() == pytest.approx(math.log(1e-2), abs=0.4)
    # Linear's bound is fan_in**-0.5; the residual branches are smaller by sqrt(n_layer).
    assert mixer.in_proj.weight.abs().max() == pytest.approx(64**-0.5, rel=0.02)
    assert mixer.out_proj.weight.abs().max() == pytest.approx(128**-0.5 / 4, rel=0.02)


def test_rank_is_rounded_up_or_given() -> None:
    assert Mamba1Config(10, 40, 1).rank == 3
    assert Mamba1Config(10, 40, 1, dt_rank=5).rank == 5
