"""What a tower keeps to know positions, in bytes: tables that grow with the image or the text."""

from __future__ import annotations

from typing import Any

from climp_bench.models.configs import FlexiVitConfig, LlamaTextConfig, NaFlexVitConfig, RopeVitConfig
from climp_bench.models.mamba1 import Mamba1Config
from climp_bench.models.mamba2 import Mamba2Config
from climp_bench.models.vmamba import VMambaConfig

_FLOAT32 = 4


def positional_bytes(config: Any, size: int) -> int | None:
    """Bytes of the position tables that one forward pass uses, in float32, whatever the batch.

    Rotary towers hold a sine and a cosine for every token and channel of a head: once for axial frequencies
    and for LLaMA, for every block and head where the frequencies are learned (mixed). Learned embeddings are
    counted as resampled to the grid of the image, a vector a patch. State-space towers have none: zero.

    Args:
        config: the tower's.
        size: side of a square image in pixels, or length of a text in tokens.

    Returns:
        None for a tower that is not ours to know.
    """
    if isinstance(config, VMambaConfig | Mamba1Config | Mamba2Config):
        return 0
    if isinstance(config, LlamaTextConfig):
        return 2 * size * (config.d_model // config.n_head) * _FLOAT32
    if not isinstance(config, RopeVitConfig | FlexiVitConfig | NaFlexVitConfig):
        return None
    patches = (size // config.patch_size) ** 2
    if not isinstance(config, RopeVitConfig):
        return patches * config.embed_dim * _FLOAT32
    tables = config.depth * config.num_heads if config.rope == "mixed" else 1
    return tables * patches * 2 * (config.embed_dim // config.num_heads) * _FLOAT32
