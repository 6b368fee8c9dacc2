"""The text tower of the baselines: transformers' LLaMA, pooled at the last token."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from climp_bench.models.configs import LlamaTextConfig, RopeScaling

__all__ = ["LlamaText", "LlamaTextConfig"]

_MAX_POSITIONS = 131_072
"""LLaMA-3.2's. It limits nothing here, but transformers warns where it is below the scaling's context."""


class LlamaText(nn.Module):
    """LLaMA-3.2 architecture without a language-model head (transformers, Apache-2.0).

    Attention is causal, so a token never sees what stands to its right: batches are padded on the right and
    need no mask.

    Args:
        config: the tower's shape.
    """

    def __init__(self, config: LlamaTextConfig) -> None:
        from transformers import LlamaConfig, LlamaModel

        super().__init__()
        self.config = config
        self.out_dim = config.d_model
        options: dict[str, Any] = {
            "vocab_size": config.vocab_size,
            "hidden_size": config.d_model,
            "intermediate_size": config.mlp_dim,
            "num_hidden_layers": config.n_layer,
            "num_attention_heads": config.n_head,
            "num_key_value_heads": config.n_kv_head,
            "rms_norm_eps": 1e-5,
            "rope_theta": config.rope_theta,  # transformers 5 moves it into rope_parameters itself
            "rope_scaling": _rope_scaling(config.rope_scaling),
            "max_position_embeddings": _MAX_POSITIONS,
            "use_cache": False,
            "pad_token_id": None,
            "bos_token_id": None,
            "eos_token_id": None,
            "attn_implementation": "sdpa",
        }
        self.model = LlamaModel(LlamaConfig(**options))

    def forward(self, ids_BL: Tensor, lengths_B: Tensor) -> Tensor:
        """Hidden state after the final norm at the last real token, (B, D).

        Args:
            ids_BL: int64 token ids, padded on the right with any valid id.
            lengths_B: int64 number of real tokens of each row, at least 1.
        """
        rows = torch.arange(len(ids_BL), device=ids_BL.device)
        return self.forward_features(ids_BL)[rows, lengths_B - 1]

    def forward_features(self, ids_BL: Tensor) -> Tensor:
        """Features of every token after the final norm, (B, L, D)."""
        return cast(Tensor, self.model(input_ids=ids_BL, use_cache=False).last_hidden_state)


def _rope_scaling(scaling: RopeScaling | None) -> dict[str, Any] | None:
    """The scaling in transformers' words."""
    if scaling is None:
        return None
    return {
        "rope_type": "llama3",
        "factor": scaling.factor,
        "low_freq_factor": scaling.low_freq_factor,
        "high_freq_factor": scaling.high_freq_factor,
        "original_max_position_embeddings": scaling.context,
    }
