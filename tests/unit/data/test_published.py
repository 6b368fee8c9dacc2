"""The catalogue of published sets: whole, plain about what is not known, and held to what it says."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from climp_bench.data.catalogue import DATASETS, fetch, is_here, open_dataset, open_published
from climp_bench.data.dataset import check_count
from climp_bench.data.published import Published, find_copy, published
from climp_bench.data.scenes_dataset import ScenesDataset
from climp_bench.errors import DataError
from tests import data_copies as copies
from tests.fake_hub import COMMIT, FakeHub, serve

ALL = {entry.name: entry for entry in published()}
WDS = [e for e in ALL.values() if e.source == "wds"]
PAIRS = ScenesDataset("scenes-captions", 6)
SHAPES = ScenesDataset("scenes-shape", 32)


def test_every_webdataset_of_clip_benchmark_is_there() -> None:
    """41 names of benchmark/webdatasets.txt at 48de38c, by family."""
    assert len(WDS) == 41 and all(e.repo == f"clip-benchmark/wds_{e.name.replace('/', '-')}" for e in WDS)
    vtab = {e.name.partition("/")[2] for e in WDS if e.name.startswith("vtab/")}
    assert len(vtab) == 20 and {"dtd", "svhn", "pcam", "kitti_closest_vehicle_distance"} <= vtab
    assert sum(e.kind == "retrieval" for e in WDS) == 3 and sum(e.kind == "multilabel" for e in WDS) == 1


def test_counts_are_those_of_datacomp_and_of_the_papers() -> None:
    known = {"imagenet1k": 50_000, "imagenet-o": 2_000, "imagenet_sketch": 50_889, "sun397": 108_754,
             "objectnet": 18_574, "vtab/caltech101": 6_085, "nocaps": 4_500, "docci": 5_000,
             "crossmodal3600/en": 3_600, "flickr8k": 1_000}  # fmt: skip
    assert {name: ALL[name].n for name in known} == known
    assert (ALL["imagenet1k"].classes, ALL["objectnet"].classes, ALL["imagenet-r"].classes) == (
        1000,
        113,
        200,
    )


def test_crossmodal_has_36_languages_each_with_its_files() -> None:
    languages = [e for e in ALL.values() if e.name.startswith("crossmodal3600/")]
    assert len(languages) == 36 == len({e.split for e in languages})
    assert all(e.files == f"data/{e.split}-*.parquet" and e.n == 3600 for e in languages)


def test_an_unpinned_revision_says_so_and_a_pinned_one_is_a_commit() -> None:
    for entry in ALL.values():
        words = dict(entry.facts())["revision"]
        if entry.repo and not entry.commit:
            assert "UNPINNED" in words and "unpinned" in entry.revision
        elif entry.repo:
            assert re.search(r"[0-9a-f]{7}", words) and "unpinned" not in words.lower()
        else:
            assert "not published" in words
    assert "UNPINNED" in ALL["objectnet"].pin and ALL["nocaps"].pin.endswith("7 digits of the commit")


def test_what_is_not_here_says_how_large_it_is_and_how_to_get_it() -> None:
    with pytest.raises(DataError) as caught:
        open_dataset("nocaps")
    for word in ("4,500 images", "1.4 GB", "data pull nocaps", "--data-root", "HuggingFaceM4/NoCaps"):
        assert word in str(caught.value)
    with pytest.raises(DataError, match=r"not published.*Bring the images and your captions"):
        open_dataset("flickr8k-rephrased")


def small(name: str, **facts: object) -> Published:
    return dataclasses.replace(ALL[name], **facts)


@pytest.mark.parametrize("folder", ["nocaps", "NoCaps", "wds_nocaps"])
def test_a_copy_is_found_under_any_of_its_names(tmp_path: Path, folder: str) -> None:
    copies.write_nocaps(tmp_path / folder, PAIRS)
    dataset = open_published(small("nocaps", n=6), [tmp_path])
    assert dataset.name == "nocaps" and dataset.split == "validation" and dataset.revision is None
    assert dataset.captions(2) == PAIRS.captions(2)


def test_a_language_is_a_split_of_one_folder(tmp_path: Path) -> None:
    copies.write_xm3600(tmp_path / "xm3600", PAIRS, ("de", "en"))
    german = open_published(small("crossmodal3600/de", n=6), [tmp_path])
    assert all(text.startswith("de: ") for text in german.captions(0)) and len(german.captions(0)) > 1
    assert find_copy(ALL["crossmodal3600/fr"], [tmp_path]) is not None
    with pytest.raises(DataError):
        open_published(small("crossmodal3600/fr", n=6), [tmp_path])


def test_a_copy_is_held_to_count_kind_and_classes(tmp_path: Path) -> None:
    copies.write_webdataset(tmp_path / "cars", SHAPES)
    copies.write_webdataset(tmp_path / "flickr8k", SHAPES)
    with pytest.raises(DataError, match="has 32 classes, the catalogue says 196"):
        open_dataset("cars", [tmp_path])
    with pytest.raises(DataError, match="is a classification set, the catalogue says retrieval"):
        open_dataset("flickr8k", [tmp_path])
    short = open_published(small("cars", classes=32), [tmp_path])
    with pytest.raises(DataError, match="32 images are there, its source says 8041"):
        check_count(short, None)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setenv("CLIMP_BENCH_HOME", str(tmp_path / "home"))
    folder = copies.write_webdataset(tmp_path / "made", SHAPES)
    files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    with serve(FakeHub({"clip-benchmark/wds_cars": files})) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


def test_what_a_command_names_is_fetched_with_its_size_first_and_then_found(hub: FakeHub) -> None:
    cars = small("cars", n=32, classes=32, commit=COMMIT[:7])
    assert not is_here(cars, ())
    said: list[str] = []
    dataset = open_published(cars, (), offline=False, announce=said.append)
    assert len(said) == 1 and "MB" in said[0] and "clip-benchmark/wds_cars" in said[0]
    assert dataset.revision == f"clip-benchmark/wds_cars@{COMMIT}"
    assert is_here(cars, ()) and len(open_published(cars, ())) == 32


def test_offline_asks_nobody(hub: FakeHub) -> None:
    with pytest.raises(DataError, match="data pull cars"):
        open_published(ALL["cars"], (), offline=True)
    with pytest.raises(DataError, match="--offline"):
        fetch(ALL["cars"], offline=True)
    assert hub.served == []


def test_a_branch_that_moved_off_the_pinned_digits_is_not_fetched(hub: FakeHub) -> None:
    assert not COMMIT.startswith(ALL["cars"].commit)
    with pytest.raises(DataError, match="the hub stands at 0123456789ab, the catalogue pins 25cfe61"):
        fetch(ALL["cars"])
    assert hub.served == []


def test_every_published_set_is_in_the_catalogue() -> None:
    entries = {e.name: e for e in DATASETS if e.published}
    assert set(entries) == set(ALL)
    assert all(e.n == e.published.n and e.kind == e.published.kind for e in entries.values() if e.published)


def test_data_pull_tells_size_folder_and_missing_pins(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from typer.testing import CliRunner

    from climp_bench.cli.main import app

    entry = DATASETS.get("cars")
    assert entry.published is not None
    unpinned = dataclasses.replace(entry, published=dataclasses.replace(entry.published, commit=""))
    monkeypatch.setitem(DATASETS._entries, "cars", unpinned)
    done = CliRunner().invoke(app, ["data", "pull", "cars"])
    printed = done.output + capsys.readouterr().err
    assert done.exit_code == 0, done.exception
    assert "UNPINNED" in printed and "MB" in printed and f"wds_cars@{COMMIT[:12]}" in printed
    served = len(hub.served)
    assert CliRunner().invoke(app, ["data", "pull", "cars", "--quiet"]).exit_code == 0
    assert len(hub.served) == served
    assert "nothing to fetch" in str(CliRunner().invoke(app, ["data", "pull", "scenes-shape"]).exception)
