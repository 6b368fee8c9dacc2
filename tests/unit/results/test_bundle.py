"""A bundle carries evaluations whole from one store to another, and nothing else."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from climp_bench.errors import StoreError
from climp_bench.results import ResultStore
from climp_bench.results.bundle import Imported, read_bundle, write_bundle
from climp_bench.results.store import outcomes_beside
from climp_bench.specs import Interval
from tests.unit.results.records import record


def _store(root: Path) -> ResultStore:
    store = ResultStore(root)
    store.write([record(), record(metric="acc5")])
    store.write([record(task="other")])
    outcomes_beside(store.path_of(record())).write_bytes(b"outcomes")
    return store


def _files(store: ResultStore) -> dict[str, bytes]:
    return {str(p.relative_to(store.root)): p.read_bytes() for p in store.root.rglob("*") if p.is_file()}


def test_there_and_back(tmp_path: Path) -> None:
    store, copy = _store(tmp_path / "a"), ResultStore(tmp_path / "b")
    assert write_bundle(store, store.read(), tmp_path / "x.zip") == 2
    done = read_bundle(tmp_path / "x.zip", copy)
    assert len(done.new) == 2
    assert _files(copy) == _files(store) and len(_files(copy)) == 3
    assert copy.read() == store.read()
    again = read_bundle(tmp_path / "x.zip", copy)
    assert again == Imported(equal=done.new)


def test_an_evaluation_is_bundled_whole(tmp_path: Path) -> None:
    store, copy = _store(tmp_path / "a"), ResultStore(tmp_path / "b")
    assert write_bundle(store, [record(metric="acc5")], tmp_path / "x.zip") == 1
    read_bundle(tmp_path / "x.zip", copy)
    assert [r.metric for r in copy.read()] == ["acc1", "acc5"]


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    store = _store(tmp_path / "a")
    for name in "xy":
        write_bundle(store, store.read(), tmp_path / name)
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()


def test_other_results_stay_unless_told(tmp_path: Path) -> None:
    store, copy = _store(tmp_path / "a"), ResultStore(tmp_path / "b")
    write_bundle(store, store.read(), tmp_path / "x.zip")
    mine = record(value=0.1, interval=Interval(0.0, 0.2, 0.95, "wilson"))
    copy.write([mine])
    done = read_bundle(tmp_path / "x.zip", copy)
    assert (len(done.new), len(done.kept)) == (1, 1)
    assert copy.find(task="scenes-shape") == [mine]
    done = read_bundle(tmp_path / "x.zip", copy, replace=True)
    assert (len(done.equal), len(done.replaced)) == (1, 1)
    assert copy.read() == store.read()
    outcomes_beside(store.path_of(record())).unlink()
    write_bundle(store, store.read(), tmp_path / "without.zip")
    copy.write([mine])
    outcomes_beside(copy.path_of(mine)).write_bytes(b"of mine")
    read_bundle(tmp_path / "without.zip", copy, replace=True)
    assert not outcomes_beside(copy.path_of(mine)).exists(), "outcomes of what was replaced"


def _forge(
    path: Path, target: Path, *, name: str = "", content: bytes | None = None, newer: bool = False
) -> None:
    """A copy of a bundle in which one file has another name or content (and its digest is right again)."""
    import hashlib

    with zipfile.ZipFile(path) as archive:
        files = {info: archive.read(info) for info in archive.namelist()}
    manifest = json.loads(files["bundle.json"])
    old = next(n for n in manifest["files"] if n.endswith(".results.json"))
    body = files.pop(old) if content is None else content
    files.pop(old, None)
    if newer:
        body = json.dumps(json.loads(body) | {"schema_version": 99}).encode()
    del manifest["files"][old]
    files[name or old] = body
    manifest["files"][name or old] = hashlib.sha256(body).hexdigest()
    files["bundle.json"] = json.dumps(manifest).encode()
    with zipfile.ZipFile(target, "w") as archive:
        for each, data in files.items():
            archive.writestr(each, data)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"name": "../../out.results.json"}, "no file name of a results store"),
        ({"name": "/etc/x/y.results.json"}, "no file name of a results store"),
        ({"name": "a/b/.hidden.results.json"}, "no file name of a results store"),
        ({"name": "a/b/program.sh"}, "no file name of a results store"),
        ({"content": b"{}"}, "not a valid result file"),
        ({"content": b'{"schema_version": 1, "records": [{}]}'}, "not a valid result file"),
        ({"newer": True}, "of result schema 99"),
    ],
)
def test_what_is_not_a_store_is_refused_whole(tmp_path: Path, change: dict[str, object], says: str) -> None:
    store, copy = _store(tmp_path / "a"), ResultStore(tmp_path / "b")
    write_bundle(store, store.read(), tmp_path / "x.zip")
    _forge(tmp_path / "x.zip", tmp_path / "forged.zip", **change)  # type: ignore[arg-type]
    with pytest.raises(StoreError, match=says):
        read_bundle(tmp_path / "forged.zip", copy)
    assert not copy.root.exists()


def test_a_damaged_bundle_is_refused(tmp_path: Path) -> None:
    store = _store(tmp_path / "a")
    write_bundle(store, store.read(), tmp_path / "x.zip")
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content.replace(b"0.75", b"0.99") if name != "bundle.json" else content)
    with pytest.raises(StoreError, match="does not match its digest"):
        read_bundle(tmp_path / "bad.zip", ResultStore(tmp_path / "b"))
    (tmp_path / "cut.zip").write_bytes((tmp_path / "x.zip").read_bytes()[:-40])
    with pytest.raises(StoreError, match="not a whole bundle"):
        read_bundle(tmp_path / "cut.zip", ResultStore(tmp_path / "b"))
    with pytest.raises(StoreError, match="cannot be read"):
        read_bundle(tmp_path / "nowhere.zip", ResultStore(tmp_path / "b"))
