"""Geometry of a captioned set: exact or sampled, recorded beside the task's own scores, shown in a report."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from climp_bench.embed.sets import Annotations, EmbeddingSet
from climp_bench.errors import DataError
from climp_bench.eval.geometry import SAMPLES, describe
from climp_bench.metrics import geometry
from climp_bench.report.geometry import MEANING, rows, write_geometry
from climp_bench.results import ResultStore, RunRecord
from climp_bench.run.execute import execute
from climp_bench.run.plan import Settings, make_plan
from climp_bench.suite import of_dataset
from tests.fakes import ToyEncoder
from tests.unit.run.test_execute import Listener


def unit(rng: np.random.Generator, n: int) -> np.ndarray:
    x = rng.standard_normal((n, 8)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def captioned(n: int = 60, each: int = 2, seed: int = 0) -> EmbeddingSet:
    """Images and captions scattered around them."""
    rng = np.random.default_rng(seed)
    images = unit(rng, n)
    owner = np.repeat(np.arange(n), each)
    texts = images[owner] + 0.4 * unit(rng, n * each)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    return EmbeddingSet(images, texts, Annotations("retrieval", (), ("t",) * len(texts), owner))


def by_key(records: list[RunRecord]) -> dict[str, RunRecord]:
    return {record.key: record for record in records}


def test_exact_values_are_those_of_the_metrics() -> None:
    e = captioned()
    scores = {score.metric: score for score in describe(e)}
    assert list(scores) == list(MEANING)
    assert scores["alignment"].value == geometry.alignment(e.images, e.texts, e.notes.owner)
    interval = scores["alignment"].interval
    assert interval is not None and interval.low < scores["alignment"].value < interval.high
    assert scores["modality_gap"].value == geometry.modality_gap(e.images, e.texts)
    both = np.concatenate([e.images, e.texts])
    assert scores["uniformity_joint"].value == geometry.uniformity(both)
    among_images = geometry.hubness(e.texts, e.images, k=10)
    assert scores["image_hub_skewness@10"].value == among_images.skewness
    assert scores["text_hub_anti_hubs@10"].value == geometry.hubness(e.images, e.texts, k=10).anti_hubs
    for name, score in scores.items():
        assert score.n == 60 and (score.interval is not None) == (name == "alignment"), name
        assert score.interval is not None or "--sample" in score.reason


def test_a_sample_takes_images_with_all_their_texts() -> None:
    e = captioned()
    sampled = {score.metric: score for score in describe(e, sample=30, seed=3)}
    exact = {score.metric: score for score in describe(e)}
    for name, score in sampled.items():
        assert score.n == 30 and score.extra["sampled_images"] == 30
        assert score.interval is not None and score.interval.low <= score.value <= score.interval.high, name
    # Alignment is a mean over pairs: subsets estimate it without bias. Hubness depends on the set's size.
    alignment = sampled["alignment"]
    assert alignment.interval.low < exact["alignment"].value < alignment.interval.high
    assert alignment.value == pytest.approx(exact["alignment"].value, rel=0.05)
    rng = np.random.default_rng(3)
    values = []
    for _ in range(SAMPLES):
        pick = np.sort(rng.choice(60, 30, replace=False))
        texts = np.concatenate([e.texts[e.notes.owner == i] for i in pick])
        values.append(geometry.modality_gap(e.images[pick], texts))
    assert sampled["modality_gap"].value == pytest.approx(np.mean(values))
    assert [s.value for s in describe(e, sample=500)] == [s.value for s in describe(e)]


def test_too_few_candidates_and_no_captions() -> None:
    small = {score.metric: score for score in describe(captioned(n=9, each=2))}
    assert small["image_hub_skewness@10"].value is None
    assert "more than 10" in small["image_hub_skewness@10"].reason
    assert small["text_hub_skewness@10"].value is not None
    e = captioned()
    labels = Annotations("classification", ("a",), ("a",), np.zeros(1, np.int64), np.zeros(60, np.int64))
    with pytest.raises(DataError, match="classification task"):
        describe(EmbeddingSet(e.images, e.texts[:1], labels))


def test_it_stands_beside_the_tasks_own_scores(tmp_path: Path) -> None:
    encoders = [ToyEncoder(name, size=(32, 32)) for name in ("a", "b")]
    suite = of_dataset("scenes-captions")
    suite = suite.model_copy(update={"tasks": (suite.tasks[0].model_copy(update={"n": 24}),)})
    settings = Settings(out=tmp_path / "out", cache=tmp_path / "cache")
    scored = execute(make_plan(encoders, [suite]), settings, Listener())
    first = execute(make_plan(encoders, [suite], "geometry"), settings, Listener())
    assert first.reused == 0 and {r.kind for r in first.records} == {"geometry"}
    assert all(r.provenance.cache_hit for r in first.records), "embeddings were made twice"
    again = execute(make_plan(encoders, [suite], "geometry"), settings, Listener())
    assert again.reused == 2 and by_key(again.records) == by_key(first.records)
    other = execute(make_plan(encoders, [suite], "geometry"), Settings(**{**vars(settings), "sample": 20}),
                    Listener())  # fmt: skip
    assert other.reused == 0
    assert by_key(execute(make_plan(encoders, [suite]), settings, Listener()).records) == by_key(
        scored.records
    )
    assert {r.kind for r in ResultStore(tmp_path / "out/records").read()} == {"geometry", "retrieval"}

    table = rows(first.records, "scenes-captions")
    assert table[0] == ["", "a@micro", "b@micro"] and len(table) == 1 + len(MEANING)
    page, numbers, picture = write_geometry(first.records, suite.name, tmp_path / "out")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "24 images" in page.read_text() and "lower is closer" in page.read_text()
    values = {(row["model"], row["metric"]): row["value"] for row in csv.DictReader(numbers.open())}
    for record in first.records:
        assert float(values[record.model.name, record.metric]) == record.value


def test_a_task_without_captions_fails_and_says_why(make_wds, tmp_path: Path) -> None:
    make_wds()
    settings = Settings(out=tmp_path / "out", cache=tmp_path / "cache", data_roots=(tmp_path / "data",))
    outcome = execute(make_plan([ToyEncoder()], [of_dataset("toy")], "geometry"), settings, Listener())
    assert (outcome.done, outcome.failed) == (0, 1)
    assert outcome.records[0].kind == "geometry" and "captions" in outcome.records[0].error.what
    page, _ = write_geometry(outcome.records, "toy", tmp_path / "out")
    assert "Not measured" in page.read_text()
