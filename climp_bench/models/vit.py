"""The image towers that CLIMP is measured against: RoPE-ViT, FlexiViT and NaFlexViT.

Networks are timm's (Apache-2.0, github.com/huggingface/pytorch-image-models) in the configurations of its
``vit_*_patch16_rope_*``, ``flexivit_*`` and ``naflexvit_*_gap``. What is ours: one interface over the three
(``out_dim``, any size that the patch divides, a map of patch features), random patch sizes for FlexiViT, and
packing of images of different sizes for NaFlexViT. Axes: B batch, H W image sides, h w patch-grid sides,
N patches, D channels, p patch side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from climp_bench.errors import UsageError
from climp_bench.models.configs import FlexiVitConfig, NaFlexVitConfig, RopeVitConfig

__all__ = [
    "FlexiVit",
    "FlexiVitConfig",
    "NaFlexVit",
    "NaFlexVitConfig",
    "RopeVit",
    "RopeVitConfig",
    "pack_images",
]


class RopeVit(nn.Module):
    """RoPE-ViT: rotary positions only, rebuilt for every image size; output is the class token.

    Args:
        config: the tower's shape.
    """

    def __init__(self, config: RopeVitConfig) -> None:
        from timm.models.eva import Eva

        super().__init__()
        self.config = config
        self.out_dim = config.embed_dim
        self.trunk = Eva(
            img_size=config.img_size,
            patch_size=config.patch_size,
            num_classes=0,
            global_pool="token",
            embed_dim=config.embed_dim,
            depth=config.depth,
            num_heads=config.num_heads,
            mlp_ratio=config.mlp_ratio,
            attn_type="rope",
            init_values=config.layer_scale,
            use_abs_pos_emb=False,
            use_rot_pos_emb=True,
            rope_type="cat" if config.rope == "axial" else "mixed",
            rope_grid_indexing="xy",
            rope_temperature=config.temperature,
            dynamic_img_size=True,
        )

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Class token after the final norm, (B, D).

        Raises:
            UsageError: the patch size does not divide a side.
        """
        _grid(images_BCHW, self.config.patch_size)
        return cast(Tensor, self.trunk(images_BCHW))

    def forward_features(self, images_BCHW: Tensor) -> Tensor:
        """Patch features after the final norm as a map, (B, h, w, D)."""
        grid = _grid(images_BCHW, self.config.patch_size)
        return _patch_map(self.trunk.forward_features(images_BCHW), grid, self.trunk.num_prefix_tokens)


class FlexiVit(nn.Module):
    """FlexiViT: one set of weights for every patch size; output is the class token.

    Patch-embedding weights are stored at ``config.patch_size`` and brought to another size by the
    pseudo-inverse of bilinear-type resizing (Beyer et al. 2023, section 3.4), so that enlarging image and
    weights together leaves every patch embedding unchanged. The matrix is cached; gradients reach the stored
    weights. The position table is resampled to the grid.

    Args:
        config: the tower's shape.
    """

    def __init__(self, config: FlexiVitConfig) -> None:
        from timm.layers.patch_embed import PatchEmbedInterpolator
        from timm.models.vision_transformer import VisionTransformer

        super().__init__()
        self.config = config
        self.out_dim = config.embed_dim
        self.trunk = VisionTransformer(
            img_size=config.img_size,
            patch_size=config.patch_size,
            num_classes=0,
            embed_dim=config.embed_dim,
            depth=config.depth,
            num_heads=config.num_heads,
            mlp_ratio=config.mlp_ratio,
            no_embed_class=True,
            dynamic_img_size=True,
        )
        side = config.patch_size
        self.resize = PatchEmbedInterpolator((side, side), in_chans=3, embed_dim=config.embed_dim)

    def forward(self, images_BCHW: Tensor, patch_size: int | None = None) -> Tensor:
        """Class token after the final norm, (B, D).

        Args:
            images_BCHW: images whose sides the patch size divides.
            patch_size: side of a patch in pixels; ``config.patch_size`` if None.

        Raises:
            UsageError: the patch size does not divide a side.
        """
        return self.trunk.forward_head(self._tokens(images_BCHW, patch_size))

    def forward_features(self, images_BCHW: Tensor, patch_size: int | None = None) -> Tensor:
        """Patch features after the final norm as a map, (B, h, w, D)."""
        grid = _grid(images_BCHW, patch_size or self.config.patch_size)
        return _patch_map(self._tokens(images_BCHW, patch_size), grid, self.trunk.num_prefix_tokens)

    def _tokens(self, images_BCHW: Tensor, patch_size: int | None) -> Tensor:
        side = self.config.patch_size if patch_size is None else patch_size
        _grid(images_BCHW, side)
        projection = self.trunk.patch_embed.proj
        weight = projection.weight
        if side != self.config.patch_size:
            with torch.autocast(images_BCHW.device.type, enabled=False):  # the pseudo-inverse needs float32
                weight = self.resize.resample_conv_weight(weight, (side, side))
        x_BDhw = F.conv2d(images_BCHW, weight, projection.bias, stride=side)
        x_BND = self.trunk._pos_embed(x_BDhw.permute(0, 2, 3, 1).contiguous())
        return cast(Tensor, self.trunk.norm(self.trunk.blocks(x_BND)))


