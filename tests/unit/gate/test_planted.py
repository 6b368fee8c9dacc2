"""Planted regressions: a shipped model evaluated by broken code, with the same weights and data.

The rules are those of the shipped gate, but that no sample may change: both runs are of one machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from climp_bench.gate.baseline import encode_baseline, parse_baseline
from climp_bench.gate.check import Verdict, judge
from climp_bench.gate.measured import Measured
from climp_bench.gate.rules import Gate, load_gate
from climp_bench.gate.runs import open_run
from climp_bench.models.adapters import CatalogueEncoder, Encoder
from climp_bench.models.weights import resolve
from climp_bench.ops.wanted import WantedBackends
from climp_bench.run import execute as execution
from climp_bench.run.plan import Settings, make_plan
from climp_bench.specs import HALF
from climp_bench.suite.schema import Suite
from tests.unit.run.test_execute import Listener

Patch = pytest.MonkeyPatch
SUITE = Suite.model_validate(
    {
        "schema": 1,
        "name": "embedded",
        "task": [{"dataset": "scenes-shape", "n": 416}, {"dataset": "scenes-dense", "n": 100}],
    }
)


def encoder() -> Encoder:
    return CatalogueEncoder(resolve("climp-m1@micro"), "cpu", "float32", WantedBackends.parse("auto"))


def measure(out: Path, cache: Path, model: Encoder) -> tuple[Measured, ...]:
    """All scores of the model, from embeddings in ``cache`` where they are there already."""
    settings = Settings(out=out, cache=cache, fresh=True)
    outcome = execution.execute(make_plan([model], [SUITE]), settings, Listener())
    assert not outcome.failed
    return open_run(out).scores


@pytest.fixture(scope="module")
def rules() -> Gate:
    gate, _ = load_gate("embedded")
    exact = [rule.model_copy(update={"flips": 0}) if rule.flips else rule for rule in gate.rules]
    return gate.model_copy(update={"rules": tuple(r for r in exact if r.name != "worst group")})


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> list[Measured]:
    scores = measure(tmp_path_factory.mktemp("base"), cache, encoder())
    return parse_baseline(encode_baseline(scores), Path("base.baseline.json"))


def swap_two_classes(patch: Patch) -> None:
    """The prompts of classes 0 and 1 get each other's name."""
    original = execution.annotate

    def swapped(*args: object, **options: object) -> object:
        notes = original(*args, **options)
        swap = np.where(notes.owner < 2, 1 - notes.owner, notes.owner)
        return replace(notes, owner=swap) if notes.kind == "classification" else notes

    patch.setattr(execution, "annotate", swapped)


def shift_labels(patch: Patch) -> None:
    """Three samples of a hundred get the next class."""
    original = execution.annotate

    def shifted(*args: object, **options: object) -> object:
        notes = original(*args, **options)
        if notes.labels is None:
            return notes
        chosen = np.random.default_rng(0).random(len(notes.labels)) < 0.03
        return replace(notes, labels=(notes.labels + chosen) % len(notes.classes))

    patch.setattr(execution, "annotate", shifted)


def half_scores(patch: Patch, dtype: torch.dtype) -> None:
    """Scores are kept in 16 bits before they are ranked."""
    from climp_bench.eval import zeroshot

    original = zeroshot.metrics.class_scores

    def rounded(*args: object) -> np.ndarray:
        return torch.from_numpy(original(*args)).to(dtype).float().numpy()

    patch.setattr(zeroshot.metrics, "class_scores", rounded)


def drop_a_direction(patch: Patch) -> None:
    """SS2D reads the image three ways: nothing comes from the last one."""
    from climp_bench.models import vmamba

    original = vmamba.ss2d

    def three(x: object, x_dbl: torch.Tensor, *rest: torch.Tensor, **options: object) -> torch.Tensor:
        weights, biases, decay, skip = rest
        silent = x_dbl.clone()
        silent[..., 3, weights.shape[-1] :] = 0
        through = skip.clone()
        through[3] = 0
        return original(x, silent, weights, biases, decay, through, **options)

    patch.setattr(vmamba, "ss2d", three)


def wrong_normalisation(model: Encoder) -> Encoder:
    """Images are scaled as for another family of models."""
    assert HALF not in (model.preprocess.mean, model.preprocess.std)
    model.preprocess = replace(model.preprocess, mean=HALF, std=HALF)
    return model


def nothing(patch: Patch) -> None:
    pass


@pytest.mark.parametrize(
    ("plant", "change", "metrics"),
    [
        (swap_two_classes, None, {"acc1"}),
        (shift_labels, None, {"acc1"}),
        (lambda patch: half_scores(patch, torch.float16), None, {"acc1"}),
        (lambda patch: half_scores(patch, torch.bfloat16), None, {"acc1"}),
        (drop_a_direction, None, {"acc1", "image_retrieval_recall@1"}),
        (nothing, wrong_normalisation, {"acc1", "image_retrieval_recall@1"}),
        (nothing, lambda model: model.at_length(77), {"image_retrieval_recall@1"}),
    ],
    ids=[
        "classes-swapped",
        "labels-shifted",
        "float16-scores",
        "bfloat16-scores",
        "ss2d-direction",
        "mean-std",
        "text-cut-at-77",
    ],
)
def test_a_planted_regression_fails_and_its_metric_is_named(
    rules: Gate,
    baseline: list[Measured],
    cache: Path,
    tmp_path: Path,
    monkeypatch: Patch,
    plant: Callable[[Patch], None],
    change: Callable[[Encoder], Encoder] | None,
    metrics: set[str],
) -> None:
    plant(monkeypatch)
    model = change(encoder()) if change else encoder()
    encodes_anew = plant is drop_a_direction
    run = measure(tmp_path / "out", tmp_path / "cache" if encodes_anew else cache, model)
    failed = [v for v in judge(rules, run, baseline) if v.answer == "fail"]
    assert metrics <= {verdict.where[2] for verdict in failed}
    assert all(_is_about_the_score(verdict) for verdict in failed)


def _is_about_the_score(verdict: Verdict) -> bool:
    """Not about another fingerprint or a missing result, which would be caught whatever the score."""
    return all(any(word in r for word in ("changed their outcome", "fell", "rose")) for r in verdict.reasons)


def test_a_refactoring_that_changes_no_number_passes_twenty_times(
    rules: Gate, baseline: list[Measured], cache: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    """Scores in other batches and another order each time, from the same embeddings."""
    from climp_bench.eval import zeroshot
    from climp_bench.metrics import retrieval

    original = zeroshot.metrics.class_scores
    rng = np.random.default_rng(0)

    def in_batches(images: np.ndarray, weights: np.ndarray) -> np.ndarray:
        order = rng.permutation(len(images))
        parts = np.array_split(order, rng.integers(1, 40))
        scores = np.empty((len(images), weights.shape[1]), np.float32)
        for part in parts:
            scores[part] = original(images[part], weights)
        return scores

    monkeypatch.setattr(zeroshot.metrics, "class_scores", in_batches)
    best = retrieval.standing_by_numpy
    monkeypatch.setattr(
        retrieval, "standing_by_numpy", lambda *a: best(*a[:-1], int(rng.integers(100, 9000)))
    )
    for attempt in range(20):
        run = measure(tmp_path / str(attempt), cache, encoder())
        assert [v.name for v in judge(rules, run, baseline) if v.answer == "fail"] == []
