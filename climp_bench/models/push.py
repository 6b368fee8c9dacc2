"""Weights go to the Hugging Face hub: first a plan of what would change, then one commit of just that.

Uploading is huggingface_hub's, with the token that it finds (``HF_TOKEN``, or what ``hf auth login`` keeps).
"""

from __future__ import annotations

import hashlib
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from climp_bench.download import Announce, Hub, HubFile, Listing, git_blob, silent
from climp_bench.errors import UsageError, WeightsError
from climp_bench.models.catalogue import find
from climp_bench.models.store import MANIFEST, WeightsRef, locate, open_folder, verify

MAIN = "main"
_HUB = Hub(
    "model", WeightsError, "hand on the folder itself, which `climp-bench models import` reads",
    "the repository changes only once everything is there",
)  # fmt: skip


@dataclass(frozen=True)
class Upload:
    """A file of the weights.

    Attributes:
        name: its path, in the repository too.
        size: in bytes.
        sha256: of its content.
        content: the file, or its bytes.
        change: what the commit does to it.
    """

    name: str
    size: int
    sha256: str
    content: Path | bytes
    change: Literal["new", "changed", "same"]


@dataclass(frozen=True)
class PushPlan:
    """What a push would do.

    Attributes:
        ref: the weights.
        repo: ``OWNER/NAME``.
        branch: of the repository, where the commit goes.
        private: whether a repository that is made can be seen by its owner only.
        account: whose token is here; None if there is none.
        there: the repository as it stands at the branch, or at its default one where that branch is new; None
            if there is none, or none that this account may see.
        new_branch: whether the branch is to be made.
        files: what is uploaded, and what is the same there already.
    """

    ref: WeightsRef
    repo: str
    branch: str
    private: bool
    account: str | None
    there: Listing | None
    new_branch: bool
    files: tuple[Upload, ...]

    @property
    def changes(self) -> tuple[Upload, ...]:
        """The files that the commit holds."""
        return tuple(file for file in self.files if file.change != "same")

    @property
    def untouched(self) -> tuple[str, ...]:
        """Other files of the repository, which stay as they are."""
        mine = {file.name for file in self.files}
        return tuple(file.name for file in self.there.files if file.name not in mine) if self.there else ()


def find_weights(text: str) -> WeightsRef:
    """The weights that a user names: a folder that this program saved, or a model of the store.

    Raises:
        UsageError: there is no such model or folder.
        WeightsError: the model has no weights here, or the folder holds none or damaged ones.
    """
    path = Path(text).expanduser()
    if path.is_dir():
        return open_folder(path)
    if len(path.parts) > 1:
        raise UsageError("no such folder", where=text, remedy="Name a folder of weights, or FAMILY@SCALE.")
    spec = find(text)
    ref = locate(spec)
    if ref is None:
        remedy = "Name a folder of weights, as `train --recipe` leaves one in OUT/weights."
        raise WeightsError("it has no weights in the store", where=spec.name, remedy=remedy)
    return ref


def plan_push(ref: WeightsRef, repo: str, *, branch: str = MAIN, private: bool = False) -> PushPlan:
    """Check the weights against their manifest and look at the hub; nothing is changed there.

    Raises:
        WeightsError: the weights are damaged; the hub cannot be reached, or refuses the token.
        UsageError: the branch is a commit, or the repository is there, public, and was to be private.
    """
    where = _HUB.place(repo)
    if re.fullmatch("[0-9a-f]{40}", branch):
        remedy = "Name a branch; what is pushed becomes a commit of it."
        raise UsageError("a commit cannot be pushed to", where=f"{where}@{branch}", remedy=remedy)
    for name, digest in ref.files.items():
        verify(ref.directory / name, digest)
    there = _find(repo, None)
    at_branch = _find(repo, branch) if there else None
    if there and private and not there.private:
        remedy = "Make it private on the hub first, or leave out --private."
        raise UsageError("the repository is there, and public", where=where, remedy=remedy)
    on_hub = {file.name: file for file in (at_branch or there).files} if there else {}
    return PushPlan(
        ref=ref, repo=repo, branch=branch, private=private, account=_account(repo), there=at_branch or there,
        new_branch=at_branch is None and branch != MAIN,
        files=tuple(_upload(*item, on_hub) for item in _contents(ref)),
    )  # fmt: skip


