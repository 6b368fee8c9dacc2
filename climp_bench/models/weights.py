"""The store of weights: what is saved is complete, what is loaded is what was saved.

Two places, one layout, ``{family}-{scale}/`` with ``model.safetensors``, ``config.json`` and ``README.md``:

- the user's store, ``$CLIMP_BENCH_HOME/weights`` or the platform's data folder, where every model has its own
  ``manifest.json``;
- the weights shipped with the package, under one ``shipped/manifest.json``.

A manifest holds size and SHA-256 of every file and is written last. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
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
from climp_bench.models.card import render_card
from climp_bench.models.catalogue import ModelSpec, build, find, scales_of, split_name

if TYPE_CHECKING:
    from climp_bench.models.dual_encoder import DualEncoder

HOME_VARIABLE = "CLIMP_BENCH_HOME"
SHIPPED = Path(__file__).parent / "shipped"
MANIFEST, MODEL, CONFIG, CARD = "manifest.json", "model.safetensors", "config.json", "README.md"
FILES = (MODEL, CONFIG, CARD)


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
        source: ``local`` (the user's store or another folder) or ``shipped`` (with the package).
        files: what the manifest says of every file, by name.
    """

    directory: Path
    source: str
    files: Mapping[str, FileDigest]

    @property
    def digest(self) -> str:
        """SHA-256 of the weights file, hexadecimal, as the manifest says."""
        return self.files[MODEL].sha256


@dataclass(frozen=True)
class Choice:
    """A model picked by name: its spec, its weights if it has any, and why, for the user and the record."""

    spec: ModelSpec
    ref: WeightsRef | None
    reason: str


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
    _refuse_non_finite(state, f"{spec.name}, to be saved in {directory}")
    directory = Path(directory).absolute()
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
        try:
            staging.chmod(0o755)
            save_file(state, staging / MODEL)
            write_text(staging / CONFIG, _config_text(spec), WeightsError)
            write_text(staging / CARD, render_card(spec, card), WeightsError)
            files = _digests(staging)
            write_text(staging / MANIFEST, _manifest_text(files), WeightsError)
            _put_in_place(staging, directory)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as fault:
        raise WeightsError(
            f"the weights cannot be written ({fault})",
            where=str(directory),
            remedy="Free some space or choose another folder; what was there before is kept.",
        ) from fault
    return WeightsRef(directory, "local", files)


def install(ref: WeightsRef, spec: ModelSpec) -> WeightsRef:
    """Copy weights into the user's store, where they are found by name; replaces what is there.

    Raises:
        WeightsError: the weights do not match their manifest or are of another model, or the store cannot
            be written.
    """
    for name, digest in ref.files.items():
        _verify(ref.directory / name, digest)
    _check_config(spec, ref.directory / CONFIG)
    target = user_store() / folder_name(spec)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            shutil.copytree(ref.directory, staging, dirs_exist_ok=True)
            staging.chmod(0o755)
            _put_in_place(staging, target)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as fault:
        raise WeightsError(
            f"the weights cannot be installed ({fault})",
            where=str(target),
            remedy="Free some space or set CLIMP_BENCH_HOME; what was there before is kept.",
        ) from fault
    return open_folder(target)


def open_folder(directory: Path) -> WeightsRef:
    """The weights in a folder that ``save`` wrote. Raises ``WeightsError`` if it has no valid manifest."""
    return WeightsRef(directory, "local", _entry(_read_json(directory / MANIFEST), directory / MANIFEST))


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


def load(spec: ModelSpec, ref: WeightsRef, device: str | torch.device = "cpu") -> DualEncoder:
    """Build ``spec`` with the weights of ``ref``, float32, in evaluation mode, on ``device``.

    Raises:
        WeightsError: a file is missing, is not the one its digest names or is truncated; the weights are of
            another model; a key is missing, unexpected or misshapen (all are listed); a weight is not finite.
    """
    for name in (CONFIG, MODEL):
        _verify(ref.directory / name, ref.files[name])
    _check_config(spec, ref.directory / CONFIG)
    state = _read_tensors(ref.directory / MODEL)
    model = build(spec, seed=0)
    _check_keys(model.state_dict(), state, ref.directory / MODEL)
    _refuse_non_finite(state, str(ref.directory / MODEL))
    model.load_state_dict(state)
    return model.float().eval().to(device)


def resolve(name: str, scale: str | None = None) -> Choice:
    """Pick a model by name: at ``scale``, else the largest scale with stored weights, else the smallest.

    Raises:
        UsageError: there is no such model.
        WeightsError: its stored weights are damaged.
    """
    family, scale = split_name(name, scale)
    if scale is not None:
        spec = find(family, scale)
        ref = locate(spec)
        found = f"weights: {ref.source}" if ref else f"no weights are stored; {_how_to_get(spec)}"
        return Choice(spec, ref, f"{spec.name} as asked ({found})")
    find(family)  # makes models of other packages known
    candidates = scales_of(family)
    for spec in reversed(candidates):
        if ref := locate(spec):
            others = [other.scale for other in candidates if other is not spec]
            hint = f"; for another: --scale {' or '.join(others)}" if others else ""
            reason = f"{spec.name}: the largest scale with stored weights ({ref.source}){hint}"
            return Choice(spec, ref, reason)
    spec = candidates[0]
    return Choice(spec, None, f"{spec.name}: no scale of {family} has stored weights; {_how_to_get(spec)}")


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
                _verify(folder / name, digest)
        table[folder.name] = {name: asdict(digest) for name, digest in _digests(folder).items()}
    write_text(shipped / MANIFEST, json.dumps(table, indent=2, sort_keys=True) + "\n", WeightsError)
    for folder in folders:
        (folder / MANIFEST).unlink(missing_ok=True)
    return shipped / MANIFEST


