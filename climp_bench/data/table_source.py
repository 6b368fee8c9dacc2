"""Tables of images: Parquet and Arrow as ``datasets`` and the Hugging Face hub hold them, or ``imagefolder``.

Read with pyarrow where they lie: nothing is converted or copied. Labels and captions are read when the data
set is opened, images one row group at a time when they are asked for.
"""

from __future__ import annotations

import bisect
import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from climp_bench.data.columns import Columns, check_columns, recognise
from climp_bench.data.dataset import Dataset, Image
from climp_bench.data.decoding import OR_SKIP, CorruptImage, decode
from climp_bench.data.image_digests import digest_files, remembered
from climp_bench.data.table_files import (
    Chunk,
    choose_split,
    chunks_of,
    read_cell,
    read_columns,
    read_schema,
    splits_of,
)
from climp_bench.data.textfiles import CLASSNAMES, read_classnames, read_templates
from climp_bench.errors import DataError
from climp_bench.files import Digest, sha256_file
from climp_bench.registry import unknown

log = logging.getLogger(__name__)


class TableDataset(Dataset):
    """One split of a folder of tables; one row is one image.

    Args:
        folder: with Parquet files in any of the hub's arrangements, of ``save_to_disk``, or with a
            ``metadata.csv`` or ``metadata.jsonl`` that has paths of images beside it.
        split: which one; ``test``, ``validation``, ``val`` or the only one unless given.
        name: the data set's name; the folder's name unless given.
        columns: what is where; recognised by the usual names unless given.
        language: keep only rows whose language column says so.
        digest: sha256 of a file, for sources that know it without reading.

    Raises:
        DataError: no such split, files missing or cut off, columns missing, labels without class names, an
            id that is used twice. The message names the file.
    """

    def __init__(
        self,
        folder: Path,
        split: str | None = None,
        name: str | None = None,
        *,
        columns: Columns | None = None,
        language: str | None = None,
        digest: Digest = sha256_file,
    ) -> None:
        self.root, self._digest = Path(folder), digest
        self.name = name or self.root.name
        splits = splits_of(self.root)
        if not splits:
            raise DataError("no table of images", where=str(folder), remedy="Check --data-root.")
        self.split = choose_split(list(splits), split, str(folder))
        self._files = splits[self.split]
        schema = read_schema(self._files[0])
        self.columns = columns or recognise(schema.names, str(self._files[0]))
        for path in self._files:
            check_columns(self.columns, read_schema(path).names, str(path))
        self._chunks = [chunk for path in self._files for chunk in chunks_of(path) if chunk.rows]
        self._starts = _running(self._chunks)
        self._read_annotations(schema, language)
        self.n_expected = len(self._rows)
        stated = _stated(self.root, self.split)
        if stated is not None and language is None:
            self.n_expected = stated
        self._fingerprint: str | None = None
        self._images_fingerprint: str | None = None

    def _read_annotations(self, schema: Any, language: str | None) -> None:
        names = self.columns.annotations
        parts = [read_columns(path, names) for path in self._files]
        table = {name: [value for part in parts for value in part[name]] for name in names}
        total = sum(chunk.rows for chunk in self._chunks)
        self._rows: Sequence[int] = range(total)
        if language is not None:
            if self.columns.language is None:
                raise DataError(f"no column says which rows are {language!r}", where=self.name)
            spoken = table[self.columns.language]
            self._rows = [row for row in range(total) if spoken[row] == language]
            if not self._rows:
                raise unknown("language", language, {str(word) for word in spoken})
        self._language = language
        self._ids = [str(value) for value in table[self.columns.id]] if self.columns.id else None
        self._groups = table[self.columns.group] if self.columns.group else None
        self._labels: list[Any] | None = None
        self._captions: list[tuple[str, ...]] | None = None
        if self.columns.label is None:
            self.kind = "retrieval"
            self._captions = [_captions(table, self.columns, row) for row in range(total)]
        else:
            self._read_labels(table[self.columns.label], schema)
        self._check_ids()

    def _read_labels(self, labels: list[Any], schema: Any) -> None:
        several = any(isinstance(label, list) for label in labels)
        self.kind = "multilabel" if several else "classification"
        classes = read_classnames(self.root) or _class_names(schema, str(self.columns.label))
        if classes is None:
            raise DataError(
                f"nothing names the classes of column {self.columns.label!r}",
                where=str(self._files[0]),
                remedy=f"Write them, one a line, to {self.root / CLASSNAMES}.",
            )
        self.classes, self.templates = classes, read_templates(self.root)
        index = {word: k for k, word in reversed(list(enumerate(classes)))}
        self._labels = [self._as_index(label, row, index) for row, label in enumerate(labels)]

    def _as_index(self, label: Any, row: int, index: dict[str, int]) -> Any:
        if isinstance(label, list):
            return [self._as_index(one, row, index) for one in label]
        if isinstance(label, str):
            if label not in index:
                near = unknown("class", label, index)
                raise DataError(near.what, where=self._place(row), remedy=near.remedy)
            return index[label]
        if isinstance(label, bool) or not isinstance(label, int):
            raise DataError(f"the label is not an integer ({label!r})", where=self._place(row))
        return label

    def _check_ids(self) -> None:
        first: dict[str, int] = {}
        for row in self._rows if self._ids is not None else ():
            own = (self._ids or [])[row]
            if own in first:
                raise DataError(
                    f"{self.columns.id} {own!r} is used twice",
                    where=f"{self._place(first[own])} and {self._place(row)}",
                    remedy="One row an image is needed: is a file a copy, or has every caption its own row?",
                )
            first[own] = row

    def __len__(self) -> int:
        return len(self._rows)

    def item_id(self, index: int) -> str:
        return self._place(self._rows[index])

    def _place(self, row: int) -> str:
        chunk, offset = self._find(row)
        own = f" ({self.columns.id} {self._ids[row]})" if self._ids else ""
        return f"{chunk.path.name}:{chunk.first + offset}{own}"

    def _find(self, row: int) -> tuple[Chunk, int]:
        k = bisect.bisect_right(self._starts, row) - 1
        return self._chunks[k], row - self._starts[k]

    def image(self, index: int, size: tuple[int, int]) -> Image:
        where = f"{self.name}: {self.item_id(index)} (image {index})"
        return decode(self._content(index, where), where=where, remedy=f"Replace that row. {OR_SKIP}")

    def _content(self, index: int, where: str) -> bytes:
        chunk, offset = self._find(self._rows[index])
        cell = read_cell(chunk, self.columns.image, offset)
        path = cell.get("path") if isinstance(cell, dict) else cell
        content = cell.get("bytes") if isinstance(cell, dict) else cell
        if isinstance(content, bytes):
            return content
        if not isinstance(path, str):
            raise CorruptImage("the row has no image", where=where, remedy=f"Replace that row. {OR_SKIP}")
        file = chunk.path.parent / path
        try:
            return file.read_bytes()
        except OSError as error:
            remedy = "The table has paths only: copy the images with it."
            raise DataError(
                f"{path} cannot be read ({error.strerror})", where=where, remedy=remedy
            ) from error

    def label(self, index: int) -> int:
        if self.kind != "classification" or self._labels is None:
            return super().label(index)
        return int(self._labels[self._rows[index]])

    def positives(self, index: int) -> tuple[int, ...]:
        if self.kind != "multilabel" or self._labels is None:
            return super().positives(index)
        return tuple(sorted(set(self._labels[self._rows[index]])))

    def captions(self, index: int) -> tuple[str, ...]:
        if self._captions is None:
            return super().captions(index)
        return self._captions[self._rows[index]]

    def group(self, index: int) -> str | None:
        return None if self._groups is None else str(self._groups[self._rows[index]])

    def source_fingerprint(self) -> str:
        if self._fingerprint is None:
            parts = [repr(self.columns), str(self._language), *(self._digest(path) for path in self._files)]
            if self._has_paths():
                for i in range(len(self)):
                    parts.append(hashlib.sha256(self._content(i, self.item_id(i))).hexdigest())
            self._fingerprint = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        return self._fingerprint

    def images_fingerprint(self) -> str:
        if self._images_fingerprint is None:
            indices = range(len(self))
            self._images_fingerprint = remembered(
                self.source_fingerprint(), lambda: digest_files(map(self._digest_image, indices))
            )
        return self._images_fingerprint

    def _digest_image(self, index: int) -> str:
        try:
            return hashlib.sha256(self._content(index, self.item_id(index))).hexdigest()
        except CorruptImage:
            return "no image"

    def _has_paths(self) -> bool:
        """Whether the images lie outside of the tables, as far as the first row tells."""
        chunk, offset = self._find(self._rows[0])
        cell = read_cell(chunk, self.columns.image, offset)
        return isinstance(cell, str) or (isinstance(cell, dict) and not isinstance(cell.get("bytes"), bytes))