class NaFlexVit(nn.Module):
    """NaFlexViT: images of any size and aspect ratio, packed with padding; output is the mean patch.

    Args:
        config: the tower's shape.
    """

    def __init__(self, config: NaFlexVitConfig) -> None:
        from timm.models.naflexvit import NaFlexVit as TimmNaFlexVit
        from timm.models.naflexvit import NaFlexVitCfg

        super().__init__()
        self.config = config
        self.out_dim = config.embed_dim
        grid = config.img_size // config.patch_size
        self.trunk = TimmNaFlexVit(
            NaFlexVitCfg(
                patch_size=config.patch_size,
                embed_dim=config.embed_dim,
                depth=config.depth,
                num_heads=config.num_heads,
                mlp_ratio=config.mlp_ratio,
                init_values=config.layer_scale,
                global_pool="avg",
                reg_tokens=config.registers,
                fc_norm=True,
                pos_embed_grid_size=(grid, grid),
            ),
            num_classes=0,
        )

    def forward(self, images: Tensor | Mapping[str, Tensor]) -> Tensor:
        """Mean of the patch features, normalised, (B, D).

        Args:
            images: (B, 3, H, W) with sides that the patch size divides, or what ``pack_images`` returns:
                ``patches`` (B, N, p*p*3), ``patch_coord`` (B, N, 2) as (y, x), ``patch_valid`` (B, N) bool.

        Raises:
            UsageError: the patch size does not divide a side, or a part of the packed batch is missing.
        """
        return cast(Tensor, self.trunk(self._checked(images)))

    def forward_features(self, images_BCHW: Tensor) -> Tensor:
        """Patch features after the final norm as a map, (B, h, w, D); images of one size only.

        The norm follows pooling in this tower, so ``forward`` is not the mean of this map.
        """
        grid = _grid(images_BCHW, self.config.patch_size)
        features = _patch_map(self.trunk.forward_features(images_BCHW), grid, self.trunk.num_prefix_tokens)
        return cast(Tensor, self.trunk.fc_norm(features))

    def _checked(self, images: Tensor | Mapping[str, Tensor]) -> Tensor | dict[str, Tensor]:
        if isinstance(images, Tensor):
            _grid(images, self.config.patch_size)
            return images
        missing = [key for key in ("patches", "patch_coord", "patch_valid") if key not in images]
        if missing:
            raise UsageError(
                f"a packed batch lacks {', '.join(missing)}",
                where="naflexvit",
                remedy="Build it with climp_bench.models.vit.pack_images.",
            )
        return dict(images)


def pack_images(images: Sequence[Tensor], patch_size: int) -> dict[str, Tensor]:
    """Cut images of different sizes into patches and pad them to the longest.

    Args:
        images: tensors (3, h, w), each side a multiple of ``patch_size``.
        patch_size: side p of a square patch in pixels.

    Returns:
        ``patches`` (B, N, p*p*3), each patch flattened as (row, column, channel); ``patch_coord``
        (B, N, 2) int64, the patch's (y, x) in its grid; ``patch_valid`` (B, N) bool, False on padding.

    Raises:
        UsageError: no images, or a side that the patch size does not divide.
    """
    if not images:
        raise UsageError("no images to pack", remedy="Pass at least one (3, h, w) tensor.")
    grids = [_grid(image, patch_size) for image in images]
    longest = max(h * w for h, w in grids)
    device = images[0].device
    patches = images[0].new_zeros(len(images), longest, patch_size * patch_size * 3)
    coord = torch.zeros(len(images), longest, 2, dtype=torch.int64, device=device)
    valid = torch.zeros(len(images), longest, dtype=torch.bool, device=device)
    for i, (image, (h, w)) in enumerate(zip(images, grids, strict=True)):
        cells = image.reshape(3, h, patch_size, w, patch_size).permute(1, 3, 2, 4, 0)
        patches[i, : h * w] = cells.reshape(h * w, -1)
        coord[i, : h * w] = torch.cartesian_prod(torch.arange(h), torch.arange(w)).to(device)
        valid[i, : h * w] = True
    return {"patches": patches, "patch_coord": coord, "patch_valid": valid}


def on_device(images: Tensor | Mapping[str, Tensor], device: str) -> Tensor | dict[str, Tensor]:
    """Images, or what ``pack_images`` makes of them, for a tower on ``device``.

    ``patch_coord`` stays on the host: NaFlexViT reads grid sizes off it one by one, and each would wait for
    the device.
    """
    if isinstance(images, Tensor):
        return images.to(device, non_blocking=True)
    return {
        name: tensor if name == "patch_coord" else tensor.to(device, non_blocking=True)
        for name, tensor in images.items()
    }


def _grid(image: Tensor, patch_size: int) -> tuple[int, int]:
    """Patch-grid sides (h, w). Raises ``UsageError`` if the patch does not divide it."""
    height, width = image.shape[-2:]
    if patch_size < 1 or any(side < patch_size or side % patch_size for side in (height, width)):
        raise UsageError(
            f"a patch of {patch_size} pixels does not divide an image of {height}x{width}",
            remedy=f"Choose sides that are multiples of {patch_size}, or another patch size.",
        )
    return height // patch_size, width // patch_size


def _patch_map(tokens_BND: Any, grid: tuple[int, int], prefix: int) -> Tensor:
    """Drop ``prefix`` tokens of (B, prefix + h*w, D) and lay the others out as (B, h, w, D)."""
    patches_BND = cast(Tensor, tokens_BND)[:, prefix:]
    return patches_BND.reshape(len(patches_BND), *grid, -1)