def _how_to_get(spec: ModelSpec) -> str:
    return f"make some with `climp-bench train {spec.family} --scale {spec.scale}`"


def _stored(tensor: Tensor, half: bool) -> Tensor:
    tensor = tensor.detach().cpu()
    if tensor.is_floating_point():
        tensor = tensor.to(torch.float16 if half else torch.float32)
    return tensor.contiguous().clone()


def _refuse_non_finite(state: Mapping[str, Tensor], where: str) -> None:
    bad = [key for key, tensor in state.items() if not bool(torch.isfinite(tensor).all())]
    if bad:
        raise WeightsError(
            f"{len(bad)} tensors hold NaN or infinite values: {', '.join(bad)}",
            where=where,
            remedy="Train again with a lower learning rate, or go back to an earlier checkpoint.",
        )


def _put_in_place(staging: Path, directory: Path) -> None:
    """Rename ``staging`` to ``directory``; what was there is moved aside first and then deleted."""
    if not directory.exists():
        os.replace(staging, directory)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{directory.name}.old.", dir=directory.parent))
    os.replace(directory, aside / directory.name)
    try:
        os.replace(staging, directory)
    except OSError:
        os.replace(aside / directory.name, directory)
        aside.rmdir()
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _config_text(spec: ModelSpec) -> str:
    return json.dumps(_plain(spec), indent=2) + "\n"


def _plain(spec: ModelSpec) -> dict[str, Any]:
    """The part of a spec that decides what its weights mean, as it reads back from JSON."""
    fields = asdict(spec)
    for tower in ("image", "text"):
        fields[tower] = {"class": type(getattr(spec, tower)).__name__, **fields[tower]}
    for note in ("description", "source"):
        del fields[note]
    plain: dict[str, Any] = json.loads(json.dumps(fields))
    return plain


def _manifest_text(files: Mapping[str, FileDigest]) -> str:
    return json.dumps({name: asdict(digest) for name, digest in files.items()}, indent=2) + "\n"


def _digests(directory: Path) -> dict[str, FileDigest]:
    paths = {name: directory / name for name in FILES}
    for path in paths.values():
        _require(path)
    return {name: FileDigest(path.stat().st_size, sha256_file(path)) for name, path in paths.items()}


def _require(path: Path) -> None:
    if not path.is_file():
        raise WeightsError(
            "the file is missing", where=str(path), remedy="Restore it, or save the model again."
        )


def _verify(path: Path, expected: FileDigest) -> None:
    _require(path)
    size = path.stat().st_size
    if size != expected.size:
        what = f"the file has {size} bytes, its manifest says {expected.size}"
    elif (found := sha256_file(path)) != expected.sha256:
        what = f"the file has SHA-256 {found}, its manifest says {expected.sha256}"
    else:
        return
    raise WeightsError(what, where=str(path), remedy="It was cut off or changed: restore it, or save again.")


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
        return {name: FileDigest(int(entry[name]["size"]), str(entry[name]["sha256"])) for name in FILES}
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            f"the manifest lacks size and sha256 of {', '.join(FILES)}",
            where=str(path),
            remedy="Save the model again.",
        ) from error


def _check_config(spec: ModelSpec, path: Path) -> None:
    stored, wanted = _read_json(path), _plain(spec)
    differing = [key for key in sorted({*stored, *wanted}) if stored.get(key) != wanted.get(key)]
    if differing:
        detail = "; ".join(f"{key}: {stored.get(key)!r}, not {wanted.get(key)!r}" for key in differing)
        raise WeightsError(
            f"the weights are of another model than {spec.name} ({detail})",
            where=str(path),
            remedy="Name the model they were made for, or train this one.",
        )


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as tensors:
            return {key: tensors.get_tensor(key) for key in tensors.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"not a readable safetensors file ({error})", where=str(path), remedy="Save the model again."
        ) from error


def _check_keys(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], path: Path) -> None:
    problems = [f"missing {key}" for key in expected if key not in found]
    problems += [f"unexpected {key}" for key in found if key not in expected]
    problems += [
        f"misshapen {key}: {tuple(found[key].shape)} instead of {tuple(tensor.shape)}"
        for key, tensor in expected.items()
        if key in found and found[key].shape != tensor.shape
    ]
    if problems:
        raise WeightsError(
            f"{len(problems)} keys do not fit the model: {', '.join(problems)}",
            where=str(path),
            remedy="Name the model they were made for, or train this one.",
        )
