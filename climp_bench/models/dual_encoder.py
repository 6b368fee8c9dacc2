"""A dual encoder: an image tower, a text tower, two projections and a logit scale (Radford et al. 2021).

Attribute names are those of the released CLIMP checkpoints, so that these load without a rename.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MAX_LOGIT_SCALE = math.log(100.0)
INITIAL_LOGIT_SCALE = math.log(1 / 0.07)


class DualEncoder(nn.Module):
    """Images and texts as unit vectors of one space of P dimensions.

    Args:
        vision_encoder: ``forward(images) -> (B, out_dim)`` with an attribute ``out_dim``.
        text_encoder: ``forward(ids_BL, lengths_B) -> (B, out_dim)`` with an attribute ``out_dim``.
        embed_dim: P.
    """

    def __init__(self, vision_encoder: nn.Module, text_encoder: nn.Module, embed_dim: int) -> None:
        super().__init__()
        self.vision_encoder = vision_encoder
        self.vision_projection = _projection(cast(int, vision_encoder.out_dim), embed_dim)
        self.text_encoder = text_encoder
        self.text_projection = _projection(cast(int, text_encoder.out_dim), embed_dim)
        self.logit_scale = nn.Parameter(torch.tensor(INITIAL_LOGIT_SCALE))

    @property
    def embed_dim(self) -> int:
        """Dimensions P of the shared space."""
        return self.vision_projection.out_features

    def encode_image(self, images: Any, **image_kwargs: Any) -> Tensor:
        """Unit-norm float32 image embeddings, (B, P).

        Args:
            images: (B, 3, H, W), or whatever else the image tower takes.
            **image_kwargs: passed to the image tower (FlexiViT: ``patch_size``).
        """
        return _unit(self.vision_projection(self.vision_encoder(images, **image_kwargs)))

    def encode_patches(self, images_BCHW: Tensor) -> Tensor:
        """Each patch as a unit vector of the shared space, float32 (B, h, w, P), one row a patch of a grid.

        The patch features after the image tower's final norm, in place of its pooled feature, through the
        projection. Training never asks single patches to match a text: it is a picture of the model, not a
        score.
        """
        features = cast(Any, self.vision_encoder).forward_features(images_BCHW)
        return _unit(self.vision_projection(features))

    def encode_text(self, ids_BL: Tensor, lengths_B: Tensor) -> Tensor:
        """Unit-norm float32 text embeddings, (B, P), from right-padded int64 ids and their lengths."""
        return _unit(self.text_projection(self.text_encoder(ids_BL, lengths_B)))

    def forward(
        self, images: Any, ids_BL: Tensor, lengths_B: Tensor, **image_kwargs: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Image embeddings (B, P), text embeddings (B, P) and the factor on their cosines, a scalar."""
        image_BP = self.encode_image(images, **image_kwargs)
        return image_BP, self.encode_text(ids_BL, lengths_B), self.logit_scale.exp()

    @torch.no_grad()
    def clamp_logit_scale_(self) -> None:
        """Hold the factor at 100 or less (Radford et al. 2021, section 2.5). Call after each step."""
        self.logit_scale.clamp_(max=MAX_LOGIT_SCALE)


def _projection(in_dim: int, out_dim: int) -> nn.Linear:
    """A linear map with bias that keeps the scale of its input."""
    layer = nn.Linear(in_dim, out_dim)
    nn.init.normal_(layer.weight, std=in_dim**-0.5)
    nn.init.zeros_(layer.bias)
    return layer


def _unit(features_BP: Tensor) -> Tensor:
    return F.normalize(features_BP.float(), dim=-1)