def push(plan: PushPlan, message: str, announce: Announce = silent) -> str:
    """Carry a plan out in one commit; returns its id. A plan without changes commits nothing.

    A repository that the plan did not see is made, one that has come or changed since is left alone.

    Args:
        plan: from ``plan_push``.
        message: of the commit.
        announce: told what the hub remarks on.

    Raises:
        WeightsError: there is no token, or it may not do this; the hub cannot be reached; the repository
            changed since the plan was made; or the hub then states other digests than were sent.
    """
    from huggingface_hub import CommitOperationAdd

    if plan.account is None:
        owner = plan.repo.partition("/")[0]
        remedy = f"`hf auth login`, or set HF_TOKEN, with a token that may write to {owner}."
        raise WeightsError("no token of the hub is here", where=_HUB.place(plan.repo), remedy=remedy)
    if plan.there and not plan.changes and not plan.new_branch:
        return plan.there.commit
    api = _HUB.api()
    with _HUB.explained(plan.repo), warnings.catch_warnings(record=True) as remarks:
        warnings.simplefilter("always")
        if plan.there is None:
            api.create_repo(plan.repo, private=plan.private)
        commit = plan.there.commit if plan.there else None
        if plan.new_branch:
            api.create_branch(plan.repo, branch=plan.branch, revision=commit)
        if plan.changes:
            operations = [CommitOperationAdd(file.name, _given(file)) for file in plan.changes]
            commit = api.create_commit(
                plan.repo, operations, commit_message=message, revision=plan.branch, parent_commit=commit
            ).oid
    for remark in remarks:
        if remark.category is UserWarning:
            announce(str(remark.message))
    _check_there(plan, str(commit))
    return str(commit)


def _given(file: Upload) -> str | bytes:
    return file.content if isinstance(file.content, bytes) else str(file.content)


def _check_there(plan: PushPlan, commit: str) -> None:
    """Raise ``WeightsError`` unless the commit holds what was planned: files may change under an upload."""
    there = {file.name: file for file in _HUB.look_up(plan.repo, commit).files}
    wrong = [file.name for file in plan.files if not _equal(there.get(file.name), file.content, file.sha256)]
    if wrong:
        remedy = "The files changed while they were sent, or the repository ignores them: push again."
        place = f"{_HUB.place(plan.repo)}@{commit}"
        raise WeightsError(f"the hub does not hold what was planned: {', '.join(wrong)}", where=place,
                           remedy=remedy)  # fmt: skip


def _contents(ref: WeightsRef) -> list[tuple[str, Path | bytes, int, str]]:
    """Name, content, size and digest of every file, the manifest last."""
    files: list[tuple[str, Path | bytes, int, str]] = [
        (name, ref.directory / name, digest.size, digest.sha256) for name, digest in ref.files.items()
    ]
    text = ref.manifest.encode()
    return [*files, (MANIFEST, text, len(text), hashlib.sha256(text).hexdigest())]


def _upload(name: str, content: Path | bytes, size: int, sha256: str, on_hub: dict[str, HubFile]) -> Upload:
    change: Literal["new", "changed", "same"] = "new"
    if name in on_hub:
        change = "same" if _equal(on_hub[name], content, sha256) else "changed"
    return Upload(name, size, sha256, content, change)


def _equal(there: HubFile | None, content: Path | bytes, sha256: str) -> bool:
    """Whether a file of the hub is the one of that digest; the hub states another kind for small files."""
    if there is None:
        return False
    if there.sha256 is not None:
        return there.sha256 == sha256
    raw = content if isinstance(content, bytes) else content.read_bytes()
    return there.blob == git_blob(raw) and hashlib.sha256(raw).hexdigest() == sha256


def _find(repo: str, revision: str | None) -> Listing | None:
    """What is there, None if nothing that may be seen is."""
    from huggingface_hub import errors

    try:
        return _HUB.look_up(repo, revision)
    except WeightsError as error:
        if isinstance(error.__cause__, errors.RepositoryNotFoundError | errors.RevisionNotFoundError):
            return None
        raise


def _account(repo: str) -> str | None:
    """Whose token is here. Raises ``WeightsError`` if the hub does not take it."""
    from huggingface_hub import get_token

    if get_token() is None:
        return None
    with _HUB.explained(repo):
        return str(_HUB.api().whoami()["name"])
