"""Columns: known layouts, recognition by the usual names, near matches for what is missing."""

from __future__ import annotations

import pytest

from climp_bench.data.columns import LAYOUTS, Columns, check_columns, recognise
from climp_bench.errors import DataError

PUBLISHED = {
    "nocaps": [
        "image", "image_coco_url", "image_date_captured", "image_file_name", "image_height", "image_width",
        "image_id", "image_license", "image_open_images_id", "annotations_ids", "annotations_captions",
    ],
    "xm3600": [
        "image_id", "image_locale", "captions", "captions_tokenized", "captions_tokenized_lowercase", "image",
    ],
    "docci": ["image", "example_id", "description"],
    "flickr8k": ["image", *(f"caption_{k}" for k in range(5))],
    "flickr30k": ["image", "caption", "sentids", "img_id", "filename"],
    "cifar10": ["img", "label"],
}  # fmt: skip
"""All columns of the published copies, as their cards list them."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_table_has_the_columns_of_its_layout_and_is_recognised_without_it(name: str) -> None:
    layout = LAYOUTS.get(name)
    check_columns(layout, PUBLISHED[name], name)
    found = recognise(PUBLISHED[name], name)
    assert (found.image, found.captions, found.label) == (layout.image, layout.captions, layout.label)


def test_numbered_captions_come_in_the_order_of_their_numbers() -> None:
    names = ["caption_10", "image", "caption_9", "caption_2"]
    assert recognise(names, "t").captions == ("caption_2", "caption_9", "caption_10")


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["picture", "label"], "no column of images; its columns are picture, label"),
        (["image", "x"], "no column of captions or labels"),
        (["image", "label", "caption"], "both captions and labels"),
        ([], "its columns are none"),
    ],
)
def test_a_table_that_cannot_be_recognised_lists_its_columns(names: list[str], says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        recognise(names, "the table")
    assert caught.value.where == "the table" and caught.value.remedy


def test_a_missing_column_is_named_with_what_it_may_be() -> None:
    names = ["image", "annotation_caption", "image_id"]
    with pytest.raises(DataError, match="no column 'annotations_captions'") as caught:
        check_columns(LAYOUTS.get("nocaps"), names, "a.parquet")
    assert "may be 'annotation_caption'" in caught.value.remedy


def test_columns_are_of_one_kind() -> None:
    with pytest.raises(ValueError, match="either captions or a label"):
        Columns()
    with pytest.raises(ValueError, match="either captions or a label"):
        Columns(label="label", captions=("text",))
