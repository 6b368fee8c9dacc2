"""Published shards and tables, pulled into a folder of this machine: small files first, then the rest.

A copy is of one commit. What was fetched is written down last, in ``pulled.json``, with the digests that the
hub states: a copy without it is unfinished, and the next pull goes on where this one stopped.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import platformdirs
from filelock import FileLock

from climp_bench.data.textfiles import CLASSNAMES, TEMPLATES, read_text
from climp_bench.download import Announce, Hub, HubFile, Listing, silent
from climp_bench.errors import DataError
from climp_bench.files import sha256_file, write_text

MANIFEST = "pulled.json"
COUNT = "nshards.txt"


@dataclass(frozen=True)
class Remote:
    """Files of a data set's repository on the Hugging Face hub.

    Attributes:
        repo: ``OWNER/NAME``.
        revision: commit, or its first digits, or a branch; None is whatever the default branch stands at.
        files: names and patterns of the files that hold the samples; ``*`` matches any characters. Every
            name must be there, and something for the patterns.
        metadata: patterns of the small files that are read first.
        otherwise: what a user without a network does instead, as half a sentence.
    """

    repo: str
    revision: str | None
    files: tuple[str, ...]
    metadata: tuple[str, ...] = ("README.md",)
    otherwise: str = "put a copy of it under --data-root"

    @property
    def hub(self) -> Hub:
        """Where it is, and how a failure is told."""
        return Hub("dataset", DataError, self.otherwise)


def webdataset(repo: str, revision: str | None, split: str = "test") -> Remote:
    """A split in CLIP-Benchmark's layout (repositories ``clip-benchmark/wds_NAME``)."""
    metadata = (f"{split}/{COUNT}", CLASSNAMES, *TEMPLATES, "dataset_type.txt", "README.md")
    return Remote(repo, revision, (f"{split}/*.tar",), metadata)


def table(repo: str, revision: str | None, split: str, files: str = "") -> Remote:
    """A split of Parquet files, in any of the hub's arrangements unless ``files`` says which."""
    usual = (f"{split}-*.parquet", f"*[/-]{split}-*.parquet", f"*{split}/*.parquet", f"*{split}.parquet")
    return Remote(repo, revision, (files,) if files else usual)


def default_root() -> Path:
    """``$CLIMP_BENCH_HOME/data``, else ``data`` in the user's cache folder."""
    home = os.environ.get("CLIMP_BENCH_HOME")
    return (Path(home) if home else Path(platformdirs.user_cache_dir("climp-bench"))) / "data"


def local_copy(remote: Remote, root: Path | None = None) -> Path | None:
    """The folder of a finished copy, or None. Never asks the network."""
    wanted = {*remote.files, *remote.metadata}
    for folder, manifest in _copies(remote, root or default_root()):
        if wanted <= {*manifest["patterns"], *manifest["files"]} and all(
            (folder / name).is_file() and (folder / name).stat().st_size == facts["size"]
            for name, facts in manifest["files"].items()
        ):
            return folder
    return None


def pull(
    remote: Remote, *, root: Path | None = None, offline: bool = False, announce: Announce = silent
) -> Path:
    """Make a copy on this machine, or take the one that is there. Of several processes one does it.

    Args:
        remote: what to copy.
        root: where copies are kept.
        offline: never ask the hub.
        announce: told what is fetched and its size, before the first sample is; in every process.

    Raises:
        DataError: offline and no copy here, no connection, no such repository or revision, files that the
            repository should have and has not, too little space, or content that is not what the hub states.
    """
    root = root or default_root()
    if (here := local_copy(remote, root)) is not None:
        return here
    listing = remote.hub.look_up(remote.repo, remote.revision, offline=offline)
    files = _sample_files(remote, listing)
    announce(remote.hub.told(listing, files))
    folder = root / f"{_flat(remote.repo)}@{listing.commit[:12]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            if local_copy(remote, root) is None:
                _fill(folder, remote, listing, files)
    except OSError as error:
        remedy = "Check CLIMP_BENCH_HOME, or choose another folder with it."
        raise DataError(f"cannot be written ({error})", where=str(folder), remedy=remedy) from error
    return folder


def size(remote: Remote, listing: Listing | None = None) -> int:
    """Bytes that a pull would fetch; 0 where there is a copy. Asks the hub unless given a ``listing``."""
    if local_copy(remote) is not None:
        return 0
    listing = listing or remote.hub.look_up(remote.repo, remote.revision)
    return sum(file.size for file in _matching(listing, (*remote.metadata, *remote.files)))


def sample_files(remote: Remote, folder: Path) -> list[Path]:
    """Those files of a finished copy that hold its samples, in order; 10.tar comes after 9.tar."""
    manifest = _read(folder)
    names = _ordered(manifest["files"] if manifest else (), remote.files)
    return [folder / name for name in names]


def commit_of(folder: Path) -> str:
    """The commit that a copy was pulled at, or ``unknown`` if nothing says so."""
    manifest = _read(folder)
    return str(manifest["commit"]) if manifest else "unknown"


