"""The report of ood: every set, what was lost, detection, averages; nothing missing shown as a number."""

from __future__ import annotations

import csv
from pathlib import Path

from climp_bench.report.ood import rows, write_ood
from climp_bench.results import RunRecord
from climp_bench.specs import Interval
from tests.unit.results.records import record as make


def record(task: str, metric: str, value: float | None, model: str = "a@micro", **facts: object) -> RunRecord:
    scored = {"value": value, "interval": None, "n_expected": 20, "n_evaluated": 20}
    if value is None:
        scored |= {"status": "skipped", "n_evaluated": 0, "n_expected": None}
    else:
        scored["interval"] = Interval(value - 0.1, value + 0.1, 0.95, "x")
    family, scale = model.split("@")
    named = {"name": model, "family": family, "scale": scale, "weights_digest": "ab"}
    base = {"suite": "s", "task": task, "metric": metric, "kind": "ood", "model": named, "extra": {}}
    return make(**(base | scored | facts))


def gathered() -> list[RunRecord]:
    pair = {"reference": "t", "reference_n": 30, "classes": 4}
    sizes = {"reference": "t", "in": 30, "out": 20, "classes": 4}
    return [
        record("t", "acc1", 0.9, extra={"reference": None}),
        record("t-v2", "acc1", 0.7, extra={"reference": "t"}),
        record("t-v2", "acc1_drop", -0.2, extra=pair),
        record("t-o", "acc1", 0.5, extra={"reference": "t"}),
        record("t-o", "ood_auroc_msp", None, error={"what": "the model states no logit scale for a softmax"}),
        record("t-o", "ood_auroc_max_logit", 0.75, extra=sizes),
        record("average", "mean_acc1", 0.6, extra={"sets": 2, "tasks": "t-v2, t-o"}),
        record("t", "any", None, "b@micro", status="failed", error={"what": "broken"}),
    ]


def test_sections_keep_apart_what_is_accuracy_loss_and_detection() -> None:
    accuracy = rows(gathered(), "accuracy")
    assert accuracy[0] == ["set", "metric", "n", "a@micro", "b@micro"]
    assert accuracy[1] == ["t", "acc@1", "20", "90.0 [80.0, 100.0]", "failed"]
    assert [row[0] for row in accuracy[1:]] == ["t", "t-v2", "t-o", "average"]
    assert rows(gathered(), "drop")[1:] == [["t-v2", "acc@1", "20", "-20.0 [-30.0, -10.0]", "-"]]
    detection = {row[1]: row[3] for row in rows(gathered(), "detection")[1:]}
    assert detection == {"AUROC, softmax": "skipped", "AUROC, max logit": "75.0 [65.0, 85.0]"}


def test_the_page_says_what_was_compared_and_what_is_missing(tmp_path: Path) -> None:
    records = gathered()
    page, table, picture = write_ood(records, "s", tmp_path)
    text = page.read_text()
    assert "t-v2: points below t (n = 30) on its 4 classes" in text
    assert "t-o: 30 images of t (in) against its own 20 (out); 4 classes" in text
    assert "average: the plain mean over 2 independent sets (t-v2, t-o)" in text
    assert "skipped: t-o, ood_auroc_msp: the model states no logit scale" in text and "failed: t" in text
    for source in ("Hendrycks and Gimpel 2017", "Ming et al. 2022", "Hendrycks et al. 2021"):
        assert source in " ".join(text.split())
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert len(list(csv.DictReader(table.read_text().splitlines()))) == len(records)


def test_without_a_score_there_is_no_picture(tmp_path: Path) -> None:
    page, table = write_ood([gathered()[-1]], "s", tmp_path)
    assert "failed" in page.read_text() and "Lost to the shift" not in page.read_text()
    assert table.is_file()
