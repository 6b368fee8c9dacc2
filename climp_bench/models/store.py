"""The store of weights: what is saved is complete, and what is read is what was saved.

Two places, one layout, ``{family}-{scale}/`` with ``model.safetensors``, ``config.json`` and ``README.md``;
weights that came from elsewhere have ``tokenizer.json`` and ``origin.json`` too:

- the user's store, ``$CLIMP_BENCH_HOME/weights`` or the platform's data folder, where every model has its own
  ``manifest.json``;
- the weights shipped with the package, under one ``shipped/manifest.json``.

A manifest holds size and SHA-256 of every file and is written last. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from platformdirs import user_data_dir
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from climp_bench.errors import WeightsError
from climp_bench.files import sha256_file, write_text
from climp_bench.models import tokenizer as tokenizers
from climp_bench.models.card import render_card
from climp_bench.models.spec import ModelSpec, defaults
from climp_bench.models.staging import replacing

if TYPE_CHECKING:
    from climp_bench.models.dual_encoder import DualEncoder

HOME_VARIABLE = "CLIMP_BENCH_HOME"
SHIPPED = Path(__file__).parent / "shipped"
MANIFEST, MODEL, CONFIG, CARD = "manifest.json", "model.safetensors", "config.json", "README.md"
TOKENIZER, ORIGIN = "tokenizer.json", "origin.json"
FILES = (MODEL, CONFIG, CARD)
OPTIONAL = (TOKENIZER, ORIGIN)


@dataclass(frozen=True)
class FileDigest:
    """Size in bytes and hexadecimal SHA-256 of a file."""

    size: int
    sha256: str


@dataclass(frozen=True)
class WeightsRef:
    """Stored weights, not yet read.

    Attributes:
        directory: where they lie.
        source: ``shipped`` (with the package), ``local`` (trained here, or another folder), or where they
            were imported from.
        files: what the manifest says of every file, by name.
    """

    directory: Path
    source: str
    files: Mapping[str, FileDigest]

    @property
    def digest(self) -> str:
        """SHA-256 of the weights file, hexadecimal, as the manifest says."""
        return self.files[MODEL].sha256

    @property
    def model(self) -> str:
        """``family@scale``, as ``config.json`` says."""
        config = _read_json(self.directory / CONFIG)
        return f"{config.get('family')}@{config.get('scale')}"

    @property
    def manifest(self) -> str:
        """The text of the manifest; that of shipped weights lies in no file of their own."""
        return _manifest_text(self.files)

    def tokenizer(self, spec: ModelSpec) -> tokenizers.Tokenizer:
        """The tokenizer of ``spec``: the shipped one of that name, else the file beside the weights.

        Raises:
            WeightsError: there is neither, or the file is damaged.
        """
        if tokenizers.is_shipped(spec.tokenizer):
            return tokenizers.load(spec.tokenizer)
        if TOKENIZER not in self.files:
            raise missing_tokenizer(spec, self.directory)
        verify(self.directory / TOKENIZER, self.files[TOKENIZER])
        return tokenizers.load_file(self.directory / TOKENIZER)

    def read(self, spec: ModelSpec) -> dict[str, Tensor]:
        """The tensors, by the names of ``spec``'s model; they stay mapped to the file until they are changed.

        Raises:
            WeightsError: a file is missing, is not the one its digest names, or is of another model.
        """
        for name in (CONFIG, MODEL):
            verify(self.directory / name, self.files[name])
        check_config(spec, self.directory / CONFIG)
        return read_safetensors(self.directory / MODEL)


def user_store() -> Path:
    """The user's store: ``$CLIMP_BENCH_HOME/weights``, else ``weights`` in the platform's data folder."""
    home = os.environ.get(HOME_VARIABLE) or user_data_dir("climp-bench", appauthor=False)
    return Path(home) / "weights"


def folder_name(spec: ModelSpec) -> str:
    """``{family}-{scale}``."""
    return f"{spec.family}-{spec.scale}"


def save(
    model: DualEncoder, spec: ModelSpec, directory: Path, *, half: bool, card: Mapping[str, Any]
) -> WeightsRef:
    """Write ``model`` to ``directory``, replacing what is there, whole or not at all.

    Args:
        model: the weights.
        spec: what ``model`` was built from.
        directory: the model's own folder, ``user_store() / folder_name(spec)`` to have it found by name.
        half: store floating-point weights as float16 instead of float32.
        card: facts for the model card, see ``card.render_card``.

    Raises:
        WeightsError: a weight is NaN or infinite (once rounded to float16), or writing fails.
    """
    state = {key: _stored(tensor, half) for key, tensor in model.state_dict().items()}
    return save_state(state, spec, directory, card=card)


def save_state(
    state: Mapping[str, Tensor],
    spec: ModelSpec,
    directory: Path,
    *,
    card: Mapping[str, Any],
    tokenizer: tokenizers.Tokenizer | None = None,
    origin: Mapping[str, Any] | None = None,
) -> WeightsRef:
    """``save`` for tensors, which keep their dtypes.

    Args:
        state: every tensor of ``spec``'s model.
        spec: the model.
        directory: see ``save``.
        card: see ``save``.
        tokenizer: stored beside the weights, for a model whose tokenizer is not shipped.
        origin: where the weights came from; its ``source`` becomes ``WeightsRef.source``.

    Raises:
        WeightsError: a weight is NaN or infinite, or writing fails.
    """
    refuse_non_finite(state, f"{spec.name}, to be saved in {directory}")
    directory = Path(directory).absolute()
    with replacing(directory, "written", "choose another folder") as staging:
        save_file(dict(state), staging / MODEL)
        write_text(staging / CONFIG, _config_text(spec), WeightsError)
        write_text(staging / CARD, render_card(spec, card), WeightsError)
        if tokenizer is not None:
            write_text(staging / TOKENIZER, tokenizer.to_json(), WeightsError)
        if origin is not None:
            write_text(staging / ORIGIN, _origin_text(origin), WeightsError)
        write_text(staging / MANIFEST, _manifest_text(_digests(staging)), WeightsError)
    return open_folder(directory)


def install(ref: WeightsRef, spec: ModelSpec, origin: Mapping[str, Any] | None = None) -> WeightsRef:
    """Copy weights into the user's store, where they are found by name; replaces what is there.

    Args:
        ref: the weights.
        spec: their model.
        origin: where they were fetched from; joins what ``origin.json`` says of how they were made.

    Raises:
        WeightsError: the weights do not match their manifest or are of another model, or the store cannot
            be written.
    """
    for name, digest in ref.files.items():
        verify(ref.directory / name, digest)
    check_config(spec, ref.directory / CONFIG)
    target = user_store() / folder_name(spec)
    with replacing(target, "installed", f"set {HOME_VARIABLE}") as staging:
        for name in ref.files:
            shutil.copy2(ref.directory / name, staging / name)
        if origin is not None:
            made = _read_json(ref.directory / ORIGIN) if ORIGIN in ref.files else {}
            write_text(staging / ORIGIN, _origin_text({**made, **origin}), WeightsError)
        write_text(staging / MANIFEST, _manifest_text(_digests(staging)), WeightsError)
    return open_folder(target)


def open_folder(directory: Path) -> WeightsRef:
    """The weights in a folder that ``save`` wrote. Raises ``WeightsError`` if it has no valid manifest."""
    files = _entry(_read_json(directory / MANIFEST), directory / MANIFEST)
    if ORIGIN not in files:
        return WeightsRef(directory, "local", files)
    verify(directory / ORIGIN, files[ORIGIN])
    return WeightsRef(directory, str(_read_json(directory / ORIGIN).get("source", "local")), files)


def locate(spec: ModelSpec) -> WeightsRef | None:
    """The stored weights of ``spec``: the user's first, then those shipped; None if there are none.

    Raises:
        WeightsError: a folder or a manifest is there but damaged.
    """
    own = user_store() / folder_name(spec)
    if own.is_dir():
        return open_folder(own)
    manifest = SHIPPED / MANIFEST
    if not manifest.is_file():
        return None
    entry = _read_json(manifest).get(folder_name(spec))
    if entry is None:
        return None
    return WeightsRef(SHIPPED / folder_name(spec), "shipped", _entry(entry, manifest))


def update_shipped_manifest(shipped: Path = SHIPPED) -> Path:
    """Describe every model folder under ``shipped`` in its one manifest, and return the manifest's path.

    Manifests that ``save`` left in the folders are checked against the files, then taken away.

    Raises:
        WeightsError: a file is missing, or differs from what its own manifest says.
    """
    table = {}
    folders = sorted(path for path in shipped.iterdir() if path.is_dir() and not path.name.startswith("."))
    for folder in folders:
        if (folder / MANIFEST).is_file():
            for name, digest in open_folder(folder).files.items():
                verify(folder / name, digest)
        table[folder.name] = {name: asdict(digest) for name, digest in _digests(folder).items()}
    write_text(shipped / MANIFEST, json.dumps(table, indent=2, sort_keys=True) + "\n", WeightsError)
    for folder in folders:
        (folder / MANIFEST).unlink(missing_ok=True)
    return shipped / MANIFEST


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a safetensors file, mapped. Raises ``WeightsError`` if it is not a whole one."""
    try:
        with safe_open(path, framework="pt") as tensors:
            return {key: tensors.get_tensor(key) for key in tensors.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"not a readable safetensors file ({error})",
            where=str(path),
            remedy="It may be cut off: fetch or save it again.",
        ) from error


