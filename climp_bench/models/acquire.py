"""How weights come into the store, or into one run: from the hub, from a file, from a folder."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from climp_bench.download import Announce, Listing
from climp_bench.errors import UsageError, WeightsError
from climp_bench.models import hub
from climp_bench.models import tokenizer as tokenizers
from climp_bench.models.catalogue import find, scales_of, split_name
from climp_bench.models.foreign import ForeignWeights
from climp_bench.models.spec import ModelSpec, Source
from climp_bench.models.store import (
    CONFIG,
    FILES,
    MANIFEST,
    MODEL,
    OPTIONAL,
    WeightsRef,
    folder_name,
    install,
    open_folder,
    save_state,
    user_store,
)
from climp_bench.models.weights import Weights, ways_to_get


def open_weights(
    text: str, spec: ModelSpec, *, tokenizer: Path | None, offline: bool, announce: Announce
) -> Weights:
    """The weights that ``--weights`` names, read where they lie.

    Args:
        text: a path, or ``hf:REPO[@REVISION]``, which is fetched into huggingface_hub's cache.
        spec: the model they are for.
        tokenizer: its ``tokenizer.json``, where it is not found by itself.
        offline: never ask the hub.
        announce: told what is fetched, and its size first.

    Raises:
        WeightsError: there is nothing, or it cannot be fetched.
    """
    if not text.startswith("hf:"):
        path = Path(text).expanduser()
        if is_own(path):
            return open_folder(path)
        return ForeignWeights(path, f"file {path}", tokenizer)
    repo, revision = hub.split_revision(text)
    listing = hub.look_up(repo, revision, offline=offline)
    if _holds_own(listing):
        return _fetch_own(listing, None, announce)
    source = spec.origin.weights
    path = hub.fetch(listing, source.filename if source else "model.safetensors", announce=announce)
    if tokenizer is None and not tokenizers.is_shipped(spec.tokenizer):
        tokenizer = _fetch_tokenizer(spec, None, offline, announce)
    return ForeignWeights(path, f"hf:{repo}@{listing.commit}", tokenizer)


def import_weights(spec: ModelSpec, path: Path, *, tokenizer: Path | None = None) -> WeightsRef:
    """Put the weights of a file or folder into the user's store, where they are found by name.

    Raises:
        WeightsError: the file is damaged, of another model, or lacks its tokenizer; the store stays as is.
    """
    path = path.expanduser()
    if is_own(path):
        return install(open_folder(path), spec)
    weights = ForeignWeights(path, f"imported from {path.name}", tokenizer)
    return _store(weights, spec, {"source": weights.source, "sha256": weights.digest})


def pull(
    spec: ModelSpec, *, repo: str = "", revision: str | None = None, offline: bool = False, announce: Announce
) -> WeightsRef:
    """Fetch the published weights of ``spec`` and their tokenizer into the user's store.

    A download that was stopped goes on where it was. The commit, the licence and the digests are recorded
    with the weights.

    Args:
        spec: the model.
        repo: repository that they are fetched from; "" for the one that the catalogue names.
        revision: of the repository; None for the one that the catalogue pins, else what its branch stands at.
        offline: never ask the hub.
        announce: told what is fetched, and its size first.

    Raises:
        UsageError: none are published.
        WeightsError: they cannot be fetched, or are not what the hub or the specification says.
    """
    source = Source(repo, MODEL, "not stated") if repo else spec.origin.weights
    if source is None:
        raise UsageError("no weights of it are published", where=spec.name, remedy=ways_to_get(spec))
    listing = hub.look_up(source.repo, revision or source.revision, offline=offline)
    folder = user_store() / ".downloads" / f"{source.repo.replace('/', '--')}@{listing.commit}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise WeightsError(f"cannot be made ({fault})", where=str(folder)) from fault
    facts = {
        "source": f"hf:{source.repo}@{listing.commit}",
        "repository": source.repo,
        "commit": listing.commit,
        "licence": listing.licence if listing.licence != "not stated" else source.licence,
    }
    if _holds_own(listing):
        own = _fetch_own(listing, folder, announce)
        ref = install(own, spec, {**facts, "sha256": own.digest})
    else:
        weights = _fetch_foreign(spec, listing, source.filename, folder, offline, announce)
        ref = _store(weights, spec, {**facts, "sha256": weights.digest})
    shutil.rmtree(folder, ignore_errors=True)
    return ref


def _holds_own(listing: Listing) -> bool:
    """Whether a repository holds what ``models push`` uploads."""
    return {MANIFEST, *FILES} <= {file.name for file in listing.files}


def _fetch_own(listing: Listing, folder: Path | None, announce: Announce) -> WeightsRef:
    directory = hub.fetch_files(listing, (MANIFEST, *FILES, *OPTIONAL), folder=folder, announce=announce)
    return replace(open_folder(directory), source=f"hf:{listing.repo}@{listing.commit}")


def _fetch_foreign(
    spec: ModelSpec, listing: Listing, filename: str, folder: Path, offline: bool, announce: Announce
) -> ForeignWeights:
    path = hub.fetch(listing, filename, folder=folder, announce=announce)
    tokenizer = None
    if not tokenizers.is_shipped(spec.tokenizer):
        tokenizer = _fetch_tokenizer(spec, folder / "tokenizer", offline, announce)
    return ForeignWeights(path, f"hf:{listing.repo}@{listing.commit}", tokenizer)


def published(name: str, scale: str | None = None) -> ModelSpec:
    """The model that a name means where weights are to be fetched: the largest scale that is published.

    Raises:
        UsageError: there is no such model.
    """
    family, scale = split_name(name, scale)
    if scale is not None:
        return find(family, scale)
    smallest = find(family)
    return next((spec for spec in reversed(scales_of(family)) if spec.origin.weights), smallest)


def is_own(path: Path) -> bool:
    """Whether ``path`` is a folder that this program saved."""
    return (path / MANIFEST).is_file() and (path / CONFIG).is_file()


def _store(weights: ForeignWeights, spec: ModelSpec, facts: dict[str, Any]) -> WeightsRef:
    """Check and convert ``weights``, then save them under the name of ``spec``."""
    shipped = tokenizers.is_shipped(spec.tokenizer)
    tokenizer = None if shipped else weights.tokenizer(spec)
    state = weights.read(spec)
    target = user_store() / folder_name(spec)
    return save_state(state, spec, target, card={"origin": facts}, tokenizer=tokenizer, origin=facts)


def _fetch_tokenizer(spec: ModelSpec, folder: Path | None, offline: bool, announce: Announce) -> Path:
    source: Source | None = spec.origin.tokenizer
    if source is None:
        raise WeightsError(
            f"nobody publishes the tokenizer {spec.tokenizer!r}",
            where=spec.name,
            remedy="Name a tokenizer.json with --tokenizer PATH.",
        )
    listing = hub.look_up(source.repo, source.revision, offline=offline)
    return hub.fetch(listing, source.filename, folder=folder, announce=announce)
