"""The store: whole files or none, clear errors, old schema versions stay readable."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest

from climp_bench.errors import StoreError
from climp_bench.results import SCHEMA_VERSION, ResultStore
from climp_bench.results.store import SUFFIX, read_file
from tests.unit.results.records import FAILED, changed, record

FIXTURES = Path(__file__).parent / "fixtures"


def test_written_records_are_read_back_in_one_file_per_evaluation(tmp_path: Path) -> None:
    store = ResultStore(tmp_path / "new" / "folder")
    assert store.read() == []
    two_metrics = [record(), record(metric="acc5", value=0.9)]
    elsewhere = record(**changed("model", name="hf:some/repo"), task="vtab/cifar10")
    files = store.write([*two_metrics, elsewhere])
    assert len(files) == 2 and all(f.is_file() and f.is_relative_to(store.root) for f in files)
    assert sorted(store.read(), key=lambda r: r.key) == sorted([*two_metrics, elsewhere], key=lambda r: r.key)
    assert [p for p in store.root.rglob("*") if p.is_file() and not p.name.endswith(SUFFIX)] == []


def test_the_same_evaluation_replaces_and_others_stay(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    early = changed("dataset", fingerprint=None, split="unopened")
    store.write([record(**FAILED, **early, kind="unknown", metric="any")])
    store.write([record(resolution=(96, 96))])
    store.write([record()])
    assert {(r.status, r.resolution) for r in store.read()} == {("ok", (64, 64)), ("ok", (96, 96))}


def test_find_filters_by_every_argument(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    records = [record(), record(task="t2"), record(suite="s2"), record(**changed("model", name="m2"))]
    store.write([*records, record(metric="acc5"), record(**FAILED, task="t3")])
    assert len(store.find()) == 6
    assert store.find(task="t2") == [records[1]]
    assert store.find(suite="s2") == [records[2]]
    assert store.find(model="m2") == [records[3]]
    assert [r.task for r in store.find(status="failed")] == ["t3"]
    assert [r.metric for r in store.find(metric="acc5")] == ["acc5"]
    assert store.find(key=records[1].key) == [records[1]]
    assert store.find(task="t2", status="failed") == []


def test_a_score_given_twice_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="'acc1' occurs twice"):
        ResultStore(tmp_path).write([record(task="other"), record(), record(value=0.76)])
    assert list(tmp_path.iterdir()) == []


def test_names_cannot_leave_the_store(tmp_path: Path) -> None:
    store = ResultStore(tmp_path / "store")
    (path,) = store.write([record(suite="..", task="../../etc", **changed("model", name="/a" * 200))])
    assert path.resolve().is_relative_to(store.root.resolve())


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_a_failed_write_keeps_the_old_file_and_explains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    store = ResultStore(tmp_path)
    (path,) = store.write([record()])
    before = path.read_bytes()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if step == "write":
        monkeypatch.setattr("tempfile.NamedTemporaryFile", full)
    else:
        monkeypatch.setattr(os, step, full)
    with pytest.raises(StoreError, match="disk is full") as caught:
        store.write([record(value=0.71)])
    assert caught.value.where == str(path) and "Free" in caught.value.remedy
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [path]


def test_an_unusable_root_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreError, match="cannot be written") as caught:
        ResultStore(tmp_path / "file").write([record()])
    assert caught.value.remedy


def _write_many(root: Path, value: float) -> None:
    for _ in range(30):
        ResultStore(root).write([record(value=value), record(metric="acc5", value=value)])


def test_two_writers_never_leave_a_mixed_or_broken_file(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_many, args=(tmp_path, v)) for v in (0.71, 0.79)]
    for writer in writers:
        writer.start()
    while any(w.is_alive() for w in writers):
        values = {r.value for r in ResultStore(tmp_path).read()}
        assert len(values) <= 1
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert len(ResultStore(tmp_path).read()) == 2


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[: len(text) // 2], "not a valid result file"),
        (lambda text: "", "not a valid result file"),
        (lambda text: "[]", "not a valid result file"),
        (lambda text: text.replace("0.75", "NaN"), "NaN is not strict JSON"),
        (lambda text: text.replace('"ok"', '"fine"'), r"status: Input should be 'ok'"),
        (lambda text: text.replace('"value": 0.75', '"value": null'), "needs a value"),
        (lambda text: text.replace('"schema_version": 2', '"schema_version": 0'), "unknown schema version 0"),
        (lambda text: text.replace('"schema_version": 2', '"schema_version": "1"'), "unknown schema version"),
        (lambda text: text.replace('"schema_version": 2', '"schema_version": 99'), "schema 99.*up to 2"),
    ],
)
def test_damage_is_named_with_its_file(tmp_path: Path, damage: Any, message: str) -> None:
    store = ResultStore(tmp_path)
    (path,) = store.write([record()])
    path.write_text(damage(path.read_text()))
    with pytest.raises(StoreError, match=message) as caught:
        store.read()
    assert caught.value.where == str(path) and caught.value.remedy


def test_bytes_that_are_not_text_are_damage_too(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    (path,) = store.write([record()])
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(StoreError, match="not a valid result file"):
        store.read()


def test_every_schema_version_has_a_fixture_that_still_reads() -> None:
    """Old results stay readable: a new SCHEMA_VERSION adds a fixture here and keeps the others."""
    for version in range(1, SCHEMA_VERSION + 1):
        path = FIXTURES / f"v{version}{SUFFIX}"
        assert json.loads(path.read_text())["schema_version"] == version
        records = {r.metric: r for r in read_file(path)}
        assert records["acc1"].value == 0.75 and records["acc1"].interval is not None
        assert records["acc5"].status == "failed" and records["acc5"].error is not None
        assert records["acc1"].outcomes_digest == (None if version == 1 else "ab" * 32)
