"""Marks of tables: only what paired tests show, against binomials counted here."""

from __future__ import annotations

from math import comb
from pathlib import Path

from climp_bench.results import ResultStore, RunRecord
from climp_bench.run.standings import judge_of, short_names
from tests.unit.report.stored import failed, write
from tests.unit.results.records import record

NAMES = ("a@micro", "b@micro", "c@micro")


def row(root: Path, *right: int, task: str = "t") -> tuple[ResultStore, list[RunRecord | None]]:
    store = ResultStore(root)
    return store, [write(store, name, task, n) for name, n in zip(NAMES, right, strict=False)]


def test_a_clear_order_is_marked(tmp_path: Path) -> None:
    store, records = row(tmp_path, 100, 180, 140)
    (found,) = judge_of(store)([records], NAMES)
    assert (found.best, found.second, found.verdict, found.why) == (1, 2, "b", "p < 0.001")


def test_p_values_are_exact_and_corrected_over_the_whole_table(tmp_path: Path) -> None:
    # b is right wherever a is, and on 8 more: two-sided sign test 2 / 2^8; alone it is significant.
    store, records = row(tmp_path, 100, 108)
    p = 2 * sum(comb(8, k) for k in (8,)) / 2**8
    (alone,) = judge_of(store)([records], NAMES[:2])
    assert alone.best == 1 and alone.why == f"p = {p:.3f}"
    # Beside nine rows without any difference, Holm multiplies it by ten: not any more.
    others = [row(tmp_path, 50, 50, task=f"u{k}")[1] for k in range(9)]
    first, *rest = judge_of(store)([records, *others], NAMES[:2])
    assert first.best is None and first.verdict == "b or a" and first.why == "no difference shown"
    assert all(s.best is None and s.verdict == "a or b" for s in rest)


def test_second_needs_the_best_and_a_third(tmp_path: Path) -> None:
    store, records = row(tmp_path, 150, 149, 50)
    (found,) = judge_of(store)([records], NAMES)
    assert (found.best, found.second, found.verdict) == (None, None, "a or b")
    store, records = row(tmp_path, 150, 50, 49)
    (found,) = judge_of(store)([records], NAMES)
    assert (found.best, found.second) == (0, None)
    store, records = row(tmp_path, 50, 51, 52)
    (found,) = judge_of(store)([records], NAMES)
    assert found.verdict == "one of 3" and found.why == "c, b, a"


def test_without_outcomes_nothing_is_marked_and_it_says_so(tmp_path: Path) -> None:
    store, (first, second) = row(tmp_path, 100, 180)
    assert first is not None and second is not None
    recall = [
        r.model_copy(update={"metric": "mean_average_precision", "outcomes_digest": None})
        for r in (first, second)
    ]
    (found,) = judge_of(store)([recall], NAMES[:2])
    assert (found.best, found.verdict) == (None, "not tested") and "no outcomes" in found.why
    store.outcomes_path(second).unlink()
    (found,) = judge_of(store)([[first, second]], NAMES[:2])
    assert found.verdict == "not tested" and "missing" in found.why


def test_other_samples_are_not_compared_but_other_sizes_are(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    data = {"name": "t", "split": "test", "fingerprint": "beef"}
    mixed = [write(store, "a@micro", "t", 100), write(store, "b@micro", "t", 180, dataset=data)]
    (found,) = judge_of(store)([mixed], NAMES[:2])
    assert found.verdict == "not tested" and "fingerprint" in found.why
    large = [write(store, "a@micro", "t", 100), write(store, "c@micro", "t", 180, resolution=(224, 224))]
    (found,) = judge_of(store)([large], NAMES[:2])
    assert found.best == 1


def test_a_row_with_one_score_has_no_best(tmp_path: Path) -> None:
    store, records = row(tmp_path, 100)
    failed(store, "b@micro", "t")
    (found,) = judge_of(store)([[*records, None, record(metric="x")]], ("a", "b", "c"))
    assert found.best is None
    (found,) = judge_of(store)([[*records, None]], NAMES[:2])
    assert found.verdict == ""


def test_short_names_keep_what_tells_models_apart() -> None:
    assert short_names(("a@micro", "b@micro")) == ["a", "b"]
    assert short_names(("a@micro", "a@base")) == ["a@micro", "a@base"]
