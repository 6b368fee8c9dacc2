"""Published data sets: where each is, at which revision, and what it must hold when it is opened.

The facts are data, in ``published.toml`` beside this file. Nothing here touches the network.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

from climp_bench.data.columns import LAYOUTS
from climp_bench.data.dataset import Dataset
from climp_bench.data.sources import form_of, has_split, open_folder
from climp_bench.errors import DataError
from climp_bench.files import Digest, sha256_file
from climp_bench.specs import TaskKind

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SourceKind = Literal["wds", "parquet", "shards", "user"]
"""How it is published: CLIP-Benchmark webdataset, parquet tables, plain tar shards, or not at all (yours)."""


@dataclass(frozen=True)
class Published:
    """One published data set.

    Attributes:
        name: as in CLIP_benchmark where it has the set.
        kind: classification, multilabel or retrieval.
        n: images of the split that is evaluated.
        classes: number of classes, 0 for retrieval.
        about: one line.
        source: how it is published.
        layout: name of the column layout of a table.
        split: which split is evaluated.
        repo: repository on the Hugging Face hub, or empty.
        ref: branch or reference that the commit was seen on.
        commit: pinned revision, 40 hexadecimal digits or the 7 that were seen; empty if none is known.
        files: pattern of the files in the repository; empty is the whole split.
        bytes: size of those files, None if unknown.
        native: size of the images in pixels, in words.
        licence: of the images, in words.
        unverified: which of these facts no source states outright.
        balanced: every class has as many images as any other.
        use: ``eval``, or ``train`` for sets that only training reads.
        how: how to get one that is not on the hub.
    """

    name: str
    kind: TaskKind
    n: int
    about: str
    source: SourceKind
    split: str
    native: str
    licence: str
    classes: int = 0
    layout: str = ""
    repo: str = ""
    ref: str = "main"
    commit: str = ""
    files: str = ""
    bytes: int | None = None
    unverified: str = ""
    balanced: bool = False
    use: Literal["eval", "train"] = "eval"
    how: str = ""

    @property
    def pin(self) -> str:
        """How well the revision is pinned, in words."""
        if not self.repo:
            return "no revision: it is not published"
        if not self.commit:
            return f"UNPINNED: whatever {self.ref!r} is when it is fetched"
        if len(self.commit) < 40:
            return f"pinned by the first {len(self.commit)} digits of the commit"
        return "pinned"

    @property
    def revision(self) -> str:
        """``REPO@COMMIT``, or ``REPO@main (unpinned)``."""
        if not self.repo:
            return "none (your own copy)"
        return f"{self.repo}@{self.commit or f'{self.ref} (unpinned)'}"

    @property
    def size(self) -> str:
        """What there is to fetch: ``1.4 GB``, ``146 MB``, or that nobody knows."""
        if self.bytes is None:
            return "size unknown until the hub is asked"
        return f"{self.bytes / 1e9:.1f} GB" if self.bytes >= 1e9 else f"{self.bytes / 1e6:.0f} MB"

    def facts(self) -> list[tuple[str, str]]:
        """What is known of the set, and what is not, as (name, words)."""
        classes = f", {self.classes} classes" if self.classes else ""
        rows = [
            ("what", self.about),
            ("holds", f"{self.n:,} images{classes}, {self.kind}, split {self.split}"),
            ("native size", f"{self.native} (pixels)"),
            ("licence", self.licence),
            ("source", f"hf:datasets/{self.repo} ({self.ref})" if self.repo else f"your own: {self.how}"),
            ("revision", f"{self.commit or self.ref}, {self.pin}" if self.repo else self.pin),
            ("to fetch", self.size if self.repo else "nothing"),
        ]
        if self.unverified:
            rows.append(("not verified", f"{self.unverified}: no source that was read states it"))
        return rows

    @property
    def folders(self) -> tuple[str, ...]:
        """Names under a data root that a copy may have, best first."""
        flat = self.name.replace("/", "-")
        names = [self.name, flat, f"wds_{flat}", self.repo.rpartition("/")[2]]
        return tuple(dict.fromkeys(name for name in names if name))


@lru_cache(maxsize=1)
def published() -> tuple[Published, ...]:
    """Every published data set, in the order of the file; Crossmodal-3600 once a language.

    Raises:
        DataError: the file is not what this version reads; a damaged installation.
    """
    path = Path(__file__).with_name("published.toml")
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
        rows = [*raw["dataset"], *_languages(raw["crossmodal3600"])]
        return tuple(_entry({"kind": "classification", **raw["defaults"], **row}) for row in rows)
    except (OSError, KeyError, TypeError, ValueError) as error:
        remedy = "Install climp-bench again."
        raise DataError(f"cannot be read ({error})", where=str(path), remedy=remedy) from error


def _languages(table: dict[str, Any]) -> list[dict[str, Any]]:
    facts = {key: value for key, value in table.items() if key != "languages"}
    return [
        {
            **facts,
            "name": f"crossmodal3600/{language}",
            "about": f"{table['about']} {language!r}",
            "split": language,
            "files": f"data/{language}-*.parquet",
        }
        for language in table["languages"]
    ]


def _entry(row: dict[str, Any]) -> Published:
    unknown = set(row) - {field.name for field in fields(Published)}
    commit = row.get("commit", "")
    if unknown or row["kind"] not in get_args(TaskKind) or row["source"] not in get_args(SourceKind):
        raise ValueError(f"{row['name']}: {', '.join(sorted(unknown)) or 'kind or source'} is not known")
    if not re.fullmatch(r"([0-9a-f]{7}|[0-9a-f]{40})?", commit):
        raise ValueError(f"{row['name']}: {commit!r} is no commit")
    return Published(**row)


def find_copy(entry: Published, data_roots: Sequence[Path]) -> Path | None:
    """The first folder ``ROOT/NAME`` that a source reads, under any of the set's names."""
    folders = [root / name for root in data_roots for name in entry.folders]
    return next((folder for folder in folders if form_of(folder) is not None), None)


