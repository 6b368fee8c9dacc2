"""Tables of images: what is in a file comes out, in its order, and every fault is named."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from climp_bench.data.columns import LAYOUTS, Columns
from climp_bench.data.dataset import Dataset, captions_of, check_count, labels_of, targets_of
from climp_bench.data.decoding import CorruptImage
from climp_bench.data.scenes_dataset import ScenesDataset
from climp_bench.data.table_source import TableDataset
from climp_bench.errors import DataError, UsageError
from tests import data_copies as copies
from tests.conftest import png

N = 20
PAIRS = ScenesDataset("scenes-captions", N)
SHAPES = ScenesDataset("scenes-shape", N)


def same_images(one: Dataset, other: Dataset) -> bool:
    size = copies.SIZE
    return len(one) == len(other) and all(
        np.array_equal(one.image(i, size), other.image(i, size)) for i in reversed(range(len(one)))
    )


def test_nocaps_gives_its_images_and_captions_in_order(tmp_path: Path) -> None:
    copies.write_nocaps(tmp_path, PAIRS)
    dataset = TableDataset(tmp_path, columns=LAYOUTS.get("nocaps"))
    assert (dataset.kind, dataset.split, len(dataset)) == ("retrieval", "validation", N)
    assert [dataset.captions(i) for i in range(N)] == [PAIRS.captions(i) for i in range(N)]
    assert same_images(dataset, PAIRS)
    assert dataset.item_id(12) == "validation-00001-of-00002.parquet:2 (image_id 12)"
    assert TableDataset(tmp_path).source_fingerprint() != ""


def test_rows_agree_with_the_datasets_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    datasets.disable_progress_bars()
    copies.write_classification(tmp_path / "labels", SHAPES)
    ours = TableDataset(tmp_path / "labels")
    files = sorted(str(path) for path in (tmp_path / "labels/data").glob("*.parquet"))
    theirs = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "hf"))
    assert labels_of(ours).tolist() == theirs["label"]
    assert ours.classes == tuple(theirs.features["label"].names) == SHAPES.classes
    for i in (0, 7, N - 1):
        np.testing.assert_array_equal(ours.image(i, (8, 8)), np.asarray(theirs[i]["image"].convert("RGB")))


@pytest.mark.parametrize("form", ["saved", "split", "listed", "columns", "csv"])
def test_captions_and_images_of_every_form(form: str, tmp_path: Path) -> None:
    folder, split = tmp_path / "set", None
    if form == "saved":
        copies.write_saved(folder, PAIRS)
    elif form == "split":
        copies.write_saved(folder, PAIRS, splits=("train", "test"))
        split = "test"
    elif form == "listed":
        copies.write_metadata(folder, PAIRS)
    elif form == "csv":
        copies.write_metadata(folder, PAIRS)
        rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
        (folder / "metadata.jsonl").unlink()
        lines = [",".join([row["file_name"], *(f'"{c}"' for c in row["captions"])]) for row in rows]
        head = "file_name," + ",".join(f"caption_{k}" for k in range(5))
        (folder / "metadata.csv").write_text("\n".join([head, *lines]))
    else:
        copies.write_flickr8k(folder, PAIRS)
    dataset = TableDataset(folder, split)
    assert captions_of(dataset)[0] == captions_of(PAIRS)[0]
    assert same_images(dataset, PAIRS)
    check_count(dataset, N)


def test_a_split_of_crossmodal_is_a_language(tmp_path: Path) -> None:
    copies.write_xm3600(tmp_path, PAIRS, ("de", "quz"))
    german = TableDataset(tmp_path, "de", columns=LAYOUTS.get("xm3600"))
    assert german.captions(3) == tuple(f"de: {text}" for text in PAIRS.captions(3))
    assert same_images(german, TableDataset(tmp_path, "quz"))
    with pytest.raises(DataError, match="none of its splits is called test") as caught:
        TableDataset(tmp_path)
    assert "de, quz" in caught.value.remedy
    with pytest.raises(DataError, match="there is no split 'fr'"):
        TableDataset(tmp_path, "fr")


@pytest.mark.parametrize(
    "pattern",
    [
        "data/{split}-{k:05d}-of-{n:05d}-00000000000abcde.parquet",
        "default/{split}/{k:04d}.parquet",
        "default/no_caps-{split}-{k:05d}-of-{n:05d}.parquet",
        "{split}-{k:05d}-of-{n:05d}.parquet",
    ],
)
def test_files_are_found_as_the_hub_arranges_them(pattern: str, tmp_path: Path) -> None:
    copies.write_nocaps(tmp_path, PAIRS, shards=3, pattern=pattern)
    copies.write_nocaps(
        tmp_path, ScenesDataset("scenes-captions", 3), shards=1, pattern="old/{split}x.parquet"
    )
    dataset = TableDataset(tmp_path, "validation")
    assert [dataset.captions(i) for i in range(N)] == [PAIRS.captions(i) for i in range(N)]


def write(folder: Path, columns: dict[str, tuple[pa.DataType, Sequence[Any]]], **how: Any) -> Path:
    return copies.write_parquet(folder, "test", columns, shards=1, **how)


def images(n: int) -> tuple[pa.DataType, list[bytes]]:
    return pa.binary(), [png(i) for i in range(n)]


def test_a_list_of_classes_is_multilabel_and_a_group_is_kept(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "image": images(3),
            "label": (pa.list_(pa.int64()), [[0, 2], [], [1]]),
            "group": (pa.string(), ["a", "b", "a"]),
        },
    )
    (tmp_path / "classnames.txt").write_text("x\ny\nz\n")
    dataset = TableDataset(tmp_path)
    assert targets_of(dataset).tolist() == [[True, False, True], [False] * 3, [False, True, False]]
    assert [dataset.group(i) for i in range(3)] == ["a", "b", "a"]


def test_rows_of_one_language_are_chosen(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "image": images(4),
            "text": (pa.string(), ["one", "eins", "two", "zwei"]),
            "lang": (pa.string(), ["en", "de", "en", "de"]),
        },
    )
    columns = Columns(captions=("text",), language="lang")
    german = TableDataset(tmp_path, columns=columns, language="de")
    assert [german.captions(i) for i in range(len(german))] == [("eins",), ("zwei",)]
    assert german.item_id(1).endswith(":3")
    english = TableDataset(tmp_path, columns=columns, language="en")
    assert german.source_fingerprint() != english.source_fingerprint()
    with pytest.raises(UsageError, match="unknown language 'dee'"):
        TableDataset(tmp_path, columns=columns, language="dee")


def test_class_names_stand_in_a_file_where_labels_are_words(tmp_path: Path) -> None:
    write(tmp_path, {"image": images(2), "label": (pa.string(), ["cat", "dog"])})
    with pytest.raises(DataError, match="nothing names the classes") as caught:
        TableDataset(tmp_path)
    assert "classnames.txt" in caught.value.remedy
    (tmp_path / "classnames.txt").write_text("dog\ncat\n")
    assert labels_of(TableDataset(tmp_path)).tolist() == [1, 0]
    (tmp_path / "classnames.txt").write_text("dog\ncats\n")
    with pytest.raises(DataError, match="unknown class 'cat'") as caught:
        TableDataset(tmp_path)
    assert "'cats'" in caught.value.remedy and "parquet:0" in caught.value.where


@pytest.mark.parametrize("label", [None, 1.5])
def test_a_label_that_is_no_integer_is_named(label: object, tmp_path: Path) -> None:
    write(tmp_path, {"image": images(2), "label": (pa.float64() if label else pa.int64(), [label, label])})
    (tmp_path / "classnames.txt").write_text("dog\ncat\n")
    with pytest.raises(DataError, match="not an integer") as caught:
        TableDataset(tmp_path)
    assert "parquet:0" in caught.value.where


def test_a_damaged_image_names_file_row_and_index(tmp_path: Path) -> None:
    copies.write_nocaps(tmp_path, PAIRS)
    path = tmp_path / "data/validation-00001-of-00002.parquet"
    table = pq.read_table(path)
    rows = table.column("image").to_pylist()
    rows[4]["bytes"] = rows[4]["bytes"][:60]
    rows[5] = None
    column = pa.array(rows, copies.HF_IMAGE)
    pq.write_table(table.set_column(0, table.schema.field("image"), column), path, row_group_size=3)
    dataset = TableDataset(tmp_path)
    with pytest.raises(CorruptImage, match="cannot be decoded") as caught:
        dataset.image(14, (8, 8))
    assert "00001-of-00002.parquet:4 (image_id 14) (image 14)" in caught.value.where
    with pytest.raises(CorruptImage, match="no image"):
        dataset.image(15, (8, 8))
    dataset.image(13, (8, 8))


def test_a_table_of_paths_without_its_images_says_so(tmp_path: Path) -> None:
    copies.write_metadata(tmp_path / "set", PAIRS)
    before = TableDataset(tmp_path / "set").source_fingerprint()
    (tmp_path / "set/images/3.png").write_bytes(png(99))
    assert TableDataset(tmp_path / "set").source_fingerprint() != before
    (tmp_path / "set/images/3.png").unlink()
    with pytest.raises(DataError, match=r"images/3.png cannot be read") as caught:
        TableDataset(tmp_path / "set").image(3, (8, 8))
    assert "copy the images" in caught.value.remedy and not isinstance(caught.value, CorruptImage)


def test_a_partial_table_is_refused(tmp_path: Path) -> None:
    copies.write_nocaps(tmp_path, PAIRS, shards=3)
    shard = tmp_path / "data/validation-00001-of-00003.parquet"
    content = shard.read_bytes()
    shard.unlink()
    with pytest.raises(DataError, match="misses 00001-of-00003"):
        TableDataset(tmp_path)
    for keep in (0, 10, len(content) // 2, len(content) - 5):
        shard.write_bytes(content[:keep])
        with pytest.raises(DataError, match="cannot be read") as caught:
            TableDataset(tmp_path)
        assert caught.value.where == str(shard)
    (tmp_path / "numbered").mkdir()
    for k in (0, 2):
        (tmp_path / "numbered" / f"{k:04d}.parquet").write_bytes(content)
    with pytest.raises(DataError, match=r"misses 0001.parquet"):
        TableDataset(tmp_path, "numbered")


def test_a_saved_data_set_without_one_of_its_files_is_refused(tmp_path: Path) -> None:
    copies.write_saved(tmp_path / "set", PAIRS)
    shard = tmp_path / "set/data-00001-of-00002.arrow"
    content = shard.read_bytes()
    for keep in (0, len(content) // 2, len(content) - 8):
        shard.write_bytes(content[:keep])
        with pytest.raises(DataError, match="cannot be read") as caught:
            TableDataset(tmp_path / "set")
        assert caught.value.where == str(shard)
    shard.unlink()
    with pytest.raises(DataError, match="names files that are missing: data-00001"):
        TableDataset(tmp_path / "set")


def test_rows_are_counted_against_the_card(tmp_path: Path) -> None:
    copies.write_nocaps(tmp_path, PAIRS)
    card = "---\ndataset_info:\n  splits:\n  - name: validation\n    num_examples: {}\n---\n# NoCaps\n"
    (tmp_path / "README.md").write_text(card.format(N))
    check_count(TableDataset(tmp_path), None)
    (tmp_path / "README.md").write_text(card.format(N + 1))
    with pytest.raises(DataError, match=f"{N} images are there, its source says {N + 1}"):
        check_count(TableDataset(tmp_path), None)
    (tmp_path / "README.md").write_text("---\n: [\n---\n")
    check_count(TableDataset(tmp_path), None)


def test_an_id_that_stands_twice_is_refused(tmp_path: Path) -> None:
    columns = {"image": images(3), "text": (pa.string(), ["a", "b", "c"]), "id": (pa.int64(), [7, 8, 7])}
    write(tmp_path, columns)
    with pytest.raises(DataError, match="id '7' is used twice") as caught:
        TableDataset(tmp_path)
    assert ":0" in caught.value.where and ":2" in caught.value.where


def test_a_fingerprint_follows_content_and_columns(tmp_path: Path) -> None:
    copies.write_flickr8k(tmp_path / "a", PAIRS)
    copies.write_flickr8k(tmp_path / "b", ScenesDataset("scenes-captions", N + 1))
    first = TableDataset(tmp_path / "a").source_fingerprint()
    assert first == TableDataset(tmp_path / "a").source_fingerprint()
    assert first != TableDataset(tmp_path / "b").source_fingerprint()
    one = TableDataset(tmp_path / "a", columns=Columns(captions=("caption_1",)))
    assert one.captions(0) == PAIRS.captions(0)[1:2] and one.source_fingerprint() != first
