"""Webdataset folders: read right, and every fault named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from climp_bench.data.catalogue import open_dataset
from climp_bench.data.dataset import captions_of, check_count, labels_of, targets_of
from climp_bench.data.prompts import render
from climp_bench.data.webdataset import WebDataset
from climp_bench.errors import DataError, UsageError
from tests.conftest import png, write_tar

Make = Callable[..., Path]


def test_samples_come_in_shard_order_whatever_the_index_order(make_wds: Make) -> None:
    dataset = WebDataset(make_wds())
    assert len(dataset) == 10
    assert labels_of(dataset).tolist() == [i % 3 for i in range(10)]
    backwards = [dataset.image(i, (8, 8)) for i in reversed(range(10))][::-1]
    for i, image in enumerate(backwards):
        expected = np.asarray(Image.open(__import__("io").BytesIO(png(i))).convert("RGB"))
        np.testing.assert_array_equal(image, expected)


def test_agrees_with_the_webdataset_library(make_wds: Make) -> None:
    import webdataset

    root = make_wds(shards=3, per_shard=4)
    dataset = WebDataset(root)
    stream = webdataset.WebDataset(str(root / "test" / "{0..2}.tar"), shardshuffle=False, empty_check=False)
    theirs = [(sample["png"], int(sample["cls"])) for sample in stream]
    assert len(theirs) == len(dataset)
    assert [label for _, label in theirs] == labels_of(dataset).tolist()


def test_blank_class_lines_are_kept(make_wds: Make) -> None:
    root = make_wds()
    (root / "classnames.txt").write_text("near\n\nfar\n")
    assert WebDataset(root).classes == ("near", "", "far")


def test_retrieval_and_multilabel(tmp_path: Path) -> None:
    import io

    root = tmp_path / "pairs"
    write_tar(
        root / "test/0.tar",
        [("a.png", png(0)), ("a.txt", b"one\ntwo"), ("b.png", png(1)), ("b.txt", b"three")],
    )
    (root / "test/nshards.txt").write_text("1")
    (root / "dataset_type.txt").write_text("retrieval\n")
    texts, image_of = captions_of(WebDataset(root))
    assert texts == ["one", "two", "three"] and image_of.tolist() == [0, 0, 1]

    many = tmp_path / "many"
    buffer = io.BytesIO()
    np.save(buffer, np.array([1, 0, 1]))
    write_tar(many / "test/0.tar", [("a.png", png(0)), ("a.npy", buffer.getvalue())])
    (many / "test/nshards.txt").write_text("1")
    (many / "dataset_type.txt").write_text("multilabel")
    (many / "classnames.txt").write_text("x\ny\nz\n")
    assert targets_of(WebDataset(many)).tolist() == [[True, False, True]]


def _fault(call: Callable[[], object]) -> str:
    with pytest.raises(DataError) as caught:
        call()
    return str(caught.value)


def test_shard_counts_must_agree(make_wds: Make) -> None:
    root = make_wds()
    (root / "test/nshards.txt").write_text("3")
    assert "missing 2.tar" in _fault(lambda: WebDataset(root))
    (root / "test/nshards.txt").write_text("1")
    assert "not counted 1.tar" in _fault(lambda: WebDataset(root))
    (root / "test/nshards.txt").write_text("many")
    assert "'many'" in _fault(lambda: WebDataset(root))
    (root / "test/nshards.txt").unlink()
    assert "nshards.txt" in _fault(lambda: WebDataset(root))


def test_a_cut_off_tar_is_refused(make_wds: Make) -> None:
    root = make_wds()
    shard = root / "test/1.tar"
    whole = shard.read_bytes()
    for keep in (0, 700, 2000):
        shard.write_bytes(whole[:keep])
        assert "1.tar" in _fault(lambda: WebDataset(root))


def test_bad_members_are_named(make_wds: Make) -> None:
    root = make_wds(shards=1)
    write_tar(root / "test/0.tar", [("a.png", b"not a picture"), ("a.cls", b"0")])
    assert "0.tar:a.png" in _fault(lambda: WebDataset(root).image(0, (8, 8)))
    whole = png(0, (64, 64))
    write_tar(root / "test/0.tar", [("a.png", whole[: len(whole) // 2]), ("a.cls", b"0")])
    assert "0.tar:a.png" in _fault(lambda: WebDataset(root).image(0, (8, 8)))
    write_tar(root / "test/0.tar", [("a.png", png(0)), ("a.cls", b"cat")])
    assert "'cat'" in _fault(lambda: labels_of(WebDataset(root)))
    write_tar(root / "test/0.tar", [("a.png", png(0)), ("a.cls", b"7")])
    assert "label 7 is outside 0..2" in _fault(lambda: labels_of(WebDataset(root)))
    write_tar(root / "test/0.tar", [("a.png", png(0))])
    assert ".cls" in _fault(lambda: WebDataset(root))
    write_tar(root / "test/0.tar", [("a.cls", b"0")])
    assert "without an image" in _fault(lambda: WebDataset(root))


def test_ids_must_be_unique_within_and_between_shards(make_wds: Make) -> None:
    root = make_wds()
    sample = [("a.png", png(0)), ("a.cls", b"0")]
    write_tar(root / "test/0.tar", sample)
    write_tar(root / "test/1.tar", sample)
    assert "'a' is used twice" in _fault(lambda: WebDataset(root))
    write_tar(root / "test/1.tar", [*[("b.png", png(0)), ("b.cls", b"0")], ("b.png", png(1))])
    assert "stands twice" in _fault(lambda: WebDataset(root))


def test_empty_captions_are_named(tmp_path: Path) -> None:
    root = tmp_path / "pairs"
    write_tar(root / "test/0.tar", [("a.png", png(0)), ("a.txt", b"one\n \nthree")])
    (root / "test/nshards.txt").write_text("1")
    (root / "dataset_type.txt").write_text("retrieval")
    assert "caption 1 is empty" in _fault(lambda: captions_of(WebDataset(root)))
    write_tar(root / "test/0.tar", [("a.png", png(0)), ("a.txt", b"")])
    assert "no caption" in _fault(lambda: captions_of(WebDataset(root)))


def test_counts_are_checked(make_wds: Make) -> None:
    dataset = WebDataset(make_wds())
    check_count(dataset, 10)
    assert "10 images are there, the suite says 11" in _fault(lambda: check_count(dataset, 11))


def test_folders_are_found_under_data_roots_with_near_matches(make_wds: Make) -> None:
    root = make_wds("wds_vtab-toys")
    assert len(open_dataset("vtab/toys", [root.parent])) == 10
    with pytest.raises(UsageError, match="wds_vtab-toys"):
        open_dataset("wds_vtab_toys", [root.parent])
    with pytest.raises(UsageError, match="no such folder"):
        open_dataset("toy", [root / "nowhere"])


def test_fingerprint_follows_content(make_wds: Make) -> None:
    root = make_wds()
    before = WebDataset(root).fingerprint()
    assert before == WebDataset(root).fingerprint()
    write_tar(root / "test/1.tar", [("z.png", png(77)), ("z.cls", b"1")])
    assert WebDataset(root).fingerprint() != before


def _one(root: Path, name: str, content: bytes, target: tuple[str, bytes] = ("cls", b"0")) -> Path:
    write_tar(root / "test/0.tar", [(f"{name}.png", content), (f"{name}.{target[0]}", target[1])])
    (root / "test/nshards.txt").write_text("1")
    (root / "classnames.txt").write_text("a\nb\n")
    return root


def test_keys_split_as_in_the_webdataset_library(tmp_path: Path) -> None:
    root = _one(tmp_path / "dotted", "./part.1/7", png(0))
    write_tar(
        root / "test/0.tar",
        [("./x.1/7.png", png(0)), ("./x.1/7.cls", b"1"), ("./x.1/._7.png", b"mac"), (".DS_Store", b"")],
    )
    dataset = WebDataset(root)
    assert len(dataset) == 1 and dataset.item_id(0) == "0.tar:x.1/7" and dataset.label(0) == 1


@pytest.mark.parametrize(
    "name",
    ["classnames.txt", "dataset_type.txt", "zeroshot_classification_templates.txt", "test/nshards.txt"],
)
def test_a_text_file_that_is_not_utf8_is_named(tmp_path: Path, name: str) -> None:
    root = _one(tmp_path / "bytes", "0", png(0))
    (root / name).write_bytes(b"\xff")
    with pytest.raises(DataError, match="cannot be read") as caught:
        WebDataset(root)
    assert caught.value.where == str(root / name)


@pytest.mark.parametrize("count", ["99999999999", "9" * 5000])
def test_an_absurd_number_of_shards_is_refused_at_once(tmp_path: Path, count: str) -> None:
    root = _one(tmp_path / "many", "0", png(0))
    (root / "test/nshards.txt").write_text(count)
    with pytest.raises(DataError, match="not a number of shards"):
        WebDataset(root)


def _npy(values: object) -> bytes:
    import io

    buffer = io.BytesIO()
    np.save(buffer, np.asarray(values))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content", [b"", _npy([np.nan, 0.0]), _npy([0.5, 0.0]), _npy(["0", "1"]), _npy([2, 0])]
)
def test_targets_that_are_not_multi_hot_are_refused(tmp_path: Path, content: bytes) -> None:
    root = _one(tmp_path / "tags", "0", png(0), ("npy", content))
    (root / "dataset_type.txt").write_text("multilabel")
    with pytest.raises(DataError, match="targets") as caught:
        WebDataset(root).positives(0)
    assert "0.tar:0.npy" in caught.value.where


def test_an_image_of_too_many_pixels_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = _one(tmp_path / "bomb", "0", png(0))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4)
    with pytest.raises(DataError, match="cannot be decoded") as caught:
        WebDataset(root).image(0, (8, 8))
    assert "0.tar:0.png" in caught.value.where


def test_sixteen_bit_images_are_scaled_not_clipped(tmp_path: Path) -> None:
    import io

    buffer = io.BytesIO()
    Image.fromarray(np.array([[0, 0x4080], [0x8000, 0xFFFF]], dtype=np.uint16)).save(buffer, "PNG")
    image = WebDataset(_one(tmp_path / "deep", "0", buffer.getvalue())).image(0, (8, 8))
    assert image.shape == (2, 2, 3) and image[..., 0].tolist() == [[0, 0x40], [0x80, 0xFF]]


def test_a_template_without_a_place_for_the_class_is_refused() -> None:
    with pytest.raises(DataError, match=r"template 2 .* no \{c\}"):
        render(["a"], ["a {c}", "a photo"])