class KnownDigest:
    """sha256 of files of a copy, as the pull found it; of a file changed since, read anew.

    Args:
        folder: of the copy.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        manifest = _read(folder)
        self._files: dict[str, Any] = manifest["files"] if manifest else {}

    def __call__(self, path: Path) -> str:
        """Hex sha256 of the file."""
        facts = self._files.get(path.relative_to(self._folder).as_posix())
        status = path.stat()
        if facts and (facts["size"], facts["mtime_ns"]) == (status.st_size, status.st_mtime_ns):
            return str(facts["sha256"])
        return sha256_file(path)


def _sample_files(remote: Remote, listing: Listing) -> list[HubFile]:
    """What is to be fetched beside metadata. Raises ``DataError`` if it is not published."""
    metadata = _matching(listing, remote.metadata)
    files = [file for file in _matching(listing, remote.files) if file not in metadata]
    there = {file.name for file in listing.files}
    missing = [name for name in remote.files if not _is_pattern(name) and name not in there]
    if files and not missing:
        return files
    shown = ", ".join([file.name for file in listing.files[:8]]) or "nothing"
    what = f"it has no file like {' or '.join(remote.files)}; it holds {shown}"
    if files:
        what = f"{len(missing)} of {len(remote.files)} files are not there: {', '.join(missing[:5])}"
    remedy = "Another revision may have them: see the repository's history."
    raise DataError(what, where=remote.hub.place(remote.repo), remedy=remedy)


def _fill(folder: Path, remote: Remote, listing: Listing, files: Sequence[HubFile]) -> None:
    metadata = _matching(listing, remote.metadata)
    if metadata:
        remote.hub.fetch(listing, metadata, folder)
    _check_shards(folder, metadata, files, remote.hub.place(remote.repo))
    missing = [file for file in files if not _is_there(folder, file)]
    needed, free = sum(file.size for file in missing), shutil.disk_usage(folder).free
    if needed > free:
        what = f"{needed / 1e9:.1f} GB are to be fetched, {free / 1e9:.1f} GB are free"
        raise DataError(what, where=str(folder), remedy="Free some space, or set CLIMP_BENCH_HOME.")
    remote.hub.fetch(listing, files, folder)
    _note(folder, remote, listing, [*metadata, *files])


def _check_shards(folder: Path, metadata: Sequence[HubFile], files: Sequence[HubFile], where: str) -> None:
    """Every shard that ``nshards.txt`` counts is published: known before gigabytes are fetched."""
    names = {file.name for file in files}
    for count_file in (file for file in metadata if file.name.endswith(COUNT)):
        count = read_text(folder / count_file.name).strip()
        split = count_file.name.removesuffix(COUNT)
        shards = (
            [f"{split}{k}.tar" for k in range(int(count))] if count.isdecimal() and len(count) < 7 else []
        )
        missing = [name for name in shards if name not in names]
        if missing or not shards:
            what = f"{count_file.name} says {count!r}, missing: {', '.join(missing[:5]) or 'all'}"
            raise DataError(
                what, where=where, remedy="The published copy is not whole: use another revision."
            )


def _is_there(folder: Path, file: HubFile) -> bool:
    path = folder / file.name
    return path.is_file() and path.stat().st_size == file.size


def _note(folder: Path, remote: Remote, listing: Listing, files: Sequence[HubFile]) -> None:
    """Write the manifest, beside what earlier pulls of other splits put into it."""
    before = _read(folder) or {"patterns": [], "asked": [], "files": {}}
    found = {}
    for file in files:
        status = (folder / file.name).stat()
        digest = file.sha256 or sha256_file(folder / file.name)
        found[file.name] = {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": digest}
    manifest = {
        "repo": remote.repo,
        "commit": listing.commit,
        "licence": listing.licence,
        "asked": sorted({*before["asked"], str(remote.revision)}),
        "patterns": sorted({*before["patterns"], *remote.files, *remote.metadata}),
        "files": {**before["files"], **found},
    }
    write_text(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n", DataError)


def _copies(remote: Remote, root: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Copies of the repository at the revision that is asked for."""
    for path in sorted(root.glob(f"{_flat(remote.repo)}@*/{MANIFEST}")):
        manifest = _read(path.parent)
        if manifest is None or manifest.get("repo") != remote.repo:
            continue
        revision = str(remote.revision)
        pinned = len(revision) >= 7 and manifest["commit"].startswith(revision)
        if pinned or revision in manifest["asked"]:
            yield path.parent, manifest


def _read(folder: Path) -> dict[str, Any] | None:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        whole = {"commit", "patterns", "asked", "files"} <= set(manifest)
    except (OSError, ValueError, TypeError):
        return None
    return manifest if whole else None


def _matching(listing: Listing, patterns: Sequence[str]) -> list[HubFile]:
    """Files of any of the patterns, in order of name; 10.tar comes after 9.tar."""
    files = {file.name: file for file in listing.files}
    return [files[name] for name in _ordered(files, patterns)]


def _ordered(names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    exact, globs = set(patterns), [pattern for pattern in patterns if _is_pattern(pattern)]
    found = [name for name in names if name in exact or any(fnmatchcase(name, glob) for glob in globs)]
    return sorted(found, key=lambda name: (len(name), name))


def _is_pattern(name: str) -> bool:
    return any(mark in name for mark in "*?[")


def _flat(repo: str) -> str:
    return repo.replace("/", "--")
