"""Long captions: lengths as the model counts them, strata that add up, cut captions as if written shorter."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from climp_bench.embed.sets import Annotations, EmbeddingSet
from climp_bench.errors import DataError
from climp_bench.eval.dense import LENGTHS, lengths_and_recall
from climp_bench.eval.retrieval import retrieve
from climp_bench.report.dense import sections, write_dense
from climp_bench.results import RunRecord
from climp_bench.run.execute import execute
from climp_bench.run.plan import Settings, make_plan
from climp_bench.suite import of_dataset
from tests.fakes import ToyEncoder
from tests.unit.run.test_execute import Listener


class Cutting(ToyEncoder):
    """A toy that reads ``context_length`` characters."""

    def __init__(self, name: str = "cutting", context_length: int | None = 12) -> None:
        super().__init__(name, size=(32, 32))
        self.context_length = context_length

    def at_length(self, tokens: int) -> Cutting:
        other = copy.copy(self)
        if self.context_length is None or tokens < self.context_length:
            other.context_length = tokens
            other.text_transform = f"{self.text_transform}, at most {tokens} tokens"
        return other

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        return [row[: self.context_length] for row in super().tokenize(texts)]

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text) for text in texts]


WORDS = ["red ", "green ", "small ", "round box ", "of two halves ", "by night "]


def captions(n: int = 40, each: int = 2, seed: int = 0) -> tuple[tuple[str, ...], np.ndarray]:
    rng = np.random.default_rng(seed)
    told = tuple("".join(rng.choice(WORDS, rng.integers(1, 5))) for _ in range(n * each))
    return told, np.repeat(np.arange(n), each)


def embedded(encoder: ToyEncoder, texts: tuple[str, ...], owner: np.ndarray) -> EmbeddingSet:
    """Images close to the mean of their captions as ``encoder`` reads them uncut."""
    rng = np.random.default_rng(1)
    rows = ToyEncoder.encode_tokens(encoder, ToyEncoder.tokenize(encoder, texts))
    images = np.stack([rows[owner == i].mean(axis=0) for i in range(owner.max() + 1)])
    images = images + 0.05 * rng.standard_normal(images.shape)
    images = (images / np.linalg.norm(images, axis=1, keepdims=True)).astype(np.float32)
    own = encoder.encode_tokens(encoder.tokenize(texts))
    return EmbeddingSet(images, own, Annotations("retrieval", (), texts, owner))


def measure(encoder: ToyEncoder, limits: Sequence[int] = ()) -> tuple[EmbeddingSet, dict]:
    texts, owner = captions()
    e = embedded(encoder, texts, owner)

    def embed(cut: ToyEncoder, longer: np.ndarray) -> EmbeddingSet:
        anew = cut.encode_tokens(cut.tokenize(texts))
        return EmbeddingSet(e.images, np.where(longer[:, None], anew, e.texts), e.notes)

    own = retrieve(e, (1, 5))
    scores = lengths_and_recall(e.notes, encoder, own, limits, embed, (1, 5))
    assert len({score.metric for score in [*own, *scores]}) == len(own) + len(scores)
    return e, {score.metric: score for score in [*own, *scores]}


def test_lengths_are_of_the_uncut_captions() -> None:
    e, scores = measure(Cutting())
    lengths = [len(text) for text in e.notes.texts]
    expected = [min(lengths), np.median(lengths), np.percentile(lengths, 95), max(lengths)]
    assert [scores[name].value for name in LENGTHS] == expected
    share = scores["truncated_share"]
    assert share.value == np.mean([n > 12 for n in lengths]) and share.n == 80
    assert share.interval is not None and share.interval.method == "cluster bootstrap"
    assert share.extra["context_length"] == 12


def test_strata_add_up_to_the_whole() -> None:
    e, scores = measure(Cutting())
    cut = np.array([len(text) > 12 for text in e.notes.texts])
    images = np.array([cut[e.notes.owner == i].any() for i in range(40)])
    for side, members in (("image", cut), ("text", images)):
        for k in (1, 5):
            one, other = (scores[f"{side}_retrieval_recall_{s}@{k}"] for s in ("truncated", "whole"))
            assert (one.n, other.n) == (members.sum(), (~members).sum())
            together = (one.value * one.n + other.value * other.n) / len(members)
            assert together == pytest.approx(scores[f"{side}_retrieval_recall@{k}"].value)
            hits = scores[f"{side}_retrieval_recall@{k}"].outcomes
            assert one.value == pytest.approx(hits[members].mean())


def test_a_cut_caption_is_found_like_one_that_was_written_so() -> None:
    encoder = Cutting(context_length=None)
    e, scores = measure(encoder, limits=(6, 500))
    short = encoder.encode_tokens([[ord(c) % 16 for c in text[:6]] for text in e.notes.texts])
    expected = {s.metric: s.value for s in retrieve(EmbeddingSet(e.images, short, e.notes), (1, 5))}
    for name, value in expected.items():
        stem, k = name.split("@")
        assert scores[f"{stem}_6_tokens@{k}"].value == value
        assert scores[f"{stem}_500_tokens@{k}"].value == scores[name].value
        assert scores[f"{stem}_500_tokens@{k}"].outcomes is None
    assert scores["image_retrieval_recall_6_tokens@5"].value < scores["image_retrieval_recall@5"].value
    share = np.mean([len(text) > 6 for text in e.notes.texts])
    assert scores["image_retrieval_recall_6_tokens@5"].extra["truncated_share"] == share


def test_no_limit_is_no_truncation() -> None:
    _, scores = measure(Cutting(context_length=None))
    share = scores["truncated_share"]
    assert share.value == 0 and share.interval is None and "cuts no text" in share.reason
    empty = scores["image_retrieval_recall_truncated@1"]
    assert empty.value is None and empty.n == 0 and empty.reason == "no caption is truncated"
    assert scores["image_retrieval_recall_whole@1"].value == scores["image_retrieval_recall@1"].value


def test_a_model_that_cannot_cut_has_a_reason_and_sets_of_classes_are_refused() -> None:
    _, scores = measure(ToyEncoder(), limits=(6,))
    missing = scores["text_retrieval_recall_6_tokens@5"]
    assert missing.value is None and "how to cut" in missing.reason
    notes = Annotations("classification", ("a",), ("a",), np.zeros(1, np.int64), np.zeros(1, np.int64))
    with pytest.raises(DataError, match="classification task"):
        lengths_and_recall(notes, ToyEncoder(), [], (), lambda e, longer: measure(e)[0], (1,))


def run(tmp_path: Path, encoders: Sequence[ToyEncoder], *limits: int) -> list[RunRecord]:
    settings = Settings(out=tmp_path / "out", cache=tmp_path / "cache", max_tokens=limits)
    suite = of_dataset("scenes-dense")
    task = suite.tasks[0].model_copy(update={"n": 30})
    suite = suite.model_copy(update={"tasks": (task,)})
    return execute(make_plan(encoders, [suite], "dense"), settings, Listener()).records


def test_records_are_reused_for_the_same_lengths_only(tmp_path: Path) -> None:
    first = run(tmp_path, [Cutting()], 8)
    assert {r.kind for r in first} == {"dense"} and all(r.extra["lengths"] == "8" for r in first)
    encoder = Cutting()
    assert {r.key: r for r in run(tmp_path, [encoder], 8)} == {r.key: r for r in first}
    assert encoder.texts_encoded == 0
    assert "image_retrieval_recall_4_tokens@5" in {r.metric for r in run(tmp_path, [encoder], 4, 8)}
    assert encoder.image_batches == 0  # images, and texts at eight, came from the cache


def test_the_report_tells_lengths_limits_and_strata(tmp_path: Path) -> None:
    encoders = [Cutting("short", 300), Cutting("endless", None)]
    records = run(tmp_path, encoders, 100)
    lengths, recall, cut = sections(records)
    assert [row[7] for row in lengths[2][1:]] == ["300", "no limit"]
    assert lengths[2][1][8].endswith("]") and lengths[2][2][8] == "0.0%"
    by_name = {tuple(row[1:3]): row for row in recall[2][1:]}
    whole = by_name["image R@5", "truncated"]
    assert whole[4] != "-" and whole[5] == "-"
    assert [row[2] for row in cut[2][1:3]] == ["100", "all"]
    suite = records[0].suite
    page, table, picture = write_dense(records, suite, tmp_path)
    text = page.read_text()
    assert "no limit" in text and "state-space" in text and "Not measured" not in text
    assert len(table.read_text().splitlines()) == 1 + len(records)
    assert picture.read_bytes().startswith(b"\x89PNG")
