"""Weights from the Hugging Face hub: one file, or an index and its shards, at one commit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from climp_bench.download import Announce, Hub, HubFile, Listing, silent
from climp_bench.errors import WeightsError

_HUB = Hub("model", WeightsError, "`climp-bench models import NAME PATH`, --weights PATH")


def choose(listing: Listing, filename: str) -> HubFile:
    """The file of that name, or else the index of its shards (they follow once the index is read).

    Raises:
        WeightsError: the repository has neither.
    """
    for name in (filename, f"{filename}.index.json"):
        for file in listing.files:
            if file.name == name:
                return file
    names = ", ".join(sorted(file.name for file in listing.files)) or "nothing"
    raise WeightsError(f"there is no {filename}; the repository holds {names}", where=f"hf:{listing.repo}")


def split_revision(name: str) -> tuple[str, str | None]:
    """Repository and revision of ``REPO[@REVISION]``, with or without ``hf:`` before it."""
    repo, _, revision = name.removeprefix("hf:").partition("@")
    return repo, revision or None


def look_up(repo: str, revision: str | None = None, *, offline: bool = False) -> Listing:
    """What ``repo`` holds at ``revision`` (default: what its default branch stands at).

    Raises:
        WeightsError: offline, no connection, no such repository or revision, or no access to it.
    """
    return _HUB.look_up(repo, revision, offline=offline)


def fetch(
    listing: Listing, filename: str, *, folder: Path | None = None, announce: Announce = silent
) -> Path:
    """Bring a file, or all shards of it, onto this machine; what is already there is not fetched again.

    Args:
        listing: from ``look_up``.
        filename: the file.
        folder: where to put it; by default huggingface_hub's own cache, shared with other programs.
        announce: told what is fetched and its size, before the first byte.

    Returns:
        The path of the file, or of the folder that holds its shards.

    Raises:
        WeightsError: as ``look_up``; or the content is not what the hub states (the file is then deleted).
    """
    first = choose(listing, filename)
    if first.name == filename:
        return _HUB.fetch(listing, [first], folder, announce)[0]
    (index,) = _HUB.fetch(listing, [first], folder)
    _HUB.fetch(listing, [choose(listing, name) for name in _shards(index, first.name)], folder, announce)
    return index.parent


def fetch_files(
    listing: Listing, names: Sequence[str], *, folder: Path | None = None, announce: Announce = silent
) -> Path:
    """``fetch`` for files that lie together, as those of them that are there; the folder that holds them."""
    files = [file for file in listing.files if file.name in names]
    return _HUB.fetch(listing, files, folder, announce)[0].parent


def _shards(index: Path, name: str) -> list[str]:
    """Names of the shards, beside the index in the repository."""
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"not an index of shards ({error!r})", where=str(index)) from error
    parent = name.rpartition("/")[0]
    return [f"{parent}/{shard}" if parent else str(shard) for shard in names]
