"""Exports against pandas, and against CLIP_benchmark's own ``build`` run on our files."""

from __future__ import annotations

import csv
import json
from argparse import Namespace
from pathlib import Path

import pandas as pd
import pytest
from clip_benchmark.cli import main_build

from climp_bench.errors import StoreError
from climp_bench.results import ResultStore, RunRecord, flatten
from climp_bench.results.clip_benchmark import KEYS, build_rows, import_run, read_run, runs_of
from climp_bench.results.export import FORMATS, Filter
from climp_bench.specs import Interval
from tests.unit.results.records import FAILED, PROVENANCE, changed, record


def _records() -> list[RunRecord]:
    peer = {"name": "open_clip:ViT-B-32/openai", "family": "open_clip:ViT-B-32/openai", "scale": None}
    found = {"task": "captions", "kind": "retrieval", "dataset": {"name": "flickr8k", "split": "test"}}
    undefined = {"value": None, "interval": None, "status": "skipped", "error": {"what": "undefined"}}
    return [
        record(),
        record(metric="acc5", **undefined),
        record(metric="mean_per_class_recall", value=0.5, interval=Interval(0.4, 0.6, 0.95, "bootstrap")),
        record(metric="worst_group_acc1"),
        record(
            metric="acc1", value=0.8, interval=Interval(0.7, 0.9, 0.95, "wilson"), **changed("model", **peer)
        ),
        record(metric="image_retrieval_recall@5", **found),
        record(metric="text_retrieval_recall@5", **found),
        record(**FAILED | {"metric": "any", "task": "broken"}),
        record(metric="alignment", kind="geometry"),
    ]


def _written(tmp_path: Path, name: str, records: list[RunRecord]) -> Path:
    path = tmp_path / name
    FORMATS[name].write(records, ResultStore(tmp_path / "records"), path)
    return path


def test_a_run_of_clip_benchmark_has_its_keys(tmp_path: Path) -> None:
    folder = _written(tmp_path, "clip_benchmark", _records())
    files = {path.name: json.loads(path.read_text()) for path in folder.iterdir()}
    assert set(files) == {
        "scenes-shape_micro_climp-m1_en_zeroshot_classification.json",
        "scenes-shape_openai_ViT-B-32_en_zeroshot_classification.json",
        "flickr8k_micro_climp-m1_en_zeroshot_retrieval.json",
    }
    assert all(tuple(content) == KEYS for content in files.values())
    own = files["scenes-shape_micro_climp-m1_en_zeroshot_classification.json"]
    assert own == {
        "dataset": "scenes-shape",
        "model": "climp-m1",
        "pretrained": "micro",
        "task": "zeroshot_classification",
        "metrics": {"acc1": 0.75, "mean_per_class_recall": 0.5},
        "language": "en",
    }


def test_our_table_is_what_clip_benchmark_builds_of_our_files(tmp_path: Path) -> None:
    folder = _written(tmp_path, "clip_benchmark", _records())
    main_build(Namespace(files=[str(folder)], output=str(tmp_path / "theirs.csv")))
    ours = pd.read_csv(_written(tmp_path, "clip_benchmark-csv", _records()))
    theirs = pd.read_csv(tmp_path / "theirs.csv")[list(ours.columns)]
    order = ["dataset", "model_fullname"]
    pd.testing.assert_frame_equal(
        ours.sort_values(order, ignore_index=True), theirs.sort_values(order, ignore_index=True)
    )
    # What CLIP_benchmark's notebook does with it.
    table = ours[ours.task == "zeroshot_classification"].pivot(
        index="dataset", columns="model_fullname", values="acc1"
    )
    assert table.loc["scenes-shape"].to_dict() == {"climp-m1 micro": 0.75, "ViT-B-32 openai": 0.8}


def test_runs_that_would_be_one_are_told_apart() -> None:
    half = record(resolution=(128, 96), provenance=PROVENANCE | {"dtype": "bfloat16"})
    other = record(suite="another")
    names = {run.pretrained for run in runs_of([record(), half, other])}
    assert names == {
        "micro_64x64px_float32_scenes",
        "micro_128x96px_bfloat16_scenes",
        "micro_64x64px_float32_another",
    }
    assert [run.pretrained for run in runs_of([half])] == ["micro"]


def test_languages_are_kept() -> None:
    (run,) = runs_of([record(extra={"language": "de"})])
    assert run.language == "de" and "_de_" in run.file_name


