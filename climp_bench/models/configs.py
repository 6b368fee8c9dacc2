"""Shapes of the baseline towers, as plain data: no torch, so listing models stays cheap.

Each class names the tower it describes; the towers themselves are in ``vit.py`` and ``llama.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class RopeVitConfig:
    """A vision transformer with rotary position embedding (Heo et al. 2024, arXiv:2403.13298).

    Attributes:
        embed_dim: channels; ``embed_dim / num_heads`` must be a multiple of 4 (two axes, pairs).
        depth: number of blocks.
        num_heads: attention heads.
        patch_size: side of a square patch in pixels.
        img_size: side of the training image in pixels; others are extrapolated.
        mlp_ratio: hidden over outer width of the MLP.
        rope: ``axial`` (fixed frequencies, half of the channels per axis) or ``mixed`` (learned
            frequencies over both axes).
        layer_scale: initial LayerScale (1e-5 in timm's ``vit_*_rope_*``), or None for none.
    """

    embed_dim: int
    depth: int
    num_heads: int
    patch_size: int = 16
    img_size: int = 224
    mlp_ratio: float = 4.0
    rope: Literal["axial", "mixed"] = "axial"
    layer_scale: float | None = 1e-5

    @property
    def temperature(self) -> float:
        """Base of the rotary frequencies: 100 axial, 10 mixed (Heo et al. 2024, section 3)."""
        return 100.0 if self.rope == "axial" else 10.0


@dataclass(frozen=True)
class FlexiVitConfig:
    """A vision transformer for any patch size (Beyer et al. 2023, arXiv:2212.08013).

    Attributes:
        embed_dim: channels.
        depth: number of blocks.
        num_heads: attention heads.
        patch_size: side of the stored patch-embedding weights, and the default patch, in pixels.
        img_size: the learned position table covers ``(img_size / patch_size)**2`` patches and is
            resampled to the grid of each image.
        mlp_ratio: hidden over outer width of the MLP.
        patch_sizes: the patch sizes that training draws from; each must divide the training image, whose
            size the model's preprocessing says. These are the paper's, for 240 pixels.
    """

    embed_dim: int
    depth: int
    num_heads: int
    patch_size: int = 16
    img_size: int = 240
    mlp_ratio: float = 4.0
    patch_sizes: tuple[int, ...] = (8, 10, 12, 15, 16, 20, 24, 30, 40, 48)


@dataclass(frozen=True)
class NaFlexVitConfig:
    """A vision transformer for native sizes and aspect ratios (Dehghani et al. 2023, arXiv:2307.06304).

    Attributes:
        embed_dim: channels.
        depth: number of blocks.
        num_heads: attention heads.
        patch_size: side of a square patch in pixels.
        img_size: the learned position table covers ``(img_size / patch_size)**2`` patches and is
            resampled to the grid of each image.
        mlp_ratio: hidden over outer width of the MLP.
        registers: register tokens (4 in timm's ``naflexvit_base_patch16_gap``).
        layer_scale: initial LayerScale (1e-5 in timm's model), or None for none.
    """

    embed_dim: int
    depth: int
    num_heads: int
    patch_size: int = 16
    img_size: int = 256
    mlp_ratio: float = 4.0
    registers: int = 4
    layer_scale: float | None = 1e-5


@dataclass(frozen=True)
class RopeScaling:
    """How LLaMA 3.1 and later stretch their rotary positions, rope type ``llama3`` of transformers.

    With w the wavelength of a frequency in tokens and c ``context``: frequencies with w under
    ``c / high_freq_factor`` stay, those with w over ``c / low_freq_factor`` are divided by ``factor``, those
    between are blended linearly in c / w. This holds for texts of any length, short captions too.

    Attributes:
        factor: divisor of the low frequencies.
        low_freq_factor: wavelengths in ``context`` of the fastest frequency that is divided in full.
        high_freq_factor: wavelengths in ``context`` of the slowest frequency that stays.
        context: length of the text before stretching, in tokens.
    """

    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    context: int = 8192


@dataclass(frozen=True)
class LlamaTextConfig:
    """A causal text tower with the LLaMA-3.2 architecture (Grattafiori et al. 2024, arXiv:2407.21783).

    RMSNorm (eps 1e-5), rotary positions, grouped-query attention, SwiGLU, no biases. Length is not limited.

    Attributes:
        vocab_size: rows of the embedding table.
        d_model: channels.
        n_layer: number of blocks.
        n_head: query heads.
        n_kv_head: key and value heads; divides ``n_head``.
        mlp_dim: hidden width of the SwiGLU MLP.
        rope_theta: base of the rotary frequencies.
        rope_scaling: how they are stretched, or None for not at all.
    """

    vocab_size: int
    d_model: int
    n_layer: int
    n_head: int
    n_kv_head: int
    mlp_dim: int
    rope_theta: float = 500_000.0
    rope_scaling: RopeScaling | None = None
