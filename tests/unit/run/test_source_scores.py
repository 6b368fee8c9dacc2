"""Scores over copies in published formats: those of the embedded data, and of CLIP_benchmark's code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from clip_benchmark.metrics.zeroshot_retrieval import recall_at_k

from climp_bench.data.catalogue import DATASETS
from climp_bench.data.dataset import Dataset, captions_of
from climp_bench.data.digits import SklearnDigits
from climp_bench.data.published import open_copy
from climp_bench.data.scenes_dataset import ScenesDataset
from climp_bench.data.sources import open_folder
from climp_bench.data.transforms import to_tensor
from climp_bench.report.page import write_report
from climp_bench.results import RunRecord
from climp_bench.run.execute import execute
from climp_bench.run.plan import Settings, make_plan
from climp_bench.suite.schema import Suite
from tests import data_copies as copies
from tests.conftest import png
from tests.fakes import ToyEncoder
from tests.unit.run.test_execute import Listener

N = 60
ENCODER = ToyEncoder(size=copies.SIZE)
SHAPES = ScenesDataset("scenes-shape", N)
PAIRS = ScenesDataset("scenes-captions", N)
DENSE = ScenesDataset("scenes-dense", N)
DIGITS = SklearnDigits()

COPIES: dict[str, tuple[Callable[[Path], object], Dataset]] = {
    "wds_labels": (lambda folder: copies.write_webdataset(folder, SHAPES), SHAPES),
    "wds_pairs": (lambda folder: copies.write_webdataset(folder, PAIRS), PAIRS),
    "folders": (lambda folder: copies.write_image_folder(folder, SHAPES), SHAPES),
    "digits": (lambda folder: copies.write_webdataset(folder, DIGITS), DIGITS),
    "cifar-like": (lambda folder: copies.write_classification(folder, SHAPES, image="img"), SHAPES),
    "nocaps-like": (lambda folder: copies.write_nocaps(folder, PAIRS), PAIRS),
    "docci-like": (lambda folder: copies.write_docci(folder, DENSE), DENSE),
    "flickr8k-like": (lambda folder: copies.write_flickr8k(folder, PAIRS), PAIRS),
    "saved": (lambda folder: copies.write_saved(folder, PAIRS), PAIRS),
    "listed": (lambda folder: copies.write_metadata(folder, PAIRS), PAIRS),
}


def run(tasks: list[dict[str, object]], tmp_path: Path, root: Path, **settings: object) -> list[RunRecord]:
    suite = Suite.model_validate({"schema": 1, "name": "mine", "task": tasks})
    how = Settings(out=tmp_path / "out", cache=tmp_path / "cache", data_roots=(root,), **settings)  # type: ignore[arg-type]
    return execute(make_plan([ENCODER], [suite]), how, Listener()).records


def scores(records: list[RunRecord], task: str) -> dict[str, float | None]:
    assert all(record.error is None or record.status == "skipped" for record in records), records
    return {
        record.metric: record.value for record in records if record.task == task and record.metric != "any"
    }


@pytest.mark.parametrize("kind", COPIES)
def test_a_copy_scores_as_the_embedded_data_set(kind: str, tmp_path: Path) -> None:
    write, whole = COPIES[kind]
    write(tmp_path / "data" / kind)
    tasks: list[dict[str, object]] = [
        {"dataset": kind, "n": len(whole)},
        {"dataset": whole.name, "n": len(whole)},
    ]
    if kind == "folders":
        classes = sorted({whole.label(i) for i in range(N)})
        assert len(classes) == len(whole.classes), "every class is shown, or folders would lack one"
    records = run(tasks, tmp_path, tmp_path / "data")
    ours, theirs = scores(records, kind), scores(records, whole.name)
    assert {record.dataset.split for record in records if record.task == kind} <= {
        "test",
        "validation",
        "all",
    }
    for metric, value in ours.items():
        assert value == pytest.approx(theirs[metric], abs=1e-6), metric
    assert len({v for v in ours.values() if v is not None}) > 1


def benchmark_recall(dataset: Dataset, k: int, first: bool = False) -> tuple[float, float]:
    """Image and text retrieval recall@k by CLIP_benchmark's function, on the toy encoder's embeddings."""
    texts, image_of = captions_of(dataset)
    if first:
        kept = np.unique(image_of, return_index=True)[1]
        texts, image_of = [texts[i] for i in kept], image_of[kept]
    tensors = [to_tensor(dataset.image(i, copies.SIZE), ENCODER.preprocess) for i in range(len(dataset))]
    images = torch.from_numpy(ENCODER.encode_images(tensors))
    rows = torch.from_numpy(ENCODER.encode_tokens(ENCODER.tokenize(texts)))
    values = rows @ images.T
    positive = torch.zeros_like(values, dtype=torch.bool)
    positive[torch.arange(len(texts)), torch.from_numpy(image_of)] = True
    of_text = (recall_at_k(values, positive, k) > 0).float().mean().item()
    of_image = (recall_at_k(values.T, positive.T, k) > 0).float().mean().item()
    return of_text, of_image


@pytest.mark.parametrize(("captions", "first"), [("all", False), ("first", True)])
def test_recall_is_that_of_clip_benchmark_in_both_readings(
    captions: str, first: bool, tmp_path: Path
) -> None:
    copies.write_xm3600(tmp_path / "data" / "xm", PAIRS, ("de", "en"))
    task: dict[str, object] = {"dataset": "xm/en", "captions": captions, "ks": [1, 5], "n": N}
    measured = scores(run([task], tmp_path, tmp_path / "data"), "xm/en")
    copies.write_xm3600(tmp_path / "again", PAIRS, ("en",))
    table = open_folder(tmp_path / "again", "xm", split="en")
    for k in (1, 5):
        of_text, of_image = benchmark_recall(table, k, first)
        assert measured[f"image_retrieval_recall@{k}"] == pytest.approx(of_text, abs=1e-6)
        assert measured[f"text_retrieval_recall@{k}"] == pytest.approx(of_image, abs=1e-6)
        assert 0 < of_text < 1


@pytest.mark.parametrize("name", ["nocaps", "docci", "crossmodal3600/de"])
def test_a_published_table_opens_by_its_catalogue_entry(name: str, tmp_path: Path) -> None:
    entry = DATASETS.get(name).published
    assert entry is not None
    whole = DENSE if name == "docci" else PAIRS
    if name == "nocaps":
        copies.write_nocaps(tmp_path, whole)
    elif name == "docci":
        copies.write_docci(tmp_path, whole)
    else:
        copies.write_xm3600(tmp_path, whole, ("de", "en"))
    dataset = open_copy(replace(entry, n=N), tmp_path)
    assert (dataset.split, dataset.n_expected) == (entry.split, N)
    assert benchmark_recall(dataset, 5)[1] > 0 and len(captions_of(dataset)[0]) == len(captions_of(whole)[0])


def test_a_damaged_image_fails_its_task_or_is_left_out_and_counted(make_wds, tmp_path: Path) -> None:
    make_wds("good")
    bad = make_wds("bad")
    shard = bad / "test/1.tar"
    shard.write_bytes(shard.read_bytes().replace(png(6)[60:100], b"\0" * 40))
    tasks: list[dict[str, object]] = [{"dataset": "bad", "n": 10}, {"dataset": "good", "n": 10}]
    plain = run(tasks, tmp_path, tmp_path / "data")
    (failed,) = [record for record in plain if record.task == "bad"]
    assert failed.error and "1.tar:s0000006.png (image 6)" in failed.error.where

    records = run(tasks, tmp_path, tmp_path / "data", skip_corrupt=True)
    accuracy = {record.task: record for record in records if record.metric == "acc1"}
    bad_one, good_one = accuracy["bad"], accuracy["good"]
    assert (good_one.status, good_one.n_evaluated, good_one.n_failed) == ("ok", 10, 0)
    assert (bad_one.status, bad_one.n_evaluated, bad_one.n_failed, bad_one.n_expected) == (
        "partial",
        9,
        1,
        10,
    )
    assert bad_one.extra["left_out_images"] == 1 and bad_one.error and "s0000006" in bad_one.error.where
    page, _, _ = write_report(records, "mine", tmp_path / "out", command="zeroshot")
    assert "| bad | acc@1 | 9 (1 left out) |" in page.read_text()
    assert "| good | acc@1 | 10 |" in page.read_text()
    assert page.read_text().count("1 image that does not decode was left out (1.tar:s0000006)") == 1
    again = run(tasks, tmp_path, tmp_path / "data", skip_corrupt=True)
    assert [record.key for record in again] == [record.key for record in records]
    copies_of_good = [record for record in plain if record.task == "good" and record.metric == "acc1"]
    assert copies_of_good[0].dataset.fingerprint == good_one.dataset.fingerprint


def test_partial_copies_get_no_score(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for name in ("truncated", "lost", "short"):
        copies.write_webdataset(data / name, SHAPES)
    shard = data / "truncated/test/2.tar"
    shard.write_bytes(shard.read_bytes()[:-20_000])
    (data / "lost/test/1.tar").unlink()
    copies.write_nocaps(data / "table", PAIRS, shards=3)
    (data / "table/data/validation-00002-of-00003.parquet").unlink()
    tasks: list[dict[str, object]] = [
        {"dataset": "truncated"}, {"dataset": "lost"}, {"dataset": "short", "n": N + 1}, {"dataset": "table"},
    ]  # fmt: skip
    records = run(tasks, tmp_path, data)
    assert [(record.task, record.status) for record in records] == [
        (task["dataset"], "failed") for task in tasks
    ]
    said = [f"{record.error.where}: {record.error.what}" for record in records if record.error]
    for part, text in zip(
        ("2.tar", "missing 1.tar", "suite says 61", "misses 00002-of-00003"), said, strict=True
    ):
        assert part in text
