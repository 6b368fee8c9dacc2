"""Pulled copies: small files first, size told, resumed, checked, found again without a network."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from climp_bench.data import remote_shards as remote
from climp_bench.data.dataset import labels_of
from climp_bench.data.scenes_dataset import ScenesDataset
from climp_bench.data.sources import open_folder
from climp_bench.data.webdataset import WebDataset
from climp_bench.errors import DataError
from climp_bench.files import sha256_file
from tests import data_copies as copies
from tests.fake_hub import COMMIT, FakeHub, serve

SHAPES = ScenesDataset("scenes-shape", 12)
PAIRS = ScenesDataset("scenes-captions", 6)
WDS = "clip-benchmark/wds_shapes"
TABLES = "floschne/xm3600"


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    root = tmp_path_factory.mktemp("published")
    copies.write_webdataset(root / "wds", SHAPES)
    copies.write_xm3600(root / "xm", PAIRS, ("de", "en"))
    return {WDS: content(root / "wds"), TABLES: content(root / "xm")}


@pytest.fixture
def server(
    published: dict[str, dict[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FakeHub]:
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setenv("CLIMP_BENCH_HOME", str(tmp_path / "home"))
    with serve(FakeHub({repo: dict(files) for repo, files in published.items()})) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


def test_metadata_comes_first_and_the_size_is_told_before_the_shards(server: FakeHub) -> None:
    said: list[str] = []

    def announce(text: str) -> None:
        said.append(text)
        assert all(not name.endswith(".tar") for name, _ in server.served), "told after the first shard"

    folder = remote.pull(remote.webdataset(WDS, COMMIT), announce=announce)
    names = [name for name, _ in server.served]
    assert "test/nshards.txt" in names and names[-3:] == ["test/0.tar", "test/1.tar", "test/2.tar"]
    megabytes = sum(len(c) for name, c in server.repos[WDS].items() if name.endswith(".tar")) / 1e6
    assert said == [f"hf:datasets/{WDS}@{COMMIT[:12]}: 3 files, {megabytes:,.1f} MB, licence apache-2.0"]
    dataset = open_folder(folder, "shapes")
    assert labels_of(dataset).tolist() == [SHAPES.label(i) for i in range(len(SHAPES))]
    assert dataset.classes == SHAPES.classes and dataset.templates == SHAPES.templates


def test_a_finished_copy_is_found_without_a_network(server: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = remote.pull(remote.webdataset(WDS, COMMIT))
    served = len(server.served)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    for revision in (COMMIT, COMMIT[:7]):
        assert remote.pull(remote.webdataset(WDS, revision), offline=True) == folder
        assert remote.size(remote.webdataset(WDS, revision)) == 0
    assert len(server.served) == served
    for revision in ("f" * 40, "main", None):
        assert remote.local_copy(remote.webdataset(WDS, revision)) is None
    with pytest.raises(DataError, match="--offline") as caught:
        remote.pull(remote.webdataset(WDS, "f" * 40), offline=True)
    assert "--data-root" in caught.value.remedy


def test_a_branch_is_fetched_at_the_commit_it_stands_at_and_found_again(server: FakeHub) -> None:
    folder = remote.pull(remote.webdataset(WDS, None))
    manifest = json.loads((folder / remote.MANIFEST).read_text())
    assert (manifest["commit"], manifest["licence"]) == (COMMIT, "apache-2.0")
    assert remote.local_copy(remote.webdataset(WDS, None)) == folder
    assert remote.local_copy(remote.webdataset(WDS, COMMIT)) == folder


def test_a_broken_transfer_goes_on_where_it_was(server: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    wanted = remote.webdataset(WDS, COMMIT)
    server.cut_after = 4000
    for _ in range(3):
        try:
            folder = remote.pull(wanted)
            break
        except DataError as error:
            assert "what was fetched is kept" in error.remedy
            assert remote.local_copy(wanted) is None
    assert (
        content(folder / "test").items()
        >= {
            name.removeprefix("test/"): c for name, c in server.repos[WDS].items() if name.startswith("test/")
        }.items()
    )
    starts = [start for name, start in server.served if name == "test/0.tar"]
    assert starts[0] == 0 and 0 < starts[-1] <= 4000, "it started over"


def test_content_that_is_not_what_the_hub_states_is_no_copy(server: FakeHub) -> None:
    wanted = remote.webdataset(WDS, COMMIT)
    server.lie = True
    with pytest.raises(DataError, match="the hub states"):
        remote.pull(wanted)
    assert remote.local_copy(wanted) is None
    server.lie = False
    assert len(open_folder(remote.pull(wanted), "shapes")) == len(SHAPES)


def test_shards_that_are_not_published_are_missed_before_any_is_fetched(server: FakeHub) -> None:
    del server.repos[WDS]["test/1.tar"]
    with pytest.raises(DataError, match=r"says '3', missing: test/1.tar"):
        remote.pull(remote.webdataset(WDS, COMMIT))
    assert not any(name.endswith(".tar") for name, _ in server.served)
    with pytest.raises(DataError, match=r"no file like train/\*.tar; it holds .*classnames.txt"):
        remote.pull(remote.webdataset(WDS, COMMIT, "train"))


def test_too_little_space_is_said_before_the_first_byte(
    server: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")._replace(free=10)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(DataError, match=r"0\.0 GB are free"):
        remote.pull(remote.webdataset(WDS, COMMIT))
    assert not any(name.endswith(".tar") for name, _ in server.served)


def test_splits_of_one_repository_share_a_folder(server: FakeHub) -> None:
    german, english = (remote.table(TABLES, COMMIT, language) for language in ("de", "en"))
    folder = remote.pull(german)
    assert remote.local_copy(english) is None
    assert remote.size(english) == len(server.repos[TABLES]["data/en-00000-of-00001.parquet"])
    assert remote.pull(english) == folder == remote.local_copy(german)
    captions = [open_folder(folder, "xm", split=word).captions(0)[0] for word in ("de", "en")]
    assert [caption[:3] for caption in captions] == ["de:", "en:"]
    (folder / "data/en-00000-of-00001.parquet").write_bytes(b"cut off")
    assert remote.local_copy(english) is None


def test_a_known_digest_spares_the_reading_until_the_file_changes(
    server: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = remote.pull(remote.webdataset(WDS, COMMIT))
    plain = WebDataset(folder, name="shapes").source_fingerprint()
    read: list[str] = []
    monkeypatch.setattr(remote, "sha256_file", lambda path: read.append(path.name) or sha256_file(path))
    known = open_folder(folder, "shapes", digest=remote.KnownDigest(folder))
    assert known.source_fingerprint() == plain and not read
    shard = folder / "test/1.tar"
    shard.write_bytes(shard.read_bytes())
    again = open_folder(folder, "shapes", digest=remote.KnownDigest(folder))
    assert again.source_fingerprint() == plain and read == ["1.tar"]


def test_named_files_must_all_be_published_and_a_wider_copy_serves_them(server: FakeHub) -> None:
    def named(*names: str) -> remote.Remote:
        return remote.Remote(WDS, COMMIT, tuple(f"test/{name}.tar" for name in names))

    with pytest.raises(DataError, match=r"2 of 3 files are not there: test/7\.tar, test/8\.tar"):
        remote.pull(named("1", "7", "8"))
    assert not server.served
    folder = remote.pull(named("*"))
    fetched = len(server.served)
    assert remote.pull(named("2", "0"), offline=True) == folder and len(server.served) == fetched
    found = [path.relative_to(folder).as_posix() for path in remote.sample_files(named("2", "0"), folder)]
    assert found == ["test/0.tar", "test/2.tar"]
    assert len(remote.sample_files(named("*"), folder)) == 3
    with pytest.raises(DataError, match="--offline"):
        remote.pull(named("3"), offline=True)


def test_of_several_that_want_a_copy_one_fetches_and_all_tell_its_size(
    server: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    checked: list[str] = []
    count = "climp_bench.download.sha256_file"
    monkeypatch.setattr(count, lambda path: checked.append(path.name) or sha256_file(path))
    pull = partial(remote.pull, remote.webdataset(WDS, COMMIT), announce=said.append)
    threads = [threading.Thread(target=pull) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    names = [name for name, _ in server.served]
    assert len(names) == len(set(names)) and len(said) == 3 and len(set(said)) == 1
    assert sorted(checked) == ["0.tar", "1.tar", "2.tar"]
    assert remote.local_copy(remote.webdataset(WDS, COMMIT)) is not None
