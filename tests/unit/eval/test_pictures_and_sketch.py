"""Examples and sketches: what they say is what the embeddings say, counted here one by one."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from climp_bench.data.dataset import Dataset
from climp_bench.embed.sets import Annotations, EmbeddingSet
from climp_bench.errors import DataError
from climp_bench.eval.pictures import ANSWERS, EACH, SIDE, picture
from climp_bench.eval.retrieval import retrieve
from climp_bench.eval.sketch import BINS, sketch
from climp_bench.eval.zeroshot import classify
from climp_bench.results.pictures import LARGEST_BYTES, Pictures


class Noise(Dataset):
    """Random images; ``broken`` of them cannot be read."""

    name, kind = "noise", "retrieval"

    def __init__(self, n: int, broken: int = 0, side: int = 200) -> None:
        self.n_expected, self.broken, self.side = n, broken, side

    def __len__(self) -> int:
        return self.n_expected

    def image(self, index: int, size: tuple[int, int]) -> np.ndarray:
        if index < self.broken:
            raise DataError("does not decode", where=f"item {index}")
        return np.random.default_rng(index).integers(0, 255, (self.side, self.side // 2, 3), dtype=np.uint8)

    def item_id(self, index: int) -> str:
        return f"item {index}"

    def source_fingerprint(self) -> str:
        return "noise"


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def captioned(n: int = 30, each: int = 2, noise: float = 1.0, seed: int = 0) -> EmbeddingSet:
    rng = np.random.default_rng(seed)
    images, owner = rng.standard_normal((n, 12)), np.repeat(np.arange(n), each)
    texts = images[owner] + noise * rng.standard_normal((n * each, 12))
    notes = Annotations("retrieval", (), tuple(f"caption {m}" for m in range(n * each)), owner)
    return EmbeddingSet(unit(images), unit(texts), notes)


def labelled(n: int = 40, classes: int = 5, seed: int = 1) -> EmbeddingSet:
    rng = np.random.default_rng(seed)
    texts, labels = rng.standard_normal((classes, 12)), rng.integers(0, classes, n)
    images = texts[labels] + 1.6 * rng.standard_normal((n, 12))
    names = tuple(f"class {c}" for c in range(classes))
    notes = Annotations("classification", names, names, np.arange(classes), labels=labels)
    return EmbeddingSet(unit(images), unit(texts), notes)


def test_examples_of_retrieval_are_right_where_the_outcomes_are() -> None:
    found = captioned()
    scores = {s.metric: s for s in retrieve(found, (1, 5))}
    made = picture(Noise(30), found, list(scores.values()), "corrected")
    asked = [e for e in made.examples if e.query == "image"]
    assert 2 <= len(asked) <= 2 * EACH and {e.right for e in asked} == {True, False}
    for e in asked:
        i = int(e.item.removeprefix("item "))
        cosines = found.texts @ found.images[i]
        best = [int(m) for m in np.argsort(-cosines)[:ANSWERS]]
        assert [a.text for a in e.answers] == [f"caption {m}" for m in best]
        assert [a.right for a in e.answers] == [m // 2 == i for m in best]
        assert e.right == (best[0] // 2 == i) == bool(scores["text_retrieval_recall@1"].outcomes[i])
    for e in (e for e in made.examples if e.query == "text"):
        m = int(e.text.removeprefix("caption "))
        assert e.item == f"item {m // 2}" and e.right == (e.answers[0].item == e.item)
        assert e.answers[0].cosine == pytest.approx(float((found.images @ found.texts[m]).max()), abs=1e-3)
    shown = {e.item for e in made.examples} | {a.item for e in made.examples for a in e.answers if a.item}
    assert set(made.thumbnails) == shown
    for jpeg in made.thumbnails.values():
        assert max(Image.open(io.BytesIO(base64.b64decode(jpeg))).size) == SIDE
    assert len(made.encode()) <= LARGEST_BYTES


def test_examples_of_classification_name_the_class() -> None:
    found = labelled()
    scores = classify(found)
    made = picture(Noise(40), found, scores, "corrected")
    assert found.notes.labels is not None
    for e in made.examples:
        i = int(e.item.removeprefix("item "))
        best = int((found.texts @ found.images[i]).argmax())
        assert e.text == f"class {found.notes.labels[i]}" and e.answers[0].text == f"class {best}"
        assert e.right == e.answers[0].right == (best == found.notes.labels[i])
    assert sum(e.right for e in made.examples) == EACH == sum(not e.right for e in made.examples)


def test_models_show_the_same_samples_where_they_can() -> None:
    models = [captioned(noise=2, seed=seed) for seed in (0, 7)]
    made = [picture(Noise(30), found, retrieve(found, (1,)), "corrected") for found in models]
    first, second = ({e.item for e in one.examples if e.query == "image"} for one in made)
    assert first & second


def test_an_image_that_went_bad_leaves_a_reason() -> None:
    found = captioned()
    made = picture(Noise(30, broken=30), found, retrieve(found, (1,)), "corrected")
    assert made.examples == () and "does not decode" in made.problem


def test_a_file_of_pictures_is_bounded_and_keeps_only_what_it_shows() -> None:
    found = captioned()
    made = picture(Noise(30), found, retrieve(found, (1,)), "corrected")
    large = base64.b64encode(base64.b64decode(next(iter(made.thumbnails.values()))) + bytes(20_000)).decode()
    content = made.model_copy(update={"thumbnails": dict.fromkeys(made.thumbnails, large)}).encode()
    kept = Pictures.model_validate_json(content)
    assert len(content) <= LARGEST_BYTES and 0 < len(kept.examples) < len(made.examples)
    shown = {e.item for e in kept.examples} | {a.item for e in kept.examples for a in e.answers if a.item}
    assert set(kept.thumbnails) == shown


def test_only_jpegs_are_pictures() -> None:
    with pytest.raises(ValueError, match="not a JPEG"):
        Pictures(thumbnails={"x": base64.b64encode(b"<svg onload=x>").decode()})


def test_a_sketch_counts_every_pair_and_every_hub() -> None:
    found = captioned(n=25, each=3)
    made = sketch(found)
    cosines = np.array([[float(np.float32(t @ i)) for i in found.images] for t in found.texts])
    own = np.array([[found.notes.owner[m] == n for n in range(25)] for m in range(75)])
    edges = np.linspace(-1, 1, BINS + 1)
    assert (
        np.abs(np.array(made.matched) - np.histogram(cosines[own], edges)[0]).sum() <= 2
    )  # rounding at edges
    assert sum(made.matched) == 75 and sum(made.matched) + sum(made.unmatched) == cosines.size
    nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :10]
    times = np.bincount(nearest.ravel(), minlength=25)
    hubs = made.hubs["image"]
    assert hubs is not None and [int((times == k).sum()) for k in range(len(hubs))] == list(hubs)
    assert sum(k * n for k, n in enumerate(hubs)) == 750
    assert (made.images, made.texts) == (25, 75)


def test_the_axes_of_a_sketch_are_principal_components() -> None:
    found = captioned(n=25, each=2)
    made = sketch(found)
    rows = np.concatenate([found.images, found.texts]).astype(np.float64)
    centred = rows - rows.mean(axis=0)
    _, singular, axes = np.linalg.svd(centred, full_matrices=False)
    expected = np.abs(centred @ axes[:2].T)[:25]
    assert np.allclose(np.abs(np.array(made.image_points)), expected, atol=1e-3)
    assert made.explained == pytest.approx((singular[:2] ** 2).sum() / (singular**2).sum(), abs=1e-4)
    assert np.allclose(np.abs(np.array(made.text_points)), np.abs(centred @ axes[:2].T)[25::2], atol=1e-3)


def test_a_large_set_is_sampled_and_a_tiny_one_has_no_hubs() -> None:
    made = sketch(captioned(n=2100, each=1))
    assert (made.images, made.texts) == (2000, 2000)
    assert sketch(captioned(n=5, each=1)).hubs == {"image": None, "text": None}
