"""Files at plain addresses: told, resumed, held to their digest, fetched once."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from climp_bench.download import fetch_url
from climp_bench.errors import WeightsError
from tests.fake_hub import FakeHub, serve

CONTENT = bytes(range(256)) * 2_000
DIGEST = hashlib.sha256(CONTENT).hexdigest()
NAME = "tower.pth"


@pytest.fixture
def server() -> Iterator[FakeHub]:
    with serve(FakeHub({}, web={NAME: CONTENT})) as running:
        yield running


@pytest.fixture
def fetch(server: FakeHub, tmp_path: Path) -> Callable[..., Path]:
    where = f"{server.url}/web/{NAME}"
    return partial(fetch_url, where, tmp_path / "in" / NAME, error=WeightsError, otherwise="name a file")


@pytest.mark.parametrize("stated", [DIGEST, ""])
def test_the_size_is_told_first_and_the_digest_last(
    server: FakeHub, fetch: Callable[..., Path], stated: str
) -> None:
    said: list[str] = []

    def announce(text: str) -> None:
        assert bool(said) == bool(server.served), "the size comes before the first byte"
        said.append(text)

    path = fetch(sha256=stated, announce=announce)
    assert path.read_bytes() == CONTENT
    assert said[0] == f"{server.url}/web/{NAME}: 0.5 MB" and f"sha256 {DIGEST}" in said[1]
    assert ("stated by nobody, recorded" in said[1]) != bool(stated)
    record = json.loads(path.with_name(f"{NAME}.json").read_text())
    assert record == {
        "url": f"{server.url}/web/{NAME}", "size": len(CONTENT), "sha256": DIGEST, "stated": bool(stated),
    }  # fmt: skip
    assert fetch(sha256=stated, offline=True, announce=announce) == path
    assert len(server.served) == 1 and len(said) == 2


def test_a_broken_transfer_goes_on_where_it_was(server: FakeHub, fetch: Callable[..., Path]) -> None:
    server.cut_after = 200_000
    with pytest.raises(WeightsError, match="what was fetched is kept"):
        fetch()
    assert fetch().read_bytes() == CONTENT
    (_, first), (_, second) = server.served
    assert first == 0 and 0 < second <= 200_000
    assert not list(fetch().parent.glob("*.part"))


def test_another_file_at_the_same_place_is_fetched_from_its_start(
    server: FakeHub, fetch: Callable[..., Path]
) -> None:
    server.cut_after = 200_000
    with pytest.raises(WeightsError):
        fetch()
    server.web[NAME] = CONTENT[::-1]
    assert fetch().read_bytes() == CONTENT[::-1]
    assert [start for _, start in server.served] == [0, 0]


def test_a_server_that_sends_no_parts(server: FakeHub, fetch: Callable[..., Path]) -> None:
    server.ranges = False

    def cut(told: str) -> None:
        server.cut_after = 200_000

    with pytest.raises(WeightsError, match=r"[\d,]+ of 512,000 bytes came"):
        fetch(announce=cut)
    assert fetch().read_bytes() == CONTENT


def test_content_that_is_not_as_stated_is_deleted(fetch: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"the catalogue states 0{64}"):
        fetch(sha256="0" * 64)
    assert not [path for path in (tmp_path / "in").iterdir() if not path.name.endswith(".lock")]


def test_a_file_that_changed_since_is_refused(fetch: Callable[..., Path]) -> None:
    path = fetch()
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(WeightsError, match=f"not {DIGEST}") as caught:
        fetch()
    assert "Delete it" in caught.value.remedy
    path.unlink()
    assert fetch().read_bytes() == CONTENT


def test_what_cannot_be_fetched_is_explained(
    server: FakeHub, fetch: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(WeightsError, match=r"--offline was given\. Leave it out, .*: name a file"):
        fetch(offline=True)
    del server.web[NAME]
    with pytest.raises(WeightsError, match="answers 404"):
        fetch()
    with pytest.raises(WeightsError, match=r"cannot be fetched \(.*refused.*Without a network: name a file"):
        fetch_url("http://127.0.0.1:9/x", tmp_path / "x", error=WeightsError, otherwise="name a file")
    server.web[NAME] = CONTENT
    monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(WeightsError, match=r"0\.0 GB are free"):
        fetch()
    assert not server.served


def test_of_several_that_want_it_one_fetches(server: FakeHub, fetch: Callable[..., Path]) -> None:
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(fetch().read_bytes())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [CONTENT] * 4 and len(server.served) == 1
