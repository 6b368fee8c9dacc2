"""Comparisons: alike with alike, refused where the runs differ, corrected over the table."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest

from climp_bench.errors import StoreError, UsageError
from climp_bench.gate.compare import Options, compare
from climp_bench.gate.measured import Measured
from climp_bench.gate.runs import Run, open_named, open_run
from climp_bench.metrics.paired import cluster_interval, pair, sign_flip
from climp_bench.report.comparison import to_csv, to_markdown, write_comparison
from climp_bench.results import ResultStore
from climp_bench.results.outcomes import Hits, Outcomes, digest, encode
from tests.unit.gate.scores import outcomes, score
from tests.unit.results.records import FAILED, changed, record


def run(*scores: Measured, name: str = "r") -> Run:
    return Run(name, scores)


def test_a_difference_is_tested_and_corrected() -> None:
    tasks = {"t1": (60, 80), "t2": (60, 64), "t3": (60, 60)}
    a, b = (run(*(score(outcomes(n[k]), task=t) for t, n in tasks.items())) for k in (0, 1))
    found = {d.task: d for d in compare(a, b, Options()).differences}
    assert [d.finding for d in found.values()] == ["B better", *["no difference shown"] * 2]
    first = found["t1"]
    pairs = pair(outcomes(60), outcomes(80))
    assert first.p == sign_flip(pairs.totals) and first.p_holm == pytest.approx(3 * first.p)
    assert first.interval == cluster_interval(pairs)
    assert (first.gained, first.lost, first.cohens_g, first.odds_ratio) == (20, 0, 0.5, None)
    assert found["t2"].p == pytest.approx(0.125) and found["t2"].p_holm == pytest.approx(0.25)
    assert found["t3"].p == 1.0 and 0 < found["t3"].detectable < 0.1


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"condition": {"protocol": "other"}}, "protocol: corrected, other"),
        ({"condition": {"fingerprint": "e" * 64}}, "fingerprint"),
        ({"condition": {"revision": "v2"}}, "revision: none, v2"),
        ({"condition": {"n": 99}}, "n: 100, 99"),
        ({"condition": {"resolution": (96, 96)}}, "resolution: 64x64, 96x96"),
        ({"samples": "others"}, "samples"),
        ({"task": "u"}, "only in A"),
    ],
)
def test_what_does_not_measure_the_same_is_refused(other: dict, says: str) -> None:
    comparison = compare(run(score(outcomes(60))), run(score(outcomes(90), **other)), Options())
    assert all(d.finding == "not comparable" and d.difference is None for d in comparison.differences)
    assert says in comparison.differences[0].reason
    assert says in to_markdown(comparison)


def test_precision_may_differ_and_resolution_if_allowed() -> None:
    half = score(outcomes(61), condition={"dtype": "bfloat16"})
    assert not compare(run(score(outcomes(60))), run(half), Options()).refused
    large = score(outcomes(61), condition={"resolution": (96, 96)})
    assert not compare(run(score(outcomes(60))), run(large), Options(across=("resolution",))).refused


def test_several_resolutions_are_paired_alike() -> None:
    sizes = [(64, 64), (96, 96)]
    a = run(*(score(outcomes(60 + s[0] // 32), condition={"resolution": s}) for s in sizes))
    b = run(*(score(outcomes(70 + s[0] // 32), condition={"resolution": s}) for s in reversed(sizes)))
    found = compare(a, b, Options()).differences
    assert [(d.a, d.b) for d in found] == [(0.62, 0.72), (0.63, 0.73)]


def test_scores_without_outcomes_are_shown_not_tested() -> None:
    pair_of = [score(value=v, metric="mean_average_precision") for v in (0.3, 0.4)]
    (found,) = compare(run(pair_of[0]), run(pair_of[1]), Options()).differences
    assert (found.finding, found.p) == ("not tested", None) and found.difference == pytest.approx(0.1)


def test_models_are_matched_by_name_where_there_are_several() -> None:
    a = run(*(score(outcomes(60), model=m) for m in ("x@micro", "y@micro")))
    b = run(*(score(outcomes(61), model=m) for m in ("y@micro", "z@micro")))
    assert {(d.model_a, d.model_b) for d in compare(a, b, Options()).differences} == {("y@micro", "y@micro")}
    with pytest.raises(UsageError, match="no model in common"):
        compare(a.of_model("x"), run(*b.scores[1:], score(outcomes(1), model="w")), Options())
    with pytest.raises(UsageError, match="Did you mean 'x@micro'"):
        a.of_model("x@mikro")
    with pytest.raises(UsageError, match="nothing to compare"):
        compare(a, b, Options(wanted=lambda s: False))


def test_identical_runs_show_no_difference_anywhere() -> None:
    rng = np.random.default_rng(1)
    one = run(*(score(rng.random(200) < 0.5, task=f"t{k}") for k in range(6)))
    assert {d.finding for d in compare(one, one, Options()).differences} == {"no difference shown"}


def store(root: Path, right: np.ndarray, model: str = "a@micro") -> Path:
    """A results folder with recall over 30 texts of 10 images."""
    ids = tuple(map(str, range(10)))
    metric = "image_retrieval_recall@5"
    content = encode(Outcomes(ids, {metric: Hits(right, "texts")}, np.arange(10).repeat(3)))
    facts = {"kind": "retrieval", "metric": metric, "value": float(right.mean()), "interval": None}
    facts |= {"no_interval_reason": "a test", "n_evaluated": 30, "n_expected": 30}
    whole = record(**facts, **changed("model", name=model), outcomes_digest=digest(content))
    ResultStore(root / "records").write([whole], content)
    return root


def test_captions_of_an_image_are_flipped_together(tmp_path: Path) -> None:
    a, b = np.ones(30, bool), np.ones(30, bool)
    a[:15] = False  # five images, all their captions
    runs = [open_run(store(tmp_path / name, right)) for name, right in (("a", a), ("b", b))]
    (found,) = compare(*runs, Options()).differences
    assert (found.n, found.clusters) == (30, 10) and found.p == pytest.approx(2 / 2**5)
    (drawn,) = compare(*runs, Options(bootstrap=True, seed=2)).differences
    assert drawn.interval is not None and "bootstrap" in drawn.interval.method


def test_missing_or_foreign_outcomes_refuse_the_comparison(tmp_path: Path) -> None:
    places = [store(tmp_path / name, np.ones(30, bool)) for name in "ab"]
    next(places[1].rglob("*.npz")).unlink()
    (found,) = compare(*(open_run(place) for place in places), Options()).differences
    assert found.finding == "not comparable" and "outcomes are missing" in found.reason


def test_what_is_no_run_is_named(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("x")
    for place, says in ((tmp_path / "no", "no such results"), (tmp_path, "no results are there")):
        with pytest.raises(UsageError, match=says):
            open_run(place)
    with pytest.raises(UsageError, match="not a file of results"):
        open_run(tmp_path / "note.txt")
    root = store(tmp_path / "r", np.ones(30, bool))
    assert open_named(f"{root}:a").models == ("a@micro",)
    assert open_run(next(root.rglob("*.results.json"))).models == ("a@micro",)
    ResultStore(root / "records").write([record(**FAILED, **changed("model", name="broken"))])
    assert {s.status for s in open_run(root).scores} == {"ok", "failed"}
    next(root.rglob("broken*.json")).write_text("{")
    with pytest.raises(StoreError, match="not a valid result file"):
        open_run(root)


def test_the_csv_has_every_number_and_the_files_are_written(tmp_path: Path) -> None:
    a = run(score(outcomes(60)), score(outcomes(60), task="u"))
    b = run(score(outcomes(80)), score(value=None, status="failed", reason="boom", task="u"))
    comparison = compare(a, b, Options())
    rows = list(csv.DictReader(io.StringIO(to_csv(comparison))))
    assert [row["finding"] for row in rows] == ["B better", "not comparable"]
    assert float(rows[0]["difference"]) == pytest.approx(0.2) and rows[1]["difference"] == ""
    assert "B: failed: boom" in rows[1]["reason"]
    page, table, picture = write_comparison(comparison, tmp_path, "x")
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.name in page.read_text()
    assert table.read_text() == to_csv(comparison)
    assert len(write_comparison(compare(a, run(b.scores[1]), Options()), tmp_path, "y")) == 2
