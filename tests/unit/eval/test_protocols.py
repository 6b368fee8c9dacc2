"""Protocols against CLIP_benchmark's own evaluation functions, on the same embeddings."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from clip_benchmark.metrics import zeroshot_classification as cb_classification
from clip_benchmark.metrics import zeroshot_retrieval as cb_retrieval

from climp_bench.embed.sets import Annotations, EmbeddingSet
from climp_bench.eval.retrieval import retrieve
from climp_bench.eval.scores import Score
from climp_bench.eval.zeroshot import classify, tag

CLASSES = tuple(f"class {c}" for c in range(7))
TEMPLATES = ("a photo of a {c}.", "a {c}.", "one {c}")


class TableModel:
    """Looks embeddings up: lets CLIP_benchmark evaluate the very vectors that we evaluate."""

    def __init__(self, images: np.ndarray, texts: dict[str, np.ndarray]) -> None:
        self.images, self.texts = images, texts

    def eval(self) -> None:
        pass

    def encode_image(self, indices: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(self.images[indices.numpy()])

    def encode_text(self, tokens: list[str]) -> torch.Tensor:
        return torch.from_numpy(np.stack([self.texts[t] for t in tokens]))


class Batches(list):
    """A data loader as CLIP_benchmark expects it: batches, and a data set that knows its classes."""

    def __init__(self, batches: list) -> None:
        super().__init__(batches)
        self.dataset = SimpleNamespace(classes=CLASSES)


class TextBatch(list):
    def to(self, device: str) -> TextBatch:
        return self


def _unit(rng: np.random.Generator, n: int, d: int = 12) -> np.ndarray:
    rows = rng.standard_normal((n, d)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _by_metric(scores: list[Score]) -> dict[str, Score]:
    return {score.metric: score for score in scores}


def _classification(seed: int, n: int = 200) -> tuple[EmbeddingSet, TableModel]:
    rng = np.random.default_rng(seed)
    prompts = [t.replace("{c}", c) for c in CLASSES for t in TEMPLATES]
    texts = _unit(rng, len(prompts))
    labels = rng.integers(0, len(CLASSES), n)
    images = _unit(rng, n) + 0.8 * texts[labels * len(TEMPLATES)]
    images = (images / np.linalg.norm(images, axis=1, keepdims=True)).astype(np.float32)
    owner = np.repeat(np.arange(len(CLASSES)), len(TEMPLATES))
    notes = Annotations("classification", CLASSES, tuple(prompts), owner, labels=labels)
    return EmbeddingSet(images, texts, notes), TableModel(images, dict(zip(prompts, texts, strict=True)))


@pytest.fixture(autouse=True)
def _clip_benchmark_on_new_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """CLIP_benchmark 1.6.2 calls float() on arrays of one element, which numpy 2.4 refuses; let it."""
    monkeypatch.setattr(cb_classification, "float", lambda value: np.asarray(value).item(), raising=False)


@pytest.mark.parametrize("seed", range(3))
def test_classification_equals_clip_benchmark(seed: int) -> None:
    embeddings, model = _classification(seed)
    batches = [
        (
            torch.arange(start, min(start + 64, 200)),
            torch.from_numpy(embeddings.notes.labels[start : start + 64]),
        )
        for start in range(0, 200, 64)
    ]
    theirs = cb_classification.evaluate(
        model, Batches(batches), TextBatch, list(CLASSES), list(TEMPLATES), "cpu", amp=False, verbose=False
    )
    ours = _by_metric(classify(embeddings))
    for metric in ("acc1", "acc5", "mean_per_class_recall"):
        assert ours[metric].value == pytest.approx(theirs[metric], abs=1e-6)
        interval = ours[metric].interval
        assert interval is not None and interval.low <= ours[metric].value <= interval.high


@pytest.mark.parametrize("seed", range(2))
def test_multilabel_equals_clip_benchmark(seed: int) -> None:
    embeddings, model = _classification(seed)
    targets = np.random.default_rng(seed).random((200, len(CLASSES))) < 0.3
    notes = Annotations(
        "multilabel", CLASSES, embeddings.notes.texts, embeddings.notes.owner, targets=targets
    )
    batches = [(torch.arange(200), torch.from_numpy(targets))]
    theirs = cb_classification.evaluate(
        model, Batches(batches), TextBatch, list(CLASSES), list(TEMPLATES), "cpu", amp=False, verbose=False
    )
    multilabel = EmbeddingSet(embeddings.images, embeddings.texts, notes)
    ours = tag(multilabel, "clip_benchmark@48de38c")[0]
    assert ours.value == pytest.approx(theirs["mean_average_precision"], abs=1e-6)


def test_an_absent_class_counts_zero_only_under_the_clip_benchmark_protocol() -> None:
    embeddings, _ = _classification(0)
    targets = np.random.default_rng(0).random((200, len(CLASSES))) < 0.3
    targets[:, 2] = False
    notes = Annotations(
        "multilabel", CLASSES, embeddings.notes.texts, embeddings.notes.owner, targets=targets
    )
    multilabel = EmbeddingSet(embeddings.images, embeddings.texts, notes)
    zero = tag(multilabel, "clip_benchmark@48de38c")[0]
    skip = tag(multilabel, "corrected")[0]
    assert zero.value == pytest.approx(skip.value * 6 / 7)
    assert skip.extra["classes_without_positives"] == 1


@pytest.mark.parametrize("seed", range(3))
def test_retrieval_equals_clip_benchmark(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n_images = 60
    owner = np.sort(np.concatenate([np.arange(n_images), rng.integers(0, n_images, 90)]))
    images = _unit(rng, n_images)
    texts = _unit(rng, len(owner)) + 0.7 * images[owner]
    texts = (texts / np.linalg.norm(texts, axis=1, keepdims=True)).astype(np.float32)
    captions = [f"caption {j}" for j in range(len(owner))]
    batches = []
    for start in range(0, n_images, 25):
        rows = range(start, min(start + 25, n_images))
        batches.append(
            (torch.tensor(list(rows)), [[captions[j] for j in np.flatnonzero(owner == i)] for i in rows])
        )
    model = TableModel(images, dict(zip(captions, texts, strict=True)))
    theirs = cb_retrieval.evaluate(model, batches, TextBatch, "cpu", amp=False, recall_k_list=[1, 5, 10])
    notes = Annotations("retrieval", (), tuple(captions), owner)
    ours = _by_metric(retrieve(EmbeddingSet(images, texts, notes), (1, 5, 10)))
    assert set(ours) == set(theirs)
    for metric, value in theirs.items():
        assert ours[metric].value == pytest.approx(value, abs=1e-6)


def test_acc5_of_two_classes_is_undefined_not_zero() -> None:
    embeddings, _ = _classification(1)
    notes = Annotations(
        "classification", ("a", "b"), ("a", "b"), np.array([0, 1]), labels=np.zeros(200, np.int64)
    )
    scores = _by_metric(classify(EmbeddingSet(embeddings.images, embeddings.texts[:2], notes)))
    assert scores["acc5"].value is None and "2 classes" in scores["acc5"].reason


def test_worst_group_leaves_tiny_groups_out() -> None:
    embeddings, _ = _classification(2)
    groups = ["big"] * 120 + ["other"] * 75 + ["tiny"] * 5
    notes = Annotations(**{**embeddings.notes.__dict__, "groups": tuple(groups)})
    worst = _by_metric(classify(EmbeddingSet(embeddings.images, embeddings.texts, notes)))["worst_group_acc1"]
    assert worst.extra["group"] in ("big", "other") and worst.n in (120, 75)
    assert worst.extra["n[tiny]"] == 5
