"""Files from the Hugging Face hub: looked up first, resumed where they stopped, checked before use.

The transfer itself is huggingface_hub's (tokens, mirrors through ``HF_ENDPOINT``, resumption). What is added
here: one commit for all files, the size before the first byte, and the digest that the hub states. Files at
plain addresses are kept to the same (``fetch_url``).
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import json
import os
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from filelock import FileLock

from climp_bench.errors import ClimpError
from climp_bench.files import sha256_file, write_text

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

TIMEOUT_S = 60.0
"""How long a server may keep silent."""
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
        private: whether only some can see it.
    """

    repo: str
    commit: str
    licence: str
    gated: bool
    files: tuple[HubFile, ...]
    private: bool = False


@dataclass(frozen=True)
class Hub:
    """The hub's repositories of one kind, and how a failure is told.

    Attributes:
        kind: of the repositories.
        error: class of every error raised here.
        otherwise: what a user without a network does instead, as half a sentence.
        kept: what a transfer that broke off leaves, as half a sentence.
    """

    kind: Literal["model", "dataset"]
    error: type[ClimpError]
    otherwise: str
    kept: str = "what was fetched is kept"

    def place(self, repo: str) -> str:
        """``hf:OWNER/NAME`` of a model, ``hf:datasets/OWNER/NAME`` of a data set, for messages."""
        return f"hf:{repo}" if self.kind == "model" else f"hf:datasets/{repo}"

    def look_up(self, repo: str, revision: str | None = None, *, offline: bool = False) -> Listing:
        """What ``repo`` holds at ``revision`` (default: what its default branch stands at).

        Raises:
            ClimpError: of class ``error``: offline, no connection, no such repository or revision, or no
                access to it.
        """
        if offline:
            raise self.error(
                "the hub may not be asked: --offline was given",
                where=self.place(repo),
                remedy=f"Leave it out, or bring the files: {self.otherwise}.",
            )
        with self.explained(repo):
            api = self.api()
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
        return Listing(repo, str(info.sha), licence, bool(info.gated), files, bool(info.private))

    def api(self) -> HfApi:
        """huggingface_hub's own, at the endpoint of ``HF_ENDPOINT``; within ``explained``."""
        from huggingface_hub import HfApi

        return HfApi(endpoint=_endpoint())

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
        announce(self.told(listing, files))
        return [self._fetch_one(listing, file, folder) for file in files]

    def told(self, listing: Listing, files: Sequence[HubFile]) -> str:
        """What is to be fetched, its size and licence, for the user."""
        size = sum(file.size for file in files) / 1e6
        names = files[0].name if len(files) == 1 else f"{len(files)} files"
        what = f"{self.place(listing.repo)}@{listing.commit[:12]}: {names}, {size:,.1f} MB"
        what += f", licence {listing.licence}"
        return what + (" (gated: its terms must be accepted on the hub)" if listing.gated else "")

    def _fetch_one(self, listing: Listing, file: HubFile, folder: Path | None) -> Path:
        from huggingface_hub import hf_hub_download

        with self.explained(listing.repo):
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
            expected, found = file.blob or "", git_blob(path.read_bytes())
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
    def explained(self, repo: str) -> Iterator[None]:
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
        except errors.HfHubHTTPError as error:
            raise self._refused(error, where) from error
        except Exception as error:  # the HTTP library below, and so its exceptions, differ between versions
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise _full(where, self.error) from error
            raise self._unreachable(error, where) from error

    def _refused(self, error: HfHubHTTPError, where: str) -> ClimpError:
        code = getattr(error.response, "status_code", None)
        if code in (401, 403):
            remedy = "Use a token that may do this: `hf auth login`, or set HF_TOKEN."
            return self.error(f"the hub refuses ({_first_line(error)})", where=where, remedy=remedy)
        if code in (409, 412):
            remedy = "Run the same command again, and look at what it says."
            return self.error("somebody else changed it meanwhile", where=where, remedy=remedy)
        return self._unreachable(error, where)

    def _unreachable(self, error: Exception, where: str) -> ClimpError:
        remedy = f"Check the connection and run the same command again: {self.kept}. "
        remedy += f"Without a network: {self.otherwise}."
        return self.error(f"the hub cannot be reached ({_first_line(error)})", where=where, remedy=remedy)


