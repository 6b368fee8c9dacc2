"""Files from the Hugging Face hub: looked up first, resumed where they stopped, checked before use.

The transfer itself is huggingface_hub's (tokens, mirrors through ``HF_ENDPOINT``, resumption). What is added
here: one commit for all files of a model, the size before the first byte, and the digest that the hub states.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from climp_bench.errors import WeightsError
from climp_bench.files import sha256_file

Announce = Callable[[str], None]


@dataclass(frozen=True)
class HubFile:
    """A file of a repository.

    Attributes:
        name: its path in the repository.
        size: in bytes.
        sha256: of its content, where the hub states it (large files).
        blob: git's object id, SHA-1 over a header and the content, for the others.
    """

    name: str
    size: int
    sha256: str | None
    blob: str | None


@dataclass(frozen=True)
class Listing:
    """What is published in a repository at one commit.

    Attributes:
        repo: the repository.
        commit: the commit that all files are of.
        licence: as the repository's card states it, or "not stated".
        gated: whether terms must be accepted first.
        files: every file.
    """

    repo: str
    commit: str
    licence: str
    gated: bool
    files: tuple[HubFile, ...]

    def choose(self, filename: str) -> HubFile:
        """The file of that name, or else the index of its shards (they follow once the index is read).

        Raises:
            WeightsError: the repository has neither.
        """
        for name in (filename, f"{filename}.index.json"):
            for file in self.files:
                if file.name == name:
                    return file
        names = ", ".join(sorted(file.name for file in self.files)) or "nothing"
        raise WeightsError(f"there is no {filename}; the repository holds {names}", where=f"hf:{self.repo}")


def split_revision(name: str) -> tuple[str, str | None]:
    """Repository and revision of ``REPO[@REVISION]``, with or without ``hf:`` before it."""
    repo, _, revision = name.removeprefix("hf:").partition("@")
    return repo, revision or None


def look_up(repo: str, revision: str | None = None, *, offline: bool = False) -> Listing:
    """What ``repo`` holds at ``revision`` (default: what its default branch stands at).

    Raises:
        WeightsError: offline, no connection, no such repository or revision, or no access to it.
    """
    from huggingface_hub import HfApi

    with _explained(repo, offline):
        info = HfApi(endpoint=_endpoint()).model_info(repo, revision=revision, files_metadata=True)
    files = tuple(
        HubFile(
            name=file.rfilename,
            size=int(file.size or 0),
            sha256=getattr(file.lfs, "sha256", None),
            blob=file.blob_id,
        )
        for file in info.siblings or ()
    )
    licence = next((tag[len("license:") :] for tag in info.tags or () if tag.startswith("license:")), None)
    return Listing(repo, str(info.sha), licence or "not stated", bool(info.gated), files)


def fetch(
    listing: Listing, filename: str, *, folder: Path | None = None, announce: Announce = lambda text: None
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
    first = listing.choose(filename)
    if first.name == filename:
        announce(_told(listing, [first]))
        return _fetch_one(listing, first, folder)
    index = _fetch_one(listing, first, folder)
    shards = [listing.choose(name) for name in _shards(index, first.name)]
    announce(_told(listing, shards))
    for shard in shards:
        _fetch_one(listing, shard, folder)
    return index.parent


def _shards(index: Path, name: str) -> list[str]:
    """Names of the shards, beside the index in the repository."""
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"not an index of shards ({error!r})", where=str(index)) from error
    parent = name.rpartition("/")[0]
    return [f"{parent}/{shard}" if parent else str(shard) for shard in names]


def _told(listing: Listing, files: Sequence[HubFile]) -> str:
    size = sum(file.size for file in files) / 1e6
    names = files[0].name if len(files) == 1 else f"{len(files)} shards"
    what = f"hf:{listing.repo}@{listing.commit[:12]}: {names}, {size:,.1f} MB, licence {listing.licence}"
    return what + (" (gated: its terms must be accepted on the hub)" if listing.gated else "")


def _fetch_one(listing: Listing, file: HubFile, folder: Path | None) -> Path:
    from huggingface_hub import hf_hub_download

    with _explained(listing.repo, offline=False):
        path = Path(
            hf_hub_download(
                listing.repo, file.name, revision=listing.commit, local_dir=folder, endpoint=_endpoint()
            )
        )
    _check(path, file)
    return path


def _check(path: Path, file: HubFile) -> None:
    if file.sha256 is not None:
        expected, found = file.sha256, sha256_file(path)
    else:
        expected, found = file.blob or "", _git_blob(path)
    if found == expected:
        return
    path.resolve().unlink(missing_ok=True)
    path.unlink(missing_ok=True)
    raise WeightsError(
        f"its digest is {found}, the hub states {expected}",
        where=str(path),
        remedy="The file was deleted: run the command again to fetch it anew.",
    )


def _git_blob(path: Path) -> str:
    """Git's object id of a file's content."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


@contextmanager
def _explained(repo: str, offline: bool) -> Iterator[None]:
    """Turn what huggingface_hub raises into errors with a remedy."""
    from huggingface_hub import errors

    where = f"hf:{repo}"
    if offline:
        raise WeightsError(
            "the hub may not be asked: --offline was given",
            where=where,
            remedy="Leave it out, or bring the files: `climp-bench models import NAME PATH`, --weights PATH.",
        )
    try:
        yield
    except errors.GatedRepoError as error:
        remedy = (
            f"Accept its terms at https://huggingface.co/{repo}, then `hf auth login` (or set HF_TOKEN) "
            "with the account that did."
        )
        raise WeightsError("the repository is gated", where=where, remedy=remedy) from error
    except errors.RepositoryNotFoundError as error:
        remedy = "Check the spelling; a private repository needs `hf auth login` or HF_TOKEN."
        raise WeightsError("there is no such repository, or no access", where=where, remedy=remedy) from error
    except errors.RevisionNotFoundError as error:
        raise WeightsError("there is no such revision", where=where, remedy="Name a commit.") from error
    except errors.EntryNotFoundError as error:
        raise WeightsError(f"there is no such file ({error})", where=where) from error
    except errors.HFValidationError as error:
        raise WeightsError(str(error), where=where, remedy="Name it as OWNER/NAME.") from error
    except Exception as error:  # the HTTP library below, and so its exceptions, differ between versions
        raise WeightsError(
            f"the hub cannot be reached ({_first_line(error)})",
            where=where,
            remedy="Check the connection and run the same command again: what was fetched is kept. "
            "Without a network: `climp-bench models import NAME PATH` or --weights PATH.",
        ) from error


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]
