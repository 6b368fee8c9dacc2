"""The files of a table of images: which belong to a split, and how their rows are read.

Formats: Parquet as the Hugging Face hub holds it, Arrow streams as ``datasets.save_to_disk`` writes them, and
``metadata.csv`` or ``metadata.jsonl`` beside image files (``imagefolder``).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from climp_bench.data.textfiles import read_text
from climp_bench.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

STATE, SPLITS = "state.json", "dataset_dict.json"
METADATA = ("metadata.csv", "metadata.jsonl")
USUAL_SPLITS = ("test", "validation", "val")
"""Which split is evaluated where none is named, best first."""
_PARQUET = re.compile(r"(?P<stem>.*?)(?:-(?P<k>\d{5})-of-(?P<n>\d{5})(?:-[0-9a-f]{16})?)?\.parquet")

_END = b"\xff\xff\xff\xff\0\0\0\0"
"""The last bytes of an Arrow stream. One cut off between two batches would be read without complaint."""


@dataclass(frozen=True)
class Chunk:
    """Rows that are read together: a row group of Parquet, a batch of Arrow, a whole text file.

    Attributes:
        path: the file.
        number: of the chunk in the file.
        first: row of the file that the chunk starts at.
        rows: how many it has.
        stamp: time of the file's last change in nanoseconds; another one is another content.
    """

    path: Path
    number: int
    first: int
    rows: int
    stamp: int


def splits_of(folder: Path) -> dict[str, list[Path]]:
    """Splits of a folder and the files of each, in order; nothing if it holds no table.

    Parquet: ``data/SPLIT-00000-of-00003.parquet``, ``CONFIG/SPLIT/0000.parquet``, ``SPLIT.parquet`` and the
    like. Of ``save_to_disk``: the splits of ``dataset_dict.json``, or one called ``all``.

    Raises:
        DataError: files of a split are missing, or lie in several folders.
    """
    if (folder / SPLITS).is_file():
        names = _json(folder / SPLITS).get("splits")
        if not isinstance(names, list):
            raise DataError("names no splits", where=str(folder / SPLITS), remedy="Save the data set again.")
        return {str(name): _arrow_files(folder / str(name)) for name in names}
    if (folder / STATE).is_file():
        name = folder.name if (folder.parent / SPLITS).is_file() else "all"
        return {name: _arrow_files(folder)}
    for name in METADATA:
        if (folder / name).is_file():
            return {"all": [folder / name]}
        if found := sorted(folder.glob(f"*/{name}")):
            return {path.parent.name: [path] for path in found}
    return _parquet_splits(folder)


def holds_table(folder: Path) -> bool:
    """Whether a folder holds a table, whole or not."""
    marks = (STATE, SPLITS, *METADATA, *(f"*/{name}" for name in METADATA))
    return any(any(folder.glob(mark)) for mark in (*marks, "*.parquet", "*/*.parquet", "*/*/*.parquet"))


def choose_split(splits: Sequence[str], asked: str | None, where: str) -> str:
    """The split that is asked for, else ``test``, ``validation`` or ``val``, else the only one.

    Raises:
        DataError: there is no such split, or several and none of the usual names.
    """
    if asked is not None and asked in splits:
        return asked
    there = ", ".join(splits)
    if asked is not None:
        if list(splits) == ["all"]:
            return "all"
        remedy = f"Its splits are {there}."
        raise DataError(f"there is no split {asked!r}", where=where, remedy=remedy)
    usual = next((name for name in USUAL_SPLITS if name in splits), None)
    if usual is None and len(splits) != 1:
        remedy = f"Name one as FOLDER/SPLIT; its splits are {there}."
        raise DataError("none of its splits is called test or validation", where=where, remedy=remedy)
    return usual or splits[0]


def _arrow_files(folder: Path) -> list[Path]:
    state = folder / STATE
    if not state.is_file():
        raise DataError("missing", where=str(state), remedy="Save the data set again (save_to_disk).")
    listed = _json(state).get("_data_files") or []
    names = [str(entry.get("filename")) for entry in listed if isinstance(entry, dict)]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing or not names:
        what = f"state.json names files that are missing: {', '.join(missing[:5])}" if missing else "no files"
        raise DataError(what, where=str(folder), remedy="Copy the whole folder, or save it again.")
    return [folder / name for name in names]


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_text(path))
    except ValueError as error:
        raise DataError(f"not valid JSON ({error})", where=str(path), remedy="Save it again.") from error
    if not isinstance(content, dict):
        raise DataError("not a JSON object", where=str(path), remedy="Save it again.")
    return content


def _parquet_splits(folder: Path) -> dict[str, list[Path]]:
    found: dict[str, list[tuple[Path, str | None, str | None]]] = {}
    for pattern in ("*.parquet", "*/*.parquet", "*/*/*.parquet"):
        for path in sorted(folder.glob(pattern)):
            match = _PARQUET.fullmatch(path.name)
            if match is None:
                continue
            stem = match["stem"]
            split = path.parent.name if stem.isdecimal() else stem.rpartition("-")[2]
            found.setdefault(split, []).append((path, match["k"], match["n"]))
    for split, files in found.items():
        _check_whole(split, files, folder)
    return {split: [path for path, _, _ in files] for split, files in found.items()}


def _check_whole(split: str, files: list[tuple[Path, str | None, str | None]], folder: Path) -> None:
    places = {path.parent for path, _, _ in files}
    if len(places) > 1:
        names = ", ".join(sorted(str(place.relative_to(folder)) for place in places))
        remedy = "Name the one that is meant: --data-root FOLDER and its name."
        raise DataError(
            f"the split {split!r} lies in several folders: {names}", where=str(folder), remedy=remedy
        )
    counts = {n for _, _, n in files}
    if counts == {None}:
        stems = [path.stem for path, _, _ in files]
        missing = _gaps(stems) if all(stem.isdecimal() for stem in stems) else []
    else:
        expected = {f"{k:05d}-of-{n}" for n in counts if n for k in range(int(n))}
        missing = sorted(expected - {f"{k}-of-{n}" for _, k, n in files})
        if len(counts) > 1:
            remedy = "Files of two versions lie here: keep those of one."
            raise DataError(f"the split {split!r} is cut in different ways", where=str(folder), remedy=remedy)
    if missing or len({k for _, k, _ in files}) not in (1, len(files)):
        what = (
            f"the split {split!r} misses {', '.join(missing[:5])}" if missing else f"{split!r} is there twice"
        )
        raise DataError(
            what, where=str(folder), remedy="A partial data set gives a wrong score: fetch it again."
        )


def _gaps(stems: Sequence[str]) -> list[str]:
    present = {int(stem) for stem in stems}
    return [f"{k:0{len(stems[0])}d}.parquet" for k in range(max(present)) if k not in present]


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, EOFError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"the table cannot be read ({first})", where=str(path), remedy="Fetch it again."
        ) from error


def read_schema(path: Path) -> pa.Schema:
    """Names and types of the columns, with what ``datasets`` noted of them."""
    import pyarrow.parquet as pq

    with _readable(path):
        return pq.read_schema(path) if path.suffix == ".parquet" else _table(path, _stamp(path)).schema


def chunks_of(path: Path) -> list[Chunk]:
    """The chunks of a file, in order. Raises ``DataError`` if it is cut off or no table."""
    import pyarrow.parquet as pq

    stamp = _stamp(path)
    with _readable(path):
        if path.suffix == ".parquet":
            with pq.ParquetFile(path) as file:
                sizes = [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)]
        else:
            sizes = [batch.num_rows for batch in _table(path, stamp).to_batches()]
    chunks, first = [], 0
    for number, rows in enumerate(sizes):
        chunks.append(Chunk(path, number, first, rows, stamp))
        first += rows
    return chunks


def read_columns(path: Path, names: Sequence[str]) -> dict[str, list[Any]]:
    """Whole columns of a file as Python values."""
    import pyarrow.parquet as pq

    with _readable(path):
        if path.suffix == ".parquet":
            table = pq.read_table(path, columns=list(names), partitioning=None)
        else:
            table = _table(path, _stamp(path)).select(list(names))
        return {name: table.column(name).to_pylist() for name in names}


def read_cell(chunk: Chunk, column: str, row: int) -> Any:
    """One value of a column; its chunk stays in memory until two others were read.

    Args:
        chunk: where it is.
        column: its name.
        row: counted from the chunk's first.
    """
    return _values(chunk, column)[row].as_py()


@lru_cache(maxsize=2)
def _values(chunk: Chunk, column: str) -> Any:
    import pyarrow.parquet as pq

    with _readable(chunk.path):
        if chunk.path.suffix == ".parquet":
            with pq.ParquetFile(chunk.path) as file:
                return file.read_row_group(chunk.number, columns=[column]).column(column)
        return _table(chunk.path, chunk.stamp).column(column).slice(chunk.first, chunk.rows)


@lru_cache(maxsize=8)
def _table(path: Path, stamp: int) -> pa.Table:
    """A whole file: Arrow mapped into memory, or a text file parsed."""
    import pyarrow as pa
    from pyarrow import csv
    from pyarrow import json as lines

    if path.suffix == ".arrow":
        with path.open("rb") as file:
            file.seek(-min(path.stat().st_size, len(_END)), os.SEEK_END)
            if file.read() != _END:
                raise pa.ArrowInvalid("it is cut off: the end of the stream is missing")
        return pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
    return csv.read_csv(path) if path.suffix == ".csv" else lines.read_json(path)


def _stamp(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError as error:
        raise DataError(f"cannot be read ({error})", where=str(path), remedy="Check the file.") from error
