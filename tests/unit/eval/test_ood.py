"""Shifted sets against their reference: the drop, detection, averages, and a reference that is not there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from climp_bench.embed.sets import Annotations, EmbeddingSet
from climp_bench.errors import DataError, UsageError
from climp_bench.eval.ood import DETECTION, detect, drops, restrict
from climp_bench.eval.zeroshot import classify
from climp_bench.metrics.uncertainty import combine, wilson
from climp_bench.results import RunRecord
from climp_bench.run.execute import execute
from climp_bench.run.plan import Settings, make_plan
from climp_bench.suite import load
from climp_bench.suite.schema import Suite
from tests.fakes import ToyEncoder
from tests.unit.run.test_execute import Listener

NAMES = ("a cat", "a dog", "a fox", "an owl")


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def classed(names: tuple[str, ...] = NAMES, n: int = 120, seed: int = 0, noise: float = 1.0) -> EmbeddingSet:
    """Two prompts a class; images scattered around their class. A class looks alike in every set."""
    directions = {name: np.random.default_rng(k).standard_normal(8) for k, name in enumerate((*NAMES, "x"))}
    rng = np.random.default_rng(seed)
    centres = np.stack([directions[name] for name in names])
    owner, labels = np.repeat(np.arange(len(names)), 2), rng.integers(0, len(names), n)
    texts = unit(centres[owner] + 0.1 * rng.standard_normal((len(owner), 8)))
    images = unit(centres[labels] + noise * rng.standard_normal((n, 8)))
    notes = Annotations("classification", names, tuple(names[o] for o in owner), owner, labels)
    return EmbeddingSet(images, texts, notes)


def test_restricting_to_classes_is_as_if_the_others_had_never_been() -> None:
    whole = classed()
    part = restrict(whole, {"a fox", "a dog", "unheard of"})
    assert part.notes.classes == ("a dog", "a fox")
    kept = np.flatnonzero(np.isin(whole.notes.labels, (1, 2)))
    np.testing.assert_array_equal(part.images, whole.images[kept])
    np.testing.assert_array_equal(part.notes.labels, whole.notes.labels[kept] - 1)
    np.testing.assert_array_equal(part.texts, whole.texts[2:6])
    np.testing.assert_array_equal(part.notes.owner, [0, 0, 1, 1])
    with pytest.raises(DataError, match="no image"):
        restrict(whole, {"unheard of"})


def test_a_drop_is_measured_on_the_classes_of_the_shifted_set() -> None:
    reference, shifted = classed(n=200), classed(("a fox", "a cat"), n=90, seed=1, noise=3.0)
    own = classify(shifted)
    (first, fifth) = drops(own, shifted.notes.classes, reference, classify)
    part = restrict(reference, {"a fox", "a cat"})
    weights = [unit(part.texts[k : k + 2].sum(axis=0)[None])[0] for k in (0, 2)]
    right = (part.images @ np.stack(weights).T).argmax(axis=1) == part.notes.labels
    assert first.value == pytest.approx(right.mean() - own[0].value)
    assert first.extra == {"reference_value": right.mean(), "reference_n": len(right), "classes": 2}
    both = wilson(int(right.sum()), len(right)), own[0].interval
    assert first.interval == combine([1, -1], [right.mean(), own[0].value], both)
    assert fifth.metric == "acc5_drop" and fifth.value is None and "2 classes" in fifth.reason
    with pytest.raises(DataError, match="1 of its classes are none of the reference, the first is 'x'"):
        drops(own, ("x", "a cat"), reference, classify)


def test_detection_uses_the_classifier_of_the_reference() -> None:
    reference, unknown = classed(n=80), classed(("x",), n=60, seed=2)
    scores = {score.metric: score for score in detect(unknown, reference, 20.0, shared=False)}
    assert tuple(scores) == DETECTION
    weights = np.stack([unit(reference.texts[k : k + 2].sum(axis=0)[None])[0] for k in range(0, 8, 2)])
    cosines = np.concatenate([reference.images, unknown.images]) @ weights.T
    labels = np.repeat([1, 0], [80, 60])
    softmax = np.exp(20 * cosines.astype(np.float64))
    expected = roc_auc_score(labels, (softmax / softmax.sum(axis=1, keepdims=True)).max(axis=1))
    assert scores["ood_auroc_msp"].value == pytest.approx(expected, abs=1e-9)
    best = roc_auc_score(labels, cosines.max(axis=1))
    found = scores["ood_auroc_max_logit"]
    assert found.value == pytest.approx(best, abs=1e-9) and best > 0.7
    assert found.interval is not None and found.interval.low < best < found.interval.high
    assert found.n == 140 and found.extra == {"in": 80, "out": 60, "classes": 4, "tied_pairs": 0.0}
    assert scores["ood_auroc_msp"].extra["logit_scale"] == 20.0


def test_shared_classes_are_those_that_both_name() -> None:
    reference, unknown = classed(n=80), classed(("a cat", "an owl"), n=60, seed=2)
    score = detect(unknown, reference, 20.0, shared=True)[0]
    assert score.extra["classes"] == 2
    assert score.extra["in"] == int(np.isin(reference.notes.labels, (0, 3)).sum())


def test_without_a_logit_scale_only_the_softmax_is_missing() -> None:
    scores = detect(classed(("x",), n=10), classed(), None, shared=False)
    missing = [score for score in scores if score.value is None]
    assert [s.metric for s in missing] == [m for m in DETECTION if m.endswith("_msp")]
    assert all("no logit scale" in score.reason for score in missing)


def test_classes_of_one_name_are_one_class_for_the_softmax() -> None:
    doubled = classed()
    twice = Annotations(
        "classification", (*NAMES, "a cat"), (*doubled.notes.texts, "a cat"),
        np.append(doubled.notes.owner, 4), doubled.notes.labels,
    )  # fmt: skip
    same = EmbeddingSet(doubled.images, np.concatenate([doubled.texts, doubled.texts[:1]]), twice)
    assert detect(classed(("x",)), same, 20.0, shared=False)[0].extra["classes"] == 4


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"shifted_from": "a", "ood_reference": "a"}, "either"),
        ({"shifted_from": "c"}, "no other task"),
        ({"ood_reference": "b"}, "no other task"),
        ({"ood_classes": "shared"}, "no ood_reference"),
    ],
)
def test_references_of_a_suite_are_checked(keys: dict[str, str], says: str) -> None:
    tasks = [{"dataset": "a"}, {"dataset": "b", **keys}]
    with pytest.raises(ValueError, match=says):
        Suite.model_validate({"schema": 1, "name": "s", "task": tasks})


class Scaled(ToyEncoder):
    """A toy with a logit scale."""

    def logit_scale(self) -> float:
        return 30.0


@pytest.fixture
def suite(make_wds) -> Suite:
    """A reference, a shifted set and one that is out of distribution; another has no reference here."""
    make_wds("usual", shards=4)
    make_wds("shifted")
    make_wds("unknown")
    return Suite.model_validate({
        "schema": 1,
        "name": "mine",
        "task": [
            {"dataset": "usual"},
            {"dataset": "shifted", "shifted_from": "usual"},
            {"dataset": "unknown", "ood_reference": "usual"},
        ],
    })  # fmt: skip


def run(suite: Suite, tmp_path: Path, encoder: ToyEncoder | None = None) -> list[RunRecord]:
    settings = Settings(out=tmp_path / "out", cache=tmp_path / "cache", data_roots=(tmp_path / "data",))
    return execute(make_plan([encoder or Scaled()], [suite], "ood"), settings, Listener()).records


def test_records_hold_accuracy_drop_detection_and_averages(suite: Suite, tmp_path: Path) -> None:
    records = run(suite, tmp_path)
    value = {(r.task, r.metric): r.value for r in records}
    assert value["shifted", "acc1_drop"] == pytest.approx(value["usual", "acc1"] - value["shifted", "acc1"])
    assert ("usual", "acc1_drop") not in value and ("unknown", "acc1_drop") not in value
    assert all(value["unknown", metric] is not None for metric in DETECTION)
    assert value["average", "mean_acc1"] == value["shifted", "acc1"]
    both = (value["shifted", "acc1"] + value["unknown", "acc1"]) / 2
    assert value["average with O", "mean_acc1"] == pytest.approx(both)
    mean = next(r for r in records if r.task == "average with O" and r.metric == "mean_acc1")
    assert mean.n_evaluated == 20 and mean.interval is not None and mean.extra["sets"] == 2
    assert {r.kind for r in records} == {"ood"}
    undefined = next(r for r in records if r.metric == "mean_acc5" and r.task == "average")
    assert undefined.status == "skipped" and "not measured on shifted" in undefined.error.what


def test_prompts_of_sets_that_share_them_are_encoded_once(suite: Suite, tmp_path: Path) -> None:
    encoder = Scaled()
    run(suite, tmp_path, encoder)
    assert encoder.texts_encoded == 6  # three classes in two templates, for three sets and two references
    assert encoder.image_batches == 3  # and every image once, though the reference is read three times


def test_a_missing_reference_costs_only_what_needs_it_and_is_measured_later(
    suite: Suite, tmp_path: Path
) -> None:
    usual = tmp_path / "data" / "usual"
    usual.rename(tmp_path / "away")
    records = run(suite, tmp_path)
    status = {(r.task, r.metric): r for r in records}
    assert status["usual", "any"].status == "failed"
    assert status["shifted", "acc1"].status == "ok" and status["average", "mean_acc1"].status == "ok"
    for task, metric in (("shifted", "acc1_drop"), ("unknown", "ood_auroc_msp")):
        assert status[task, metric].status == "skipped"
        assert "unknown dataset 'usual'" in status[task, metric].error.what
    (tmp_path / "away").rename(usual)
    later = {(r.task, r.metric): r.status for r in run(suite, tmp_path)}
    assert later["shifted", "acc1_drop"] == later["unknown", "ood_auroc_msp"] == "ok"


def test_an_equal_run_is_reused_and_another_pairing_is_not(suite: Suite, tmp_path: Path) -> None:
    first = run(suite, tmp_path)
    encoder = Scaled()
    again = run(suite, tmp_path, encoder)
    assert encoder.image_batches == 0
    assert {r.key: r for r in again} == {r.key: r for r in first}
    tasks = [t.model_dump(exclude_none=True) for t in suite.tasks]
    tasks[1]["ood_reference"] = tasks[1].pop("shifted_from")
    other = Suite.model_validate({"schema": 1, "name": "mine", "task": tasks})
    metrics = {r.metric for r in run(other, tmp_path) if r.task == "shifted"}
    assert "ood_auroc_msp" in metrics and "acc1_drop" not in metrics


def test_a_model_without_one_set_has_no_average(suite: Suite, tmp_path: Path) -> None:
    (tmp_path / "data/unknown/test/0.tar").unlink()
    records = {(r.task, r.metric): r for r in run(suite, tmp_path)}
    mean = records["average with O", "mean_acc1"]
    assert mean.value is None and mean.error.what == "not measured on unknown"
    assert records["average", "mean_acc1"].value is not None


def test_the_embedded_suite_pairs_every_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    suite = load("ood-embedded")
    pairs = {task.name: (task.shifted_from, task.ood_reference) for task in suite.tasks}
    assert pairs.pop("scenes-shape") == (None, None)
    assert pairs.pop("scenes-shape-o") == (None, "scenes-shape")
    assert set(pairs.values()) == {("scenes-shape", None)} and len(pairs) == 4


def test_an_encoder_that_cannot_cut_says_so() -> None:
    with pytest.raises(UsageError, match="how to cut"):
        ToyEncoder().at_length(5)


def test_an_average_with_images_left_out_says_so(suite: Suite, tmp_path: Path) -> None:
    shard = tmp_path / "data/shifted/test/1.tar"
    shard.write_bytes(shard.read_bytes().replace(b"IHDR", b"JUNK", 1))
    settings = Settings(
        out=tmp_path / "out", cache=tmp_path / "cache", data_roots=(tmp_path / "data",), skip_corrupt=True
    )
    records = execute(make_plan([Scaled()], [suite], "ood"), settings, Listener()).records
    mean = next(r for r in records if r.task == "average" and r.metric == "mean_acc1")
    assert (mean.status, mean.n_evaluated, mean.n_failed) == ("partial", 9, 1)
    drop = next(r for r in records if r.metric == "acc1_drop")
    assert drop.status == "partial" and drop.extra["reference_n"] == 20