def open_copy(entry: Published, folder: Path, digest: Digest = sha256_file) -> Dataset:
    """The copy of a published set that lies in ``folder``, held to what the catalogue says of it.

    ``digest`` is the sha256 of a file, for copies of which it is known.

    Raises:
        DataError: it is not whole, or not what the catalogue says.
    """
    split = entry.split if has_split(folder, entry.split) else None
    columns = LAYOUTS.get(entry.layout) if entry.layout else None
    dataset = open_folder(folder, entry.name, split=split, columns=columns, digest=digest)
    return hold_to(dataset, entry)


def not_here(entry: Published, data_roots: Sequence[Path]) -> DataError:
    """The error for a set that is not on this machine: what it would take, and how to get it."""
    looked = ", ".join(str(root) for root in data_roots) or "no --data-root was given"
    folder = entry.folders[1 if "/" in entry.name else 0]
    if entry.repo:
        what = f"is not here ({entry.n:,} images, {entry.size}, {entry.repo} on the hub)"
        remedy = f"`climp-bench data pull {entry.name}`, or --data-root PARENT with PARENT/{folder}."
    else:
        what = f"is not here ({entry.n:,} images; it is not published)"
        remedy = f"{entry.how}. Then --data-root PARENT with PARENT/{folder}."
    return DataError(what, where=entry.name, remedy=f"{remedy} Looked in: {looked}.")


def hold_to(dataset: Dataset, entry: Published) -> Dataset:
    """Make ``dataset`` answer for what the catalogue says of it, and return it.

    Its count is checked by ``check_count`` before anything is scored; kind and number of classes are here.

    Raises:
        DataError: another kind, or another number of classes.
    """
    remedy = "It is another data set, or not whole: fetch it again, or give the folder another name."
    if dataset.kind != entry.kind:
        what = f"is a {dataset.kind} set, the catalogue says {entry.kind}"
        raise DataError(what, where=entry.name, remedy=remedy)
    if len(dataset.classes) != entry.classes:
        what = f"has {len(dataset.classes)} classes, the catalogue says {entry.classes}"
        raise DataError(what, where=entry.name, remedy=remedy)
    dataset.n_expected = entry.n
    if entry.balanced:
        dataset.expected_histogram = (entry.n // entry.classes,) * entry.classes
    return dataset