def refuse_non_finite(state: Mapping[str, Tensor], where: str) -> None:
    """Raise ``WeightsError`` with the names of all tensors that hold NaN or infinite values."""
    bad = [key for key, tensor in state.items() if not bool(torch.isfinite(tensor).all())]
    if bad:
        raise WeightsError(
            f"{len(bad)} tensors hold NaN or infinite values: {', '.join(bad)}",
            where=where,
            remedy="Train again with a lower learning rate, or go back to an earlier checkpoint.",
        )


def verify(path: Path, expected: FileDigest) -> None:
    """Raise ``WeightsError`` unless the file is there with the expected size and digest."""
    _require(path)
    size = path.stat().st_size
    if size != expected.size:
        what = f"the file has {size} bytes, its manifest says {expected.size}"
    elif (found := sha256_file(path)) != expected.sha256:
        what = f"the file has SHA-256 {found}, its manifest says {expected.sha256}"
    else:
        return
    raise WeightsError(what, where=str(path), remedy="It was cut off or changed: restore it, or save again.")


def check_config(spec: ModelSpec, path: Path) -> None:
    """Raise ``WeightsError`` unless the stored ``config.json`` describes ``spec``."""
    stored, wanted = _read_json(path), plain(spec)
    for tower in ("image", "text"):
        if isinstance(stored.get(tower), dict):
            stored[tower] = {**defaults(getattr(spec, tower)), **stored[tower]}
    differing = [key for key in sorted({*stored, *wanted}) if stored.get(key) != wanted.get(key)]
    if differing:
        detail = "; ".join(f"{key}: {stored.get(key)!r}, not {wanted.get(key)!r}" for key in differing)
        raise WeightsError(
            f"the weights are of another model than {spec.name} ({detail})",
            where=str(path),
            remedy="Name the model they were made for, or train this one.",
        )


