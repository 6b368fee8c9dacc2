"""Files from the Hugging Face hub: looked up first, resumed where they stopped, checked before use.

The transfer itself is huggingface_hub's (tokens, mirrors through ``HF_ENDPOINT``, resumption). What is added
here: one commit for all files, the size before the first byte, and the digest that the hub states.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from climp_bench.errors import ClimpError
from climp_bench.files import sha256_file

Announce = Callable[[str], None]


def silent(text: str) -> None:
    """An ``Announce`` that says nothing."""


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


@dataclass(frozen=True)
class Hub:
    """The hub's repositories of one kind, and how a failure is told.

    Attributes:
        kind: of the repositories.
        error: class of every error raised here.
        otherwise: what a user without a network does instead, as half a sentence.
    """

    kind: Literal["model", "dataset"]
    error: type[ClimpError]
    otherwise: str

    def place(self, repo: str) -> str:
        """``hf:OWNER/NAME`` of a model, ``hf:datasets/OWNER/NAME`` of a data set, for messages."""
        return f"hf:{repo}" if self.kind == "model" else f"hf:datasets/{repo}"

    def look_up(self, repo: str, revision: str | None = None, *, offline: bool = False) -> Listing:
        """What ``repo`` holds at ``revision`` (default: what its default branch stands at).

        Raises:
            ClimpError: of class ``error``: offline, no connection, no such repository or revision, or no
                access to it.
        """
        from huggingface_hub import HfApi

        if offline:
            raise self.error(
                "the hub may not be asked: --offline was given",
                where=self.place(repo),
                remedy=f"Leave it out, or bring the files: {self.otherwise}.",
            )
        with self._explained(repo):
            api = HfApi(endpoint=_endpoint())
            ask = api.model_info if self.kind == "model" else api.dataset_info
            info = ask(repo, revision=revision, files_metadata=True)
        files = tuple(
            HubFile(
                name=file.rfilename,
                size=int(file.size or 0),
                sha256=getattr(file.lfs, "sha256", None),
                blob=file.blob_id,
            )
            for file in info.siblings or ()
        )
        tags = info.tags or ()
        licence = next((tag[len("license:") :] for tag in tags if tag.startswith("license:")), "not stated")
        return Listing(repo, str(info.sha), licence, bool(info.gated), files)

    def fetch(
        self, listing: Listing, files: Sequence[HubFile], folder: Path | None, announce: Announce = silent
    ) -> list[Path]:
        """Bring files onto this machine; what is already there is not fetched again.

        Args:
            listing: from ``look_up``.
            files: of the listing.
            folder: where to put them; None is huggingface_hub's own cache, shared with other programs.
            announce: told what is fetched and its size, before the first byte.

        Raises:
            ClimpError: of class ``error``: as ``look_up``; the disk is full; or the content is not what the
                hub states (the file is then deleted).
        """
        announce(self._told(listing, files))
        return [self._fetch_one(listing, file, folder) for file in files]

    def _told(self, listing: Listing, files: Sequence[HubFile]) -> str:
        size = sum(file.size for file in files) / 1e6
        names = files[0].name if len(files) == 1 else f"{len(files)} files"
        what = f"{self.place(listing.repo)}@{listing.commit[:12]}: {names}, {size:,.1f} MB"
        what += f", licence {listing.licence}"
        return what + (" (gated: its terms must be accepted on the hub)" if listing.gated else "")

    def _fetch_one(self, listing: Listing, file: HubFile, folder: Path | None) -> Path:
        from huggingface_hub import hf_hub_download

        with self._explained(listing.repo):
            path = Path(
                hf_hub_download(
                    listing.repo,
                    file.name,
                    repo_type=self.kind,
                    revision=listing.commit,
                    local_dir=folder,
                    endpoint=_endpoint(),
                )
            )
        self._check(path, file)
        return path

    def _check(self, path: Path, file: HubFile) -> None:
        if file.sha256 is not None:
            expected, found = file.sha256, sha256_file(path)
        else:
            expected, found = file.blob or "", _git_blob(path)
        if found == expected:
            return
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        raise self.error(
            f"its digest is {found}, the hub states {expected}",
            where=str(path),
            remedy="The file was deleted: run the command again to fetch it anew.",
        )

    @contextmanager
    def _explained(self, repo: str) -> Iterator[None]:
        """Turn what huggingface_hub raises into errors with a remedy."""
        from huggingface_hub import errors

        where = self.place(repo)
        try:
            yield
        except errors.GatedRepoError as error:
            page = f"https://huggingface.co/{where.removeprefix('hf:')}"
            remedy = f"Accept its terms at {page}, then `hf auth login` (or set HF_TOKEN) with that account."
            raise self.error("the repository is gated", where=where, remedy=remedy) from error
        except errors.RepositoryNotFoundError as error:
            remedy = "Check the spelling; a private repository needs `hf auth login` or HF_TOKEN."
            raise self.error(
                "there is no such repository, or no access", where=where, remedy=remedy
            ) from error
        except errors.RevisionNotFoundError as error:
            raise self.error("there is no such revision", where=where, remedy="Name a commit.") from error
        except errors.EntryNotFoundError as error:
            raise self.error(f"there is no such file ({error})", where=where) from error
        except errors.HFValidationError as error:
            raise self.error(str(error), where=where, remedy="Name it as OWNER/NAME.") from error
        except Exception as error:  # the HTTP library below, and so its exceptions, differ between versions
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                remedy = "Free some space and run the same command again: what was fetched is kept."
                raise self.error("the disk is full", where=where, remedy=remedy) from error
            raise self.error(
                f"the hub cannot be reached ({_first_line(error)})",
                where=where,
                remedy="Check the connection and run the same command again: what was fetched is kept. "
                f"Without a network: {self.otherwise}.",
            ) from error


def _git_blob(path: Path) -> str:
    """Git's object id of a file's content."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]
