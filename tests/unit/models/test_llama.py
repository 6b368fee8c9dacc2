"""The LLaMA tower: against a reference written from the equations, and its indifference to padding."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from climp_bench.models.llama import LlamaText, LlamaTextConfig

CONFIG = LlamaTextConfig(
    vocab_size=50, d_model=32, n_layer=2, n_head=4, n_kv_head=2, mlp_dim=48, rope_theta=500.0
)


def tower() -> LlamaText:
    torch.manual_seed(0)
    model = LlamaText(CONFIG).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight


def rotate(x_HLC: Tensor) -> Tensor:
    """Rotary positions (Su et al. 2021): channel c and c + C/2 turn by position * theta**(-2c/C)."""
    half = x_HLC.shape[-1] // 2
    frequency = CONFIG.rope_theta ** (-torch.arange(half, dtype=torch.float64) / half)
    angle = torch.arange(x_HLC.shape[1], dtype=torch.float64)[:, None] * frequency
    pair = torch.complex(x_HLC[..., :half], x_HLC[..., half:]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([pair.real, pair.imag], -1)


def reference(state: dict[str, Tensor], ids: list[int]) -> Tensor:
    """Hidden states after the final norm of one caption, (L, D), in float64."""
    w = {key.removeprefix("model."): value.double() for key, value in state.items()}
    length, heads = len(ids), CONFIG.n_head
    causal = torch.full((length, length), float("-inf"), dtype=torch.float64).triu(1)
    x = w["embed_tokens.weight"][ids]
    for i in range(CONFIG.n_layer):
        p = f"layers.{i}."
        y = rms_norm(x, w[p + "input_layernorm.weight"])
        q, k, v = (
            (y @ w[f"{p}self_attn.{n}_proj.weight"].T).reshape(length, -1, 8).transpose(0, 1) for n in "qkv"
        )
        k, v = (t.repeat_interleave(heads // CONFIG.n_kv_head, 0) for t in (rotate(k), v))
        attention = (rotate(q) @ k.transpose(1, 2) / 8**0.5 + causal).softmax(-1)
        x = x + (attention @ v).transpose(0, 1).flatten(1) @ w[p + "self_attn.o_proj.weight"].T
        y = rms_norm(x, w[p + "post_attention_layernorm.weight"])
        gate, up = y @ w[p + "mlp.gate_proj.weight"].T, y @ w[p + "mlp.up_proj.weight"].T
        x = x + (F.silu(gate) * up) @ w[p + "mlp.down_proj.weight"].T
    return rms_norm(x, w["norm.weight"])


def test_it_follows_the_equations() -> None:
    model = tower()
    ids = torch.randint(0, 50, (1, 11), generator=torch.Generator().manual_seed(3))
    expected = reference(model.state_dict(), ids[0].tolist())
    hidden = model.forward_features(ids)
    torch.testing.assert_close(hidden[0].double(), expected, atol=2e-4, rtol=2e-4)
    assert torch.equal(model(ids, torch.tensor([11])), hidden[:, 10])


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