def _running(chunks: Sequence[Chunk]) -> list[int]:
    """The row that each chunk starts at, over all files."""
    starts, row = [], 0
    for chunk in chunks:
        starts.append(row)
        row += chunk.rows
    return starts


def _captions(table: dict[str, list[Any]], columns: Columns, row: int) -> tuple[str, ...]:
    texts: list[str] = []
    for name in columns.captions:
        value = table[name][row]
        texts.extend(
            str(text) for text in (value if isinstance(value, list) else [value]) if text is not None
        )
    return tuple(texts)


def _class_names(schema: Any, column: str) -> tuple[str, ...] | None:
    """Class names that ``datasets`` keeps in the schema (a ``ClassLabel``, or a list of them)."""
    noted = (schema.metadata or {}).get(b"huggingface")
    feature = json.loads(noted).get("info", {}).get("features", {}).get(column) if noted else None
    if isinstance(feature, list):
        feature = feature[0]
    while isinstance(feature, dict) and isinstance(feature.get("feature"), dict):
        feature = feature["feature"]
    names = feature.get("names") if isinstance(feature, dict) else None
    return tuple(str(name) for name in names) if names else None


def _stated(folder: Path, split: str) -> int | None:
    """How many rows the repository's card says a split has, if it says so."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    from huggingface_hub import DatasetCard

    try:
        info = DatasetCard.load(card).data.to_dict().get("dataset_info")
    except Exception as error:  # a card is free text: whatever is wrong with it, the data may be whole
        log.warning("%s: not read (%s); the number of rows is not checked against it.", card, error)
        return None
    for part in info if isinstance(info, list) else [info]:
        for stated in (part or {}).get("splits") or []:
            if stated.get("name") == split and "num_examples" in stated:
                return int(stated["num_examples"])
    return None
