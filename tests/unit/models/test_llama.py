"""The LLaMA tower: against a reference written from the equations, and its indifference to padding."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaModel

from climp_bench.models.configs import RopeScaling
from climp_bench.models.llama import LlamaText, LlamaTextConfig

CONFIG = LlamaTextConfig(
    vocab_size=50, d_model=32, n_layer=2, n_head=4, n_kv_head=2, mlp_dim=48, rope_theta=500.0
)
SCALED = replace(CONFIG, rope_scaling=RopeScaling(factor=8.0, context=200))
"""Of the four frequencies of a head, two stay, one is blended and one is divided."""


def tower(config: LlamaTextConfig = CONFIG) -> LlamaText:
    torch.manual_seed(0)
    model = LlamaText(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight


def frequencies(config: LlamaTextConfig, half: int) -> list[float]:
    """theta**(-2c/C), stretched as LLaMA 3.1's reference implementation does, one after the other."""
    found = []
    for c in range(half):
        frequency, scaling = config.rope_theta ** (-c / half), config.rope_scaling
        if scaling is not None:
            wavelength = 2 * math.pi / frequency
            if wavelength > scaling.context / scaling.low_freq_factor:
                frequency /= scaling.factor
            elif wavelength > scaling.context / scaling.high_freq_factor:
                kept = scaling.context / wavelength - scaling.low_freq_factor
                kept /= scaling.high_freq_factor - scaling.low_freq_factor
                frequency = (1 - kept) * frequency / scaling.factor + kept * frequency
        found.append(frequency)
    return found


def rotate(x_HLC: Tensor, config: LlamaTextConfig) -> Tensor:
    """Rotary positions (Su et al. 2021): channel c and c + C/2 turn by position times their frequency."""
    half = x_HLC.shape[-1] // 2
    frequency = torch.tensor(frequencies(config, half), dtype=torch.float64)
    angle = torch.arange(x_HLC.shape[1], dtype=torch.float64)[:, None] * frequency
    pair = torch.complex(x_HLC[..., :half], x_HLC[..., half:]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([pair.real, pair.imag], -1)


def reference(state: dict[str, Tensor], ids: list[int], config: LlamaTextConfig) -> Tensor:
    """Hidden states after the final norm of one caption, (L, D), in float64."""
    w = {key.removeprefix("model."): value.double() for key, value in state.items()}
    length, heads = len(ids), config.n_head
    causal = torch.full((length, length), float("-inf"), dtype=torch.float64).triu(1)
    x = w["embed_tokens.weight"][ids]
    for i in range(config.n_layer):
        p = f"layers.{i}."
        y = rms_norm(x, w[p + "input_layernorm.weight"])
        q, k, v = (
            (y @ w[f"{p}self_attn.{n}_proj.weight"].T).reshape(length, -1, 8).transpose(0, 1) for n in "qkv"
        )
        k, v = (t.repeat_interleave(heads // config.n_kv_head, 0) for t in (rotate(k, config), v))
        attention = (rotate(q, config) @ k.transpose(1, 2) / 8**0.5 + causal).softmax(-1)
        x = x + (attention @ v).transpose(0, 1).flatten(1) @ w[p + "self_attn.o_proj.weight"].T
        y = rms_norm(x, w[p + "post_attention_layernorm.weight"])
        gate, up = y @ w[p + "mlp.gate_proj.weight"].T, y @ w[p + "mlp.up_proj.weight"].T
        x = x + (F.silu(gate) * up) @ w[p + "mlp.down_proj.weight"].T
    return rms_norm(x, w["norm.weight"])


@pytest.mark.parametrize("config", [CONFIG, SCALED], ids=["plain", "scaled"])
def test_it_follows_the_equations(config: LlamaTextConfig) -> None:
    model = tower(config)
    ids = torch.randint(0, 50, (1, 11), generator=torch.Generator().manual_seed(3))
    expected = reference(model.state_dict(), ids[0].tolist(), config)
    hidden = model.forward_features(ids)
    torch.testing.assert_close(hidden[0].double(), expected, atol=2e-4, rtol=2e-4)
    assert torch.equal(model(ids, torch.tensor([11])), hidden[:, 10])


def test_scaling_reaches_short_captions() -> None:
    ids, length = torch.arange(1, 12)[None], torch.tensor([11])
    plain, scaled = frequencies(CONFIG, 4), frequencies(SCALED, 4)
    assert scaled[:2] == plain[:2] and plain[2] / 8 < scaled[2] < plain[2] and scaled[3] == plain[3] / 8
    difference = (tower(SCALED)(ids, length) - tower()(ids, length)).norm()
    assert difference > 1e-3 * tower()(ids, length).norm()


@torch.no_grad()
@pytest.mark.parametrize("config", [CONFIG, SCALED], ids=["plain", "scaled"])
def test_left_padding_with_a_mask_in_transformers_agrees(config: LlamaTextConfig) -> None:
    """Rotary positions are relative, so a shifted text has the same features."""
    ours = tower(config)
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 200,
    }
    theirs = LlamaModel(
        LlamaConfig(
            vocab_size=50,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=1600,
            rms_norm_eps=1e-5,
            rope_theta=500.0,
            rope_scaling=scaling if config is SCALED else None,
            use_cache=False,
        )
    ).eval()
    theirs.load_state_dict(ours.model.state_dict(), strict=True)
    ids, lengths = torch.arange(1, 28).reshape(3, 9), torch.tensor([9, 4, 1])
    left, mask = torch.zeros_like(ids), torch.zeros_like(ids)
    for row, length in enumerate(lengths.tolist()):
        left[row, 9 - length :], mask[row, 9 - length :] = ids[row, :length], 1
    expected = theirs(input_ids=left, attention_mask=mask).last_hidden_state[:, -1]
    assert (ours(ids, lengths) - expected).norm() < 1e-5 * expected.norm()


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 49), min_size=1, max_size=7), min_size=1, max_size=4),
    st.integers(0, 5),
    st.integers(0, 49),
)
def test_right_padding_is_never_seen(captions: list[list[int]], extra: int, filler: int) -> None:
    model = tower()
    longest = max(map(len, captions)) + extra
    batch = torch.tensor([row + [filler] * (longest - len(row)) for row in captions])
    with torch.no_grad():
        together = model(batch, torch.tensor([len(row) for row in captions]))
        alone = torch.cat([model(torch.tensor([row]), torch.tensor([len(row)])) for row in captions])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_output_shape_and_gradients() -> None:
    model = tower()
    output = model(torch.tensor([[1, 2, 3], [4, 5, 0]]), torch.tensor([3, 2]))
    assert output.shape == (2, model.out_dim)
    output.sum().backward()
    table = model.model.embed_tokens.weight.grad
    assert table is not None
    assert table[[1, 2, 3, 4, 5]].abs().sum(1).min() > 0
    assert table[0].abs().sum() == 0