def fetch_url(
    url: str, path: Path, *, error: type[ClimpError], otherwise: str, sha256: str = "", offline: bool = False,
    announce: Announce = silent,
) -> Path:  # fmt: skip
    """Bring a file from a plain address onto this machine, once. Of several processes one does it.

    What has come of it lies beside it in a ``.part`` and is gone on with while the server has the same file
    (by ETag or date, RFC 9110 section 8.8). ``PATH.json`` records address, size and SHA-256.

    Args:
        url: where it is.
        path: where it goes.
        error, otherwise: see ``Hub``.
        sha256: its digest, if one is stated; "" takes what comes, shows its digest and holds it to that.
        offline: never ask the network.
        announce: told the size before the first byte, and the digest after the last.

    Raises:
        ClimpError: of class ``error``: offline and not here; the server cannot be reached, refuses or breaks
            off; the disk is full; or the content is not what it should be (what was fetched so is deleted).
    """
    if not path.is_file():
        if offline:
            remedy = f"Leave it out, or bring the file: {otherwise}."
            raise error(f"{path.name} is not here, and --offline was given", where=url, remedy=remedy)
        with _explained_url(url, error, otherwise):
            size, mark = _ask(url)
            announce(f"{url}: {size / 1e6:,.1f} MB")
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{path}.lock"):
                if not path.is_file():
                    _transfer(url, path, size, mark, sha256, error)
        stated = "as the catalogue states" if sha256 else f"stated by nobody, recorded in {path}.json"
        announce(f"{path.name}: sha256 {_recorded(path)}, {stated}")
    expected, found = sha256 or _recorded(path), sha256_file(path)
    if found != expected:
        what = f"its digest is {found}, not {expected or 'recorded'}"
        raise error(what, where=str(path), remedy="Delete it, and run the command again to fetch it anew.")
    return path


def _ask(url: str) -> tuple[int, str]:
    """Size of a file, and what changes with its content ("" if the server says nothing of that)."""
    with _open(url, "bytes=0-0") as answer:
        total = re.fullmatch(r"bytes 0-0/(\d+)", answer.headers.get("Content-Range", ""))
        size = total[1] if total else answer.headers.get("Content-Length")
        if size is None:
            raise http.client.HTTPException("the server does not say how large the file is")
        return int(size), answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""


def _transfer(url: str, path: Path, size: int, mark: str, sha256: str, error: type[ClimpError]) -> None:
    version = hashlib.sha256(f"{url} {mark} {size}".encode()).hexdigest()[:12]
    part = path.with_name(f"{path.name}.{version}.part")
    for other in path.parent.glob(f"{path.name}.*.part"):
        if other != part or not mark:
            other.unlink()
    begun = part.stat().st_size if part.is_file() else 0
    if size - begun > (free := shutil.disk_usage(path.parent).free):
        what = f"{(size - begun) / 1e9:.1f} GB are to be fetched, {free / 1e9:.1f} GB are free"
        raise error(what, where=str(path.parent), remedy="Free some space, or set CLIMP_BENCH_HOME.")
    if begun < size:
        with (
            _open(url, f"bytes={begun}-") as answer,
            part.open("ab" if answer.status == 206 else "wb") as file,
        ):
            shutil.copyfileobj(answer, file, 1 << 20)
    if (come := part.stat().st_size) != size:
        raise http.client.HTTPException(f"{come:,} of {size:,} bytes came")
    found = sha256_file(part)
    if sha256 and found != sha256:
        part.unlink()
        remedy = "It was deleted. Run the command again; if it is so again, the published file was changed."
        raise error(f"its digest is {found}, the catalogue states {sha256}", where=url, remedy=remedy)
    facts = {"url": url, "size": size, "sha256": found, "stated": bool(sha256)}
    write_text(path.with_name(f"{path.name}.json"), json.dumps(facts, indent=1) + "\n", error)
    os.replace(part, path)


def _recorded(path: Path) -> str:
    """The digest that was recorded when a file was fetched; "" if nothing readable is."""
    try:
        return str(json.loads(path.with_name(f"{path.name}.json").read_text(encoding="utf-8"))["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _open(url: str, wanted: str) -> http.client.HTTPResponse:
    request = urllib.request.Request(url, headers={"Range": wanted, "User-Agent": "climp-bench"})
    answer: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    return answer


@contextmanager
def _explained_url(url: str, error: type[ClimpError], otherwise: str) -> Iterator[None]:
    """Turn failures of the web into errors with a remedy."""
    try:
        yield
    except urllib.error.HTTPError as fault:
        remedy = f"Look whether it has moved. Otherwise: {otherwise}."
        raise error(f"the server answers {fault.code} {fault.reason}", where=url, remedy=remedy) from fault
    except (OSError, http.client.HTTPException) as fault:
        if isinstance(fault, OSError) and fault.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _full(url, error) from fault
        said = getattr(fault, "reason", None) or _first_line(fault)
        remedy = "Check the connection and run the same command again: what was fetched is kept. "
        remedy += f"Without a network: {otherwise}."
        raise error(f"it cannot be fetched ({said})", where=url, remedy=remedy) from fault


def _full(where: str, error: type[ClimpError]) -> ClimpError:
    remedy = "Free some space and run the same command again: what was fetched is kept."
    return error("the disk is full", where=where, remedy=remedy)


def git_blob(content: bytes) -> str:
    """Git's object id of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]
