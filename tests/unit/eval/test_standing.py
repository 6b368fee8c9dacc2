"""Where retrieval's scores are computed: on a GPU if there are many, with the same outcomes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from climp_bench.embed.sets import Annotations, EmbeddingSet
from climp_bench.eval import retrieval, standing
from climp_bench.eval.retrieval import retrieve
from climp_bench.metrics.retrieval import standing_by_numpy


def embeddings(images: int, captions: int, width: int = 64) -> EmbeddingSet:
    """Unit-norm; about half of the captions find their image."""
    rng = np.random.default_rng(images)
    owner = np.repeat(np.arange(images), captions)
    image = rng.standard_normal((images, width))
    text = image[owner] + 0.4 * width**0.5 * rng.standard_normal((len(owner), width))
    image, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text))
    notes = Annotations("retrieval", (), tuple(f"text {k}" for k in range(len(owner))), owner)
    return EmbeddingSet(image.astype(np.float32), text.astype(np.float32), notes)


def test_a_gpu_scores_many_pairs_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def standing_on(device: str) -> object:
        asked.append(device)
        return torch_on_cpu

    torch_on_cpu = standing.standing_on("cpu")
    monkeypatch.setattr(standing, "standing_on", standing_on)
    monkeypatch.setattr(retrieval, "MANY_SCORES", 40 * 200)
    few, many = embeddings(39, 5), embeddings(40, 5)
    for given, device, where in ((few, "cuda", None), (many, "cpu", None), (many, "cuda", "cuda")):
        found = retrieve(given, (1, 5), device=device)
        assert [score.extra.get("scores_computed_on") for score in found] == [where] * 4
        assert [score.value for score in found] == [score.value for score in retrieve(given, (1, 5))]
        assert 0.2 < (found[0].value or 0) < 0.9
    assert asked == ["cuda"]


def test_products_are_in_full_precision_and_settings_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    inside: list[str] = []
    own = standing._standing

    def seen(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        inside.append(torch.get_float32_matmul_precision())
        return own(*tensors)

    monkeypatch.setattr(standing, "_standing", seen)
    found, places = embeddings(20, 2), np.arange(20)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        standing.standing_on("cpu")(found.texts, found.images, found.notes.owner, places, 100)
        after = torch.get_float32_matmul_precision()
    finally:
        torch.set_float32_matmul_precision(before)
    assert set(inside) == {"highest"} and after == "high"


@pytest.mark.gpu
def test_a_gpu_finds_what_a_cpu_finds() -> None:
    """Scores differ in their last bits, so candidates within these of the best may change places."""
    found = embeddings(700, 10, 512)
    images, texts, owner = found.images, found.texts, found.notes.owner
    places = np.arange(len(images))
    for arguments in ((texts, images, owner, places), (images, texts, places, owner)):
        cpu, gpu = (f(*arguments, 10**6) for f in (standing_by_numpy, standing.standing_on("cuda")))
        apart = np.abs(cpu.above_Q - gpu.above_Q)
        assert apart.max() <= 2 and (apart > 0).mean() < 0.02
        assert 0.1 < gpu.hits(1).mean() < 0.999
        doubled = standing.standing_on("cuda")(
            arguments[0], np.repeat(arguments[1], 2, axis=0), arguments[2], np.repeat(arguments[3], 2), 10**6
        )
        assert not (doubled.above_Q % 2).any()  # equal candidates score equally
