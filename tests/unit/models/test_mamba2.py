"""The Mamba-2 tower against transformers' Mamba2Model with the same weights."""

from __future__ import annotations

import inspect

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import Mamba2Config as TheirConfig
from transformers import Mamba2Model
from transformers.models.mamba2.modeling_mamba2 import MambaRMSNormGated

from climp_bench.models.mamba2 import Mamba2, Mamba2Config

SHAPE = {"vocab_size": 50, "d_model": 32, "n_layer": 3, "d_state": 8, "head_dim": 16}

_NORMALISES_BY_GROUP = "group_size" in inspect.signature(MambaRMSNormGated).parameters
ORACLE_GROUPS = (1, 2) if _NORMALISES_BY_GROUP else (1,)
"""transformers up to 5.17 normalises all groups together, unlike mamba-ssm: no oracle for two groups then."""


def make_pair(groups: int, chunk_size: int = 256) -> tuple[Mamba2, nn.Module]:
    """Our tower and transformers', with the same random weights; theirs always scans in chunks of 8."""
    torch.manual_seed(0)
    config = Mamba2Config(**SHAPE, n_groups=groups, chunk_size=chunk_size)
    theirs = Mamba2Model(
        TheirConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.d_model,
            num_hidden_layers=config.n_layer,
            state_size=config.d_state,
            head_dim=config.head_dim,
            num_heads=config.n_head,
            n_groups=groups,
            chunk_size=8,
            use_cache=False,
        )
    )
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    ours = Mamba2(config)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


def relative(got: torch.Tensor, expected: torch.Tensor) -> float:
    return float((got - expected).detach().norm() / expected.detach().norm())


@pytest.mark.parametrize("groups", ORACLE_GROUPS)
@pytest.mark.parametrize(("length", "chunk_size"), [(1, 256), (21, 256), (21, 8), (77, 256), (77, 16)])
def test_features_and_gradients_are_those_of_transformers(groups: int, length: int, chunk_size: int) -> None:
    ours, theirs = make_pair(groups, chunk_size)
    ids = torch.randint(0, 50, (4, length))
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


def test_the_last_real_token_is_taken_and_right_padding_is_not_seen() -> None:
    ours, theirs = make_pair(1)
    ids, lengths = torch.randint(1, 50, (3, 9)), torch.tensor([9, 4, 1])
    with torch.no_grad():
        got = ours(ids, lengths)
        padded = ours(F.pad(ids, (0, 6), value=7), lengths)
        for row, length in enumerate(lengths.tolist()):
            alone = theirs(input_ids=ids[row : row + 1, :length]).last_hidden_state[0, -1]
            assert relative(got[row], alone) < 1e-5
    torch.testing.assert_close(padded, got, rtol=1e-5, atol=1e-6)


def test_left_padding_with_a_mask_in_transformers_agrees() -> None:
    ours, theirs = make_pair(1)
    ids, lengths = torch.randint(1, 50, (3, 9)), torch.tensor([9, 4, 1])
    left, mask = torch.zeros_like(ids), torch.zeros_like(ids)
    for row, length in enumerate(lengths.tolist()):
        left[row, 9 - length :], mask[row, 9 - length :] = ids[row, :length], 1
    with torch.no_grad():
        expected = theirs(input_ids=left, attention_mask=mask).last_hidden_state[:, -1]
        assert relative(ours(ids, lengths), expected) < 1e-5


def test_mixed_precision_stays_near_float32() -> None:
    ours, _ = make_pair(1)
    ids, lengths = torch.randint(0, 50, (2, 12)), torch.tensor([12, 5])
    with torch.no_grad():
        exact = ours(ids, lengths)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = ours(ids, lengths)
        half = ours.bfloat16()(ids, lengths)
    assert relative(mixed.float(), exact) < 0.02
    assert half.dtype == torch.bfloat16
    assert relative(half.float(), exact) < 0.05


@torch.no_grad()
def test_initialisation_follows_the_paper() -> None:
    torch.manual_seed(0)
    mixer = Mamba2(Mamba2Config(50, 64, 16, head_dim=1)).layers[0].mixer
    A, step = mixer.A_log.exp(), F.softplus(mixer.dt_bias)
    assert 1 <= A.min() < 2 and 15 < A.max() <= 16.001
    assert step.min() >= 1e-3 * 0.999 and step.max() <= 1e-1 * 1.001
    assert mixer.out_proj.weight.abs().max() == pytest.approx(128**-0.5 / 4, rel=0.02)


def test_shapes_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="head_dim 48 does not divide the scan's 64 channels"):
        Mamba2Config(50, 32, 1, head_dim=48)
    with pytest.raises(ValueError, match="4 heads cannot be split into 3 groups"):
        Mamba2Config(50, 32, 1, head_dim=16, n_groups=3)
