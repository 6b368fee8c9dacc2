"""On a CUDA device: the shipped models give there what they give on a CPU."""

from __future__ import annotations

import numpy as np
import pytest

from climp_bench.data.scenes_dataset import ScenesDataset
from climp_bench.data.transforms import to_tensor
from climp_bench.models.adapters import CatalogueEncoder
from climp_bench.models.weights import resolve

pytestmark = pytest.mark.gpu
FAMILIES = ("climp-m1", "climp-m2", "rope-vit", "flexivit", "naflexvit")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-3), ("bfloat16", 5e-2)])
def test_embeddings_equal_those_of_the_cpu(family: str, dtype: str, tolerance: float) -> None:
    data = ScenesDataset("scenes-captions", 32)
    choice = resolve(family)
    cpu, cuda = CatalogueEncoder(choice), CatalogueEncoder(choice, "cuda", dtype)
    images = [to_tensor(data.image(i, (64, 64)), cpu.preprocess) for i in range(len(data))]
    np.testing.assert_allclose(cuda.encode_images(images), cpu.encode_images(images), atol=tolerance)
    tokens = cpu.tokenize([caption for i in range(len(data)) for caption in data.captions(i)])
    np.testing.assert_allclose(cuda.encode_tokens(tokens), cpu.encode_tokens(tokens), atol=tolerance)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_training_step_on_cuda_follows_the_cpu(family: str) -> None:
    import torch

    from climp_bench.models.catalogue import build, find
    from climp_bench.train.losses import contrastive_loss

    spec = find(family, "micro")
    images = torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    ids = torch.randint(1, 600, (8, 21), generator=torch.Generator().manual_seed(1))
    lengths = torch.full((8,), 21)
    norms = {}
    for device in ("cpu", "cuda"):
        model = build(spec, seed=0).to(device)
        loss, _ = contrastive_loss(*model(images.to(device), ids.to(device), lengths.to(device)))
        loss.backward()
        grads = torch.cat([p.grad.float().flatten().cpu() for p in model.parameters() if p.grad is not None])
        norms[device] = (float(loss), grads)
    assert norms["cuda"][0] == pytest.approx(norms["cpu"][0], rel=1e-3)
    difference = (norms["cuda"][1] - norms["cpu"][1]).norm() / norms["cpu"][1].norm()
    assert difference < 1e-2