def missing_tokenizer(spec: ModelSpec, where: Path | str) -> WeightsError:
    """The error for weights without the tokenizer they need."""
    source = spec.origin.tokenizer
    place = f" ({TOKENIZER} of {source.repo} on the hub)" if source else ""
    return WeightsError(
        f"{spec.name} needs the tokenizer {spec.tokenizer!r}, and there is no {TOKENIZER} with the weights",
        where=str(where),
        remedy=f"Name the file with --tokenizer PATH{place}.",
    )


def plain(spec: ModelSpec) -> dict[str, Any]:
    """The part of a spec that decides what its weights mean, as it reads back from JSON."""
    fields = asdict(spec)
    for tower in ("image", "text"):
        fields[tower] = {"class": type(getattr(spec, tower)).__name__, **fields[tower]}
    for note in ("description", "source", "origin"):
        del fields[note]
    result: dict[str, Any] = json.loads(json.dumps(fields))
    return result


def _stored(tensor: Tensor, half: bool) -> Tensor:
    tensor = tensor.detach().cpu()
    if tensor.is_floating_point():
        tensor = tensor.to(torch.float16 if half else torch.float32)
    return tensor.contiguous().clone()


def _config_text(spec: ModelSpec) -> str:
    return json.dumps(plain(spec), indent=2) + "\n"


def _origin_text(origin: Mapping[str, Any]) -> str:
    return json.dumps(dict(origin), indent=2) + "\n"


def _manifest_text(files: Mapping[str, FileDigest]) -> str:
    return json.dumps({name: asdict(digest) for name, digest in files.items()}, indent=2) + "\n"


def _digests(directory: Path) -> dict[str, FileDigest]:
    for name in FILES:
        _require(directory / name)
    names = (*FILES, *(name for name in OPTIONAL if (directory / name).exists()))
    paths = {name: directory / name for name in names}
    return {name: FileDigest(path.stat().st_size, sha256_file(path)) for name, path in paths.items()}


def _require(path: Path) -> None:
    if not path.is_file():
        raise WeightsError(
            "the file is missing", where=str(path), remedy="Restore it, or save the model again."
        )


def _read_json(path: Path) -> dict[str, Any]:
    _require(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WeightsError(
            f"not valid JSON ({error})", where=str(path), remedy="Save the model again."
        ) from error
    if not isinstance(value, dict):
        raise WeightsError("not a JSON object", where=str(path), remedy="Save the model again.")
    return value


def _entry(entry: Any, path: Path) -> dict[str, FileDigest]:
    """The digests in one manifest entry."""
    try:
        names = (*FILES, *(name for name in OPTIONAL if name in entry))
        return {name: FileDigest(int(entry[name]["size"]), str(entry[name]["sha256"])) for name in names}
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            f"the manifest lacks size and sha256 of {', '.join(FILES)}",
            where=str(path),
            remedy="Save the model again.",
        ) from error
