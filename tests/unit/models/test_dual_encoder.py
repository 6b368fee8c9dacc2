"""The dual encoder: unit vectors whatever the towers give, the released key names, a bounded scale."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from climp_bench.models.dual_encoder import DualEncoder


class ImageStub(nn.Module):
    out_dim = 12

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(12, 12)

    def forward(self, images: Tensor, factor: float = 1.0) -> Tensor:
        features: Tensor = self.linear(images.flatten(1)) * factor
        return features


class TextStub(nn.Module):
    out_dim = 6

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 6)

    def forward(self, ids_BL: Tensor, lengths_B: Tensor) -> Tensor:
        features: Tensor = self.table(ids_BL[torch.arange(len(ids_BL)), lengths_B - 1])
        return features


@pytest.fixture
def model() -> DualEncoder:
    torch.manual_seed(0)
    return DualEncoder(ImageStub(), TextStub(), embed_dim=5)


IMAGES = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(1))
IDS = torch.tensor([[1, 2, 3], [4, 5, 0], [6, 0, 0], [7, 8, 9]])
LENGTHS = torch.tensor([3, 2, 1, 3])


def test_embeddings_are_the_normalised_projections(model: DualEncoder) -> None:
    state = model.state_dict()
    image = IMAGES.flatten(1) @ state["vision_encoder.linear.weight"].T + state["vision_encoder.linear.bias"]
    image = image @ state["vision_projection.weight"].T + state["vision_projection.bias"]
    text = state["text_encoder.table.weight"][[3, 5, 6, 9]]
    text = text @ state["text_projection.weight"].T + state["text_projection.bias"]
    image_BP, text_BP, scale = model(IMAGES, IDS, LENGTHS)
    torch.testing.assert_close(image_BP, image / image.square().sum(1, keepdim=True).sqrt())
    torch.testing.assert_close(text_BP, text / text.square().sum(1, keepdim=True).sqrt())
    assert scale.item() == pytest.approx(1 / 0.07)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_unit_norm_float32(model: DualEncoder, dtype: torch.dtype) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is torch.bfloat16):
        vectors = torch.cat([model.encode_image(IMAGES * 100), model.encode_text(IDS, LENGTHS)])
    assert vectors.dtype == torch.float32
    assert vectors.shape == (8, model.embed_dim)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(8))


def test_image_arguments_reach_the_image_tower(model: DualEncoder) -> None:
    nn.init.zeros_(model.vision_projection.bias)
    image_BP, _, _ = model(IMAGES, IDS, LENGTHS, factor=-2.0)
    torch.testing.assert_close(image_BP, -model.encode_image(IMAGES))


def test_key_names_are_those_of_the_released_checkpoints(model: DualEncoder) -> None:
    keys = [key for key in model.state_dict() if not key.startswith(("vision_encoder.", "text_encoder."))]
    assert sorted(keys) == [
        "logit_scale",
        "text_projection.bias",
        "text_projection.weight",
        "vision_projection.bias",
        "vision_projection.weight",
    ]
    assert model.logit_scale.shape == ()
    assert model.logit_scale.item() == pytest.approx(math.log(1 / 0.07))


@pytest.mark.parametrize(("before", "after"), [(9.0, math.log(100)), (2.0, 2.0), (-3.0, -3.0)])
def test_the_scale_is_held_at_100(model: DualEncoder, before: float, after: float) -> None:
    nn.init.constant_(model.logit_scale, before)
    model.clamp_logit_scale_()
    assert model.logit_scale.item() == pytest.approx(after)
    assert model.logit_scale.requires_grad


def test_every_parameter_learns(model: DualEncoder) -> None:
    image_BP, text_BP, scale = model(IMAGES, IDS, LENGTHS)
    logits = scale * image_BP @ text_BP.T
    loss = nn.functional.cross_entropy(logits, torch.arange(4))
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    assert all(gradient.abs().sum() > 0 for gradient in gradients)
