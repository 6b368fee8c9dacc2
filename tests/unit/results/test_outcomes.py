"""Per-sample outcomes: small, whole, bound to their records."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from climp_bench.errors import StoreError
from climp_bench.results import ResultStore
from climp_bench.results.outcomes import Hits, Outcomes, digest, encode, read_outcomes
from climp_bench.results.store import has_outcomes
from tests.unit.results.records import FAILED, record


def outcomes(seed: int = 0, n: int = 21, captions: int = 3) -> Outcomes:
    rng = np.random.default_rng(seed)
    hits = {
        "acc1": Hits(rng.random(n) < 0.5),
        "text_retrieval_recall@5": Hits(rng.random(n) < 0.9),
        "image_retrieval_recall@5": Hits(rng.random(n * captions) < 0.1, "texts"),
    }
    return Outcomes(tuple(f"0.tar:s{i:07d} é" for i in range(n)), hits, np.arange(n).repeat(captions))


def test_what_is_written_is_read_and_the_bytes_repeat(tmp_path: Path) -> None:
    original, path = outcomes(), tmp_path / "a.outcomes.npz"
    content = encode(original)
    assert content == encode(outcomes())
    path.write_bytes(content)
    read = read_outcomes(path, digest(content))
    assert read.ids == original.ids and read.hits.keys() == original.hits.keys()
    for metric, hits in original.hits.items():
        assert (read.hits[metric].right == hits.right).all() and read.hits[metric].over == hits.over
        assert read.samples(metric) == original.samples(metric)
    assert read.clusters("acc1") is None
    assert list(read.clusters("image_retrieval_recall@5")) == list(np.arange(21).repeat(3))


def test_fifty_thousand_samples_stay_small() -> None:
    big = outcomes(n=50_000, captions=1)
    names = len(encode(Outcomes(big.ids, {})))
    assert names < 200_000
    assert len(encode(big)) - names < 3 * 50_000 / 8 + 20_000


def test_samples_tell_other_images_another_order_and_other_captions_apart() -> None:
    one, metric = outcomes(), "image_retrieval_recall@5"
    turned = Outcomes(one.ids[::-1], one.hits, one.image_of_text)
    swapped = Outcomes(one.ids, one.hits, one.image_of_text[::-1])
    assert len({o.samples(metric) for o in (one, turned, swapped)}) == 3
    assert one.samples("acc1") == swapped.samples("acc1") != turned.samples("acc1")
    assert one.samples("acc1") == outcomes(seed=5).samples("acc1")


def test_outcomes_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="acc1: 2 outcomes for 3 images"):
        Outcomes(("a", "b", "c"), {"acc1": Hits(np.ones(2, bool))})
    with pytest.raises(ValueError, match="3 outcomes for 0 texts"):
        Outcomes(("a", "b", "c"), {"acc1": Hits(np.ones(3, bool), "texts")})


def test_the_store_writes_them_first_and_binds_them(tmp_path: Path) -> None:
    store, content = ResultStore(tmp_path), encode(outcomes())
    kept = record(outcomes_digest=digest(content))
    (path,) = store.write([kept, record(metric="mean_per_class_recall")], content)
    beside = store.outcomes_path(kept)
    assert beside.parent == path.parent and beside.name == path.name.replace(".results.json", ".outcomes.npz")
    assert beside.stat().st_mtime_ns <= path.stat().st_mtime_ns
    assert all(store.is_whole(r) for r in store.read())
    assert read_outcomes(beside, kept.outcomes_digest).ids == outcomes().ids


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "outcomes are missing"),
        (lambda path: path.write_bytes(encode(outcomes(seed=1))), "not those of the records"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), "not those of the records"),
    ],
)
def test_absent_or_changed_outcomes_are_named(tmp_path: Path, damage: object, message: str) -> None:
    store, content = ResultStore(tmp_path), encode(outcomes())
    kept = record(outcomes_digest=digest(content))
    store.write([kept], content)
    damage(store.outcomes_path(kept))  # type: ignore[operator]
    assert not store.is_whole(kept)
    with pytest.raises(StoreError, match=message) as caught:
        read_outcomes(store.outcomes_path(kept), kept.outcomes_digest)
    assert caught.value.where.endswith(".outcomes.npz") and "--fresh" in caught.value.remedy


@pytest.mark.parametrize("content", [b"", b"junk", encode(outcomes())[:300]])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.outcomes.npz"
    path.write_bytes(content)
    with pytest.raises(StoreError, match="not per-sample outcomes"):
        read_outcomes(path, digest(content))


def test_a_later_failure_leaves_no_old_outcomes_behind(tmp_path: Path) -> None:
    store, content = ResultStore(tmp_path), encode(outcomes())
    kept = record(outcomes_digest=digest(content))
    store.write([kept], content)
    store.write([record(**FAILED)])
    assert not store.outcomes_path(kept).exists()


def test_records_of_schema_1_and_scores_that_are_no_means(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    assert not store.is_whole(record())
    assert store.is_whole(record(metric="mean_average_precision")) and store.is_whole(record(**FAILED))
    means = ("acc1", "acc5", "image_retrieval_recall@10", "text_retrieval_recall@1")
    others = ("worst_group_acc1", "mean_per_class_recall", "mean_average_precision", "any", "macs")
    assert all(map(has_outcomes, means)) and not any(map(has_outcomes, others))
