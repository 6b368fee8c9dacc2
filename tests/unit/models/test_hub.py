"""Fetching from a hub: announced, resumed, checked against the stated digest, every refusal explained."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from climp_bench.errors import WeightsError
from climp_bench.models import hub
from tests.fake_hub import COMMIT, FakeHub, serve

WEIGHTS = bytes(range(256)) * 40_000
SHARDS = {f"model-{k}-of-2.safetensors": bytes([k]) * 3000 for k in (1, 2)}
INDEX = json.dumps(
    {"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}
).encode()
REPOS = {
    "ann/whole": {"model.safetensors": WEIGHTS, "tokenizer.json": b"{}"},
    "ann/sharded": {"model.safetensors.index.json": INDEX, **SHARDS},
    "ann/closed": {"model.safetensors": WEIGHTS},
}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    with serve(FakeHub(REPOS, gated={"ann/closed"})) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


def test_a_listing_names_one_commit_and_every_file(server: FakeHub) -> None:
    listing = hub.look_up("ann/whole")
    assert (listing.commit, listing.licence, listing.gated) == (COMMIT, "apache-2.0", False)
    large, small = (hub.choose(listing, name) for name in ("model.safetensors", "tokenizer.json"))
    assert large.sha256 == server.sha256(WEIGHTS) and large.size == len(WEIGHTS)
    assert small.sha256 is None and small.blob


def test_a_file_is_announced_with_its_size_before_it_is_fetched(server: FakeHub, tmp_path: Path) -> None:
    said: list[str] = []

    def announce(text: str) -> None:
        said.append(text)
        assert not server.served, "announced after the first byte"

    path = hub.fetch(hub.look_up("ann/whole"), "model.safetensors", folder=tmp_path, announce=announce)
    assert path.read_bytes() == WEIGHTS
    assert said == [f"hf:ann/whole@{COMMIT[:12]}: model.safetensors, 10.2 MB, licence apache-2.0"]


def test_a_broken_transfer_goes_on_where_it_was(
    server: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1_000_000)
    listing = hub.look_up("ann/whole")
    server.cut_after = 4_000_000
    for _ in range(3):
        try:
            path = hub.fetch(listing, "model.safetensors", folder=tmp_path)
            break
        except WeightsError as error:
            assert "what was fetched is kept" in error.remedy
    assert path.read_bytes() == WEIGHTS
    starts = [start for name, start in server.served if name == "model.safetensors"]
    assert starts[0] == 0 and 0 < starts[-1] <= 4_000_000, "it started over"


def test_shards_follow_their_index(server: FakeHub, tmp_path: Path) -> None:
    folder = hub.fetch(hub.look_up("ann/sharded"), "model.safetensors", folder=tmp_path)
    assert {name: (folder / name).read_bytes() for name in SHARDS} == SHARDS


def test_content_that_is_not_what_the_hub_states_is_deleted(server: FakeHub, tmp_path: Path) -> None:
    listing = hub.look_up("ann/whole")
    server.repos = {**REPOS, "ann/whole": {**REPOS["ann/whole"], "model.safetensors": WEIGHTS[::-1]}}
    with pytest.raises(WeightsError, match="the hub states"):
        hub.fetch(listing, "model.safetensors", folder=tmp_path)
    assert not (tmp_path / "model.safetensors").exists()
    server.repos = {**REPOS, "ann/whole": {**REPOS["ann/whole"], "tokenizer.json": b"[]"}}
    with pytest.raises(WeightsError, match="the hub states"):
        hub.fetch(listing, "tokenizer.json", folder=tmp_path)


@pytest.mark.parametrize(
    ("repo", "revision", "says"),
    [
        ("ann/none", None, "no such repository"),
        ("ann/whole", "v9", "no such revision"),
        ("not a name", None, "OWNER/NAME"),
    ],
)
def test_what_is_not_there_is_explained(server: FakeHub, repo: str, revision: str | None, says: str) -> None:
    with pytest.raises(WeightsError) as caught:
        hub.look_up(repo, revision)
    assert says in str(caught.value)


def test_a_gated_repository_says_how_to_get_in(server: FakeHub, tmp_path: Path) -> None:
    listing = hub.look_up("ann/closed")
    assert listing.gated
    with pytest.raises(WeightsError, match=r"huggingface\.co/ann/closed") as caught:
        hub.fetch(listing, "model.safetensors", folder=tmp_path)
    assert "gated" in caught.value.what


def test_a_missing_file_lists_what_there_is(server: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"holds model\.safetensors, tokenizer\.json"):
        hub.fetch(hub.look_up("ann/whole"), "vssm.pth", folder=tmp_path)


def test_without_a_connection_and_offline(server: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WeightsError, match="--offline"):
        hub.look_up("ann/whole", offline=True)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(WeightsError, match="cannot be reached") as caught:
        hub.look_up("ann/whole")
    assert "models import" in caught.value.remedy


def test_names_with_a_revision() -> None:
    assert hub.split_revision("hf:a/b@c1") == ("a/b", "c1")
    assert hub.split_revision("a/b") == ("a/b", None)