def test_csv_json_and_parquet_hold_every_record(tmp_path: Path) -> None:
    records = _records()
    rows = flatten(records)
    with _written(tmp_path, "csv", records).open(newline="") as handle:
        listed = list(csv.DictReader(handle))
    assert [row["metric"] for row in listed] == [r.metric for r in records]
    assert listed[0]["value"] == "0.75" and listed[1]["value"] == "" and listed[1]["status"] == "skipped"
    whole = json.loads(_written(tmp_path, "json", records).read_text())
    assert whole[0]["provenance"]["packages"] == {"numpy": "2.0.0"} and whole[0]["key"] == records[0].key
    frame = pd.read_parquet(_written(tmp_path, "parquet", records))
    assert list(frame.columns) == list(rows[0]) and len(frame) == len(records)
    assert frame["value"].dropna().tolist() == [r.value for r in records if r.value is not None]
    assert pd.isna(frame["value"][1]) and frame["n_evaluated"].tolist()[0] == 100
    assert frame["key"].tolist() == [r.key for r in records]


def test_a_column_of_numbers_and_texts_becomes_text(tmp_path: Path) -> None:
    records = [record(extra={"found": 3}), record(metric="b", extra={"found": "some"}), record(metric="c")]
    frame = pd.read_parquet(_written(tmp_path, "parquet", records))
    assert frame["extra.found"].tolist()[:2] == ["3", "some"] and pd.isna(frame["extra.found"][2])


def test_filters_take_patterns() -> None:
    records = _records()
    chosen = Filter(models=("climp-*",), metrics=("acc?", "image_*")).choose(records)
    assert [r.metric for r in chosen] == ["acc1", "acc5", "image_retrieval_recall@5"]
    assert [r.task for r in Filter(statuses=("failed",)).choose(records)] == ["broken"]
    assert Filter(suites=("scenes",), tasks=("nothing",)).choose(records) == []


def test_clip_benchmark_results_come_in(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    content = {
        "dataset": "wds/vtab/pets", "model": "ViT-B-32", "pretrained": "openai", "language": "en",
        "task": "zeroshot_classification", "metrics": {"acc1": 0.87, "acc5": float("nan")},
        "classnames": ["a"],
    }  # fmt: skip
    path.write_text(json.dumps(content))
    (one,) = import_run(read_run(path), 3669, path)
    assert (one.model.name, one.task, one.metric, one.value) == (
        "open_clip:ViT-B-32/openai",
        "vtab/pets",
        "acc1",
        0.87,
    )
    assert (one.status, one.interval, one.n_evaluated) == ("partial", None, 3669)
    assert one.provenance.device == one.provenance.dtype == "unknown" and one.provenance.packages == {}
    store = ResultStore(tmp_path / "records")
    store.write([one])
    assert store.read() == [one]
    assert read_run(path).as_dict() == {**{k: content[k] for k in KEYS}, "metrics": {"acc1": 0.87}}
    (back,) = runs_of([one])
    assert (back.model, back.pretrained, back.dataset) == ("ViT-B-32", "openai", "vtab/pets")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model": None}, "'model' is no text"),
        ({"metrics": [0.5]}, "not a result of CLIP_benchmark"),
        ({"metrics": {"acc1": "high"}}, "not a result of CLIP_benchmark"),
        ({"metrics": {"acc1": 57.0}}, r"acc1 is 57.0, outside \[0, 1\]"),
        ({"metrics": {}}, "has no score"),
        ({"task": "linear_probe"}, "'linear_probe' cannot be imported"),
    ],
)
def test_what_is_no_such_result_is_refused(tmp_path: Path, change: dict[str, object], says: str) -> None:
    content = {"dataset": "d", "model": "m", "pretrained": "p", "task": "zeroshot_classification",
               "metrics": {"acc1": 0.5}, "language": "en"}  # fmt: skip
    path = tmp_path / "run.json"
    path.write_text(json.dumps(content | change))
    with pytest.raises(StoreError, match=says):
        import_run(read_run(path), 10, path)
    path.write_text(json.dumps({k: v for k, v in content.items() if k != "language"}))
    with pytest.raises(StoreError, match="no 'language'"):
        read_run(path)


def test_nothing_to_build_is_an_empty_table() -> None:
    columns, rows = build_rows([])
    assert columns == ["dataset", "model", "pretrained", "task", "language", "model_fullname"] and rows == []
