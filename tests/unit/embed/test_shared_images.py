"""Data sets with the same images share their embeddings, whatever their captions; no others do."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from climp_bench.data import image_digests
from climp_bench.data.columns import LAYOUTS
from climp_bench.data.dataset import Dataset
from climp_bench.data.folder_source import FolderDataset
from climp_bench.data.scenes_dataset import ScenesDataset
from climp_bench.data.skipping import SkipCorrupt
from climp_bench.data.table_source import TableDataset
from climp_bench.data.webdataset import WebDataset
from climp_bench.embed.extract import embed_images, image_key
from climp_bench.run.dry_run import forecast
from climp_bench.run.execute import execute
from climp_bench.run.plan import Settings, make_plan
from climp_bench.suite.schema import Suite
from tests import data_copies as copies
from tests.fakes import ToyEncoder
from tests.unit.run.test_execute import Listener

N = 30
PAIRS = ScenesDataset("scenes-captions", N)
SHAPES = ScenesDataset("scenes-shape", N)
XM3600 = LAYOUTS.get("xm3600")


class Other(ScenesDataset):
    """The images in another order, or one of them replaced."""

    def __init__(self, how: str) -> None:
        super().__init__("scenes-captions", N)
        self.how = how

    def scene(self, index: int):
        if self.how == "reversed":
            return super().scene(N - 1 - index)
        return super().scene(N + 5 if index == 7 else index)


def batches(dataset: Dataset, cache: Path) -> int:
    """Batches that a new encoder had to encode."""
    encoder = ToyEncoder(size=copies.SIZE)
    rows = embed_images(dataset, [encoder], cache)["toy@micro"].rows
    assert len(rows) == len(dataset)
    return encoder.image_batches


def table(folder: Path, split: str | None = None) -> TableDataset:
    return TableDataset(folder, split, columns=XM3600)


def test_two_languages_encode_their_images_once(tmp_path: Path) -> None:
    copies.write_xm3600(tmp_path / "data/xm", PAIRS, ("de", "en", "quz"))
    tasks = [{"dataset": f"xm/{language}", "n": N, "ks": [1]} for language in ("de", "en", "quz")]
    suite = Suite.model_validate({"schema": 1, "name": "mine", "task": tasks})
    settings = Settings(out=tmp_path / "out", cache=tmp_path / "cache", data_roots=(tmp_path / "data",))
    encoder = ToyEncoder(size=copies.SIZE)
    plan = make_plan([encoder], [suite])

    planned = forecast(plan.jobs, plan.encoders, [], settings)
    assert [(one.state, one.images) for one in planned] == [("encode", N), ("embedded", 0), ("embedded", 0)]

    records = execute(plan, settings, Listener()).records
    assert encoder.image_batches == 1
    assert encoder.texts_encoded == len({f"{k}: {c}" for k in ("de", "en", "quz") for i in range(N)
                                         for c in PAIRS.captions(i)})  # fmt: skip
    fingerprints = {record.task: record.dataset.fingerprint for record in records if record.metric != "any"}
    assert len(set(fingerprints.values())) == 3, "captions are part of what a score is of"
    assert not [record for record in records if record.status == "failed"]


def test_shared_rows_are_those_of_each_set_alone(tmp_path: Path) -> None:
    copies.write_xm3600(tmp_path / "xm", PAIRS, ("de", "en"))
    encoder = ToyEncoder(size=copies.SIZE)
    embed_images(table(tmp_path / "xm", "de"), [encoder], tmp_path / "shared")
    shared = embed_images(table(tmp_path / "xm", "en"), [encoder], tmp_path / "shared")["toy@micro"]
    alone = embed_images(table(tmp_path / "xm", "en"), [encoder], tmp_path / "alone")["toy@micro"]
    assert shared.cached and not alone.cached
    np.testing.assert_array_equal(shared.rows, alone.rows)


@pytest.mark.parametrize("how", ["reversed", "one replaced"])
def test_another_order_or_another_image_is_encoded_anew(how: str, tmp_path: Path) -> None:
    copies.write_xm3600(tmp_path / "one", PAIRS, ("de",))
    copies.write_xm3600(tmp_path / "two", Other(how), ("de",))
    assert batches(table(tmp_path / "one"), tmp_path / "cache") == 1
    assert batches(table(tmp_path / "two"), tmp_path / "cache") == 1
    assert batches(table(tmp_path / "one"), tmp_path / "cache") == 0


def test_the_same_files_in_tables_of_other_layouts_and_in_folders_are_shared(tmp_path: Path) -> None:
    copies.write_nocaps(tmp_path / "nocaps", PAIRS)
    copies.write_docci(tmp_path / "docci", PAIRS)
    copies.write_metadata(tmp_path / "paths", PAIRS)
    cache = tmp_path / "cache"
    made = [batches(TableDataset(tmp_path / name), cache) for name in ("nocaps", "docci", "paths")]
    assert made == [1, 0, 0]
    copies.write_image_folder(tmp_path / "folders", SHAPES, numbered=True)
    before = image_key(FolderDataset(tmp_path / "folders"), ToyEncoder())
    (tmp_path / "folders").rename(tmp_path / "renamed")
    assert image_key(FolderDataset(tmp_path / "renamed"), ToyEncoder()) == before


def test_other_sources_keep_name_and_split_in_the_key(make_wds: Callable[..., Path]) -> None:
    encoder, root = ToyEncoder(), make_wds()
    assert image_key(WebDataset(root), encoder) != image_key(WebDataset(root, name="other"), encoder)
    assert image_key(PAIRS, encoder) != image_key(SHAPES, encoder)
    assert image_key(PAIRS, encoder) != image_key(ScenesDataset("scenes-captions", N + 1), encoder)


def test_what_is_left_out_is_part_of_what_is_shared(tmp_path: Path) -> None:
    broken = {3: b"not a picture"}

    def write(folder: Path, damaged: dict[int, bytes]) -> TableDataset:
        images = [{"bytes": damaged.get(i, copies.lossless(PAIRS, i)), "path": None} for i in range(N)]
        captions = [[f"{folder.name} {i}"] for i in range(N)]
        copies.write_parquet(
            folder, "test", {"image": (copies.HF_IMAGE, images), "captions": (copies.TEXTS, captions)}
        )
        return TableDataset(folder)

    cache = tmp_path / "cache"
    assert batches(SkipCorrupt(write(tmp_path / "a", broken)), cache) == 1
    assert batches(SkipCorrupt(write(tmp_path / "b", broken)), cache) == 0
    assert batches(SkipCorrupt(write(tmp_path / "c", {4: b"not a picture"})), cache) == 1
    assert batches(write(tmp_path / "d", {}), cache) == 1


def test_images_are_digested_once_on_a_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIMP_BENCH_HOME", str(tmp_path / "home"))
    copies.write_docci(tmp_path / "docci", PAIRS)
    first = TableDataset(tmp_path / "docci").images_fingerprint()
    files = [hashlib.sha256(copies.lossless(PAIRS, i)).hexdigest() for i in range(N)]
    assert first == hashlib.sha256("\n".join(["image files", *files]).encode()).hexdigest()
    with monkeypatch.context() as patch:
        patch.setattr(TableDataset, "_digest_image", None)
        assert TableDataset(tmp_path / "docci").images_fingerprint() == first
    (note,) = (tmp_path / "home/image-digests").iterdir()
    for damaged in ("", "rubbish", first[:-1]):
        note.write_text(damaged)
        assert TableDataset(tmp_path / "docci").images_fingerprint() == first
        assert note.read_text() == first


def test_a_home_that_cannot_be_written_costs_only_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").write_text("a file")
    monkeypatch.setenv("CLIMP_BENCH_HOME", str(tmp_path / "home"))
    assert image_digests.remembered("a" * 64, lambda: "b" * 64) == "b" * 64
