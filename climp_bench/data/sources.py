"""What lies in a folder, and the source that reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from climp_bench.data.columns import Columns
from climp_bench.data.dataset import Dataset
from climp_bench.data.folder_source import FolderDataset, splits_with_classes
from climp_bench.data.table_files import holds_table, splits_of
from climp_bench.data.table_source import TableDataset
from climp_bench.data.webdataset import WebDataset
from climp_bench.errors import DataError
from climp_bench.files import Digest, sha256_file

Form = Literal["webdataset", "table", "images"]
FORMS = (
    "SPLIT/nshards.txt and SPLIT/0.tar ... (webdataset); *.parquet, save_to_disk or metadata.csv (tables); "
    "CLASS/IMAGE (folders of images)"
)


def form_of(folder: Path) -> Form | None:
    """What a folder holds, whole or not; None if it is nothing that any source reads."""
    if not folder.is_dir():
        return None
    if any(folder.glob("*/nshards.txt")) or any(folder.glob("*/*.tar")):
        return "webdataset"
    if holds_table(folder):
        return "table"
    return "images" if splits_with_classes(folder) else None


def has_split(folder: Path, split: str) -> bool:
    """Whether ``folder`` holds a data set with a split of that name."""
    form = form_of(folder)
    if form == "webdataset":
        return (folder / split / "nshards.txt").is_file()
    if form == "table":
        return split in splits_of(folder)
    return form == "images" and split in splits_with_classes(folder)


def open_folder(
    folder: Path,
    name: str,
    *,
    split: str | None = None,
    columns: Columns | None = None,
    language: str | None = None,
    digest: Digest = sha256_file,
) -> Dataset:
    """The data set in a folder, whatever its form.

    Args:
        folder: the data set.
        name: what it is called in messages and records.
        split: which split; that of a webdataset is ``test`` unless given, else the source's usual one.
        columns: of a table; recognised by their usual names unless given.
        language: of a table with a column of languages.
        digest: sha256 of a file, where it is known without reading.

    Raises:
        DataError: the folder holds nothing that any source reads, or something that is not whole.
    """
    form = form_of(folder)
    if form == "webdataset":
        return WebDataset(folder, split or "test", name, digest)
    if form == "table":
        return TableDataset(folder, split, name, columns=columns, language=language, digest=digest)
    if form == "images":
        return FolderDataset(folder, split, name, digest)
    raise DataError("no data set is here", where=str(folder), remedy=f"Known forms: {FORMS}.")
