"""Checkpoints of other projects, read where they lie: tensors out of any container, and nothing executed.

A checkpoint is one file (``.safetensors``, or a pickle of torch: ``.pth``, ``.pt``, ``.bin``, ``.ckpt``) or a
folder with one such file or an index and its shards, as transformers writes them. Pickles are opened with
``weights_only``: tensors, containers and numbers come out, anything else is refused. What the keys mean is
``convert``'s business.
"""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import torch
from torch import Tensor

from climp_bench.errors import WeightsError
from climp_bench.files import sha256_files
from climp_bench.models import tokenizer as tokenizers
from climp_bench.models.convert import to_model
from climp_bench.models.spec import ModelSpec
from climp_bench.models.store import MODEL, TOKENIZER, missing_tokenizer, read_safetensors

_INDEX = ".index.json"
_IN_FOLDERS = (MODEL, MODEL + _INDEX, "pytorch_model.bin", "pytorch_model.bin" + _INDEX)
"""What is looked for in a folder, in this order."""

_PICKLES = (".pth", ".pt", ".bin", ".ckpt")
_UNFINISHED = (".incomplete", ".part", ".crdownload", ".tmp")
_WRAPPERS = ("model", "state_dict")
_AGAIN = "It is cut off or damaged: fetch or copy it again."

_YACS_NODE = type("CfgNode", (), {"__module__": "yacs.config", "__new__": lambda cls: OrderedDict()})
"""Stands for the settings in VMamba's checkpoints, so that torch reads a dictionary and runs none of yacs."""


@dataclass(frozen=True)
class ForeignWeights:
    """A trained dual encoder in another project's file; implements ``weights.Weights``.

    Attributes:
        path: the file, the folder, or the index.
        source: where it came from, for the user and the record: ``file PATH`` or ``hf:REPO@REVISION``.
        tokenizer_path: its ``tokenizer.json``; None looks beside the weights.
    """

    path: Path
    source: str
    tokenizer_path: Path | None = None

    @cached_property
    def digest(self) -> str:
        """See ``digest``; read once. Raises ``WeightsError`` if a file is missing."""
        return digest(self.path)

    def tokenizer(self, spec: ModelSpec) -> tokenizers.Tokenizer:
        """The shipped tokenizer of ``spec``, else ``tokenizer_path``, else the file beside the weights.

        Raises:
            WeightsError: there is none, it is damaged, or it has more ids than the model has embeddings.
        """
        if tokenizers.is_shipped(spec.tokenizer):
            return tokenizers.load(spec.tokenizer)
        folder = self.path if self.path.is_dir() else self.path.parent
        path = self.tokenizer_path or folder / TOKENIZER
        if self.tokenizer_path is None and not path.is_file():
            raise missing_tokenizer(spec, self.path)
        tokenizer = tokenizers.load_file(path)
        rows = getattr(spec.text, "vocab_size", tokenizer.vocab_size)
        if tokenizer.vocab_size > rows:
            raise WeightsError(
                f"the tokenizer has {tokenizer.vocab_size} ids, {spec.name} has embeddings for {rows}",
                where=str(path),
                remedy="It belongs to another model: name the right one with --tokenizer PATH.",
            )
        return tokenizer

    def read(self, spec: ModelSpec) -> dict[str, Tensor]:
        """Every tensor of ``spec``'s model, mapped to the file. Raises ``WeightsError``, see ``to_model``."""
        return to_model(read_tensors(self.path), spec, self.source)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a checkpoint by its key; they stay mapped to the files until they are changed.

    A dictionary under ``model`` or ``state_dict`` is taken out of what lies beside it (optimizer, settings).

    Raises:
        WeightsError: a file is missing, unfinished, cut off or damaged, holds code or anything but tensors,
            or the shards and their index contradict each other.
    """
    index = _resolve(path)
    if not index.name.endswith(_INDEX):
        if re.search(r"-\d{5}-of-(?!00001)\d{5}\.", index.name):
            raise WeightsError(
                "this is one shard of several",
                where=str(index),
                remedy="Name the folder that holds them all.",
            )
        return _read_file(index)
    placed: dict[str, set[str]] = {}
    for key, name in _weight_map(index).items():
        placed.setdefault(name, set()).add(key)
    tensors: dict[str, Tensor] = {}
    for name in sorted(placed):
        shard = _read_file(index.parent / name)
        if strays := sorted(shard.keys() ^ placed[name]):
            raise WeightsError(
                f"{len(strays)} keys are in the shard or in its index, not in both: {', '.join(strays[:8])}",
                where=str(index.parent / name),
                remedy="The files are of different checkpoints: fetch all of them again.",
            )
        tensors |= shard
    return tensors


def checkpoint_files(path: Path) -> tuple[Path, ...]:
    """The files that make a checkpoint, sorted: the one file, or the index and its shards.

    Raises:
        WeightsError: a file is missing or unfinished, or the index is damaged.
    """
    found = _resolve(path)
    if not found.name.endswith(_INDEX):
        return (found,)
    return tuple(sorted({found, *(found.parent / name for name in _weight_map(found).values())}))


def digest(path: Path) -> str:
    """SHA-256 of a checkpoint, hexadecimal: of its file, or of the lines ``NAME SHA256`` of its sorted files.

    Raises:
        WeightsError: as ``checkpoint_files``, or a file cannot be read.
    """
    files = checkpoint_files(path)
    try:
        return sha256_files(files)
    except OSError as error:
        raise _unreadable(path, error) from error


def _resolve(path: Path) -> Path:
    """The file that ``path`` means: itself, or what a folder holds."""
    if path.is_dir():
        found = next((path / name for name in _IN_FOLDERS if (path / name).is_file()), None)
        if found is None:
            unfinished = sorted(file.name for file in path.iterdir() if file.suffix in _UNFINISHED)
            what = f"no checkpoint is in the folder; looked for {', '.join(_IN_FOLDERS)}"
            if unfinished:
                what += f"; unfinished downloads: {', '.join(unfinished)}"
            raise WeightsError(what, where=str(path), remedy="Finish the download, or name the file itself.")
        return found
    if path.suffix in _UNFINISHED:
        raise WeightsError(
            "this is an unfinished download",
            where=str(path),
            remedy="Finish the download, then name its file.",
        )
    if not path.is_file():
        raise WeightsError("there is no such file or folder", where=str(path), remedy="Check the path.")
    return path


def _weight_map(index: Path) -> dict[str, str]:
    """Which shard holds which key, after checking that all shards are there."""
    try:
        table = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        if not table or not all(isinstance(name, str) for name in table.values()):
            raise ValueError("weight_map names no shards")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"not a readable index of shards ({error!r})", where=str(index), remedy=_AGAIN
        ) from error
    names = sorted(set(table.values()))
    if strange := [name for name in names if not _is_plain(name)]:
        raise WeightsError(
            f"the index names files outside its folder: {', '.join(map(repr, strange))}",
            where=str(index),
            remedy="Do not use this checkpoint: no honest tool writes that.",
        )
    if missing := [name for name in names if not (index.parent / name).is_file()]:
        raise WeightsError(
            f"{len(missing)} of {len(names)} shards are missing: {', '.join(missing)}",
            where=str(index),
            remedy="Finish the download: shards lie beside their index.",
        )
    return dict(table)


def _is_plain(name: str) -> bool:
    """Whether ``name`` is that of a file in the same folder, on any system."""
    return name not in ("", "..") and name == PurePosixPath(name).name == PureWindowsPath(name).name


def _read_file(path: Path) -> dict[str, Tensor]:
    """The tensors of one file."""
    _refuse_stubs(path)
    if path.suffix == ".safetensors":
        tensors = read_safetensors(path)
    elif path.suffix in _PICKLES:
        tensors = _tensors_in(_unpickle(path), path)
    else:
        raise WeightsError(
            f"a checkpoint cannot have the ending {path.suffix!r}",
            where=str(path),
            remedy=f"Known endings: .safetensors, {', '.join(_PICKLES)}; or name a folder.",
        )
    if not tensors:
        raise WeightsError("it holds no tensors", where=str(path), remedy="Name another file.")
    return tensors


def _refuse_stubs(path: Path) -> None:
    """Raise for files that stand for a checkpoint but are none: empty ones, and pointers of Git LFS."""
    try:
        with path.open("rb") as file:
            start = file.read(40)
    except OSError as error:
        raise _unreadable(path, error) from error
    if not start:
        raise WeightsError("the file is empty", where=str(path), remedy=_AGAIN)
    if start.startswith(b"version https://git-lfs"):
        raise WeightsError(
            "a pointer of Git LFS, not the weights", where=str(path), remedy="Fetch the file: git lfs pull."
        )


def _unreadable(path: Path, error: OSError) -> WeightsError:
    return WeightsError(
        f"cannot be read ({error.strerror})", where=str(path), remedy="Check disk and permissions."
    )


def _unpickle(path: Path) -> Any:
    """What torch saved in ``path``, tensors mapped unless the file has the format before torch 1.6."""
    with path.open("rb") as file:
        mapped = file.read(4) == b"PK\x03\x04"
    try:
        with torch.serialization.safe_globals([_YACS_NODE]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # damaged files raise almost anything
        if (code := re.search(r"GLOBAL (\S+)", str(error))) and isinstance(error, pickle.UnpicklingError):
            raise _holds_code(path, code[1]) from error
        if mapped and zipfile.is_zipfile(path) and "constants.pkl" in _members(path):
            raise WeightsError(
                "a TorchScript program, which is not executed",
                where=str(path),
                remedy="Where you trust it, save its state_dict() with torch.save and name that file.",
            ) from error
        reason = re.search(r"WeightsUnpickler error: (.+)", str(error)) or re.match("(.+)", str(error))
        detail = reason[1] if reason else type(error).__name__
        raise WeightsError(
            f"not a readable checkpoint of torch ({detail})", where=str(path), remedy=_AGAIN
        ) from error


def _members(path: Path) -> set[str]:
    with zipfile.ZipFile(path) as archive:
        return {PurePosixPath(name).name for name in archive.namelist()}


def _holds_code(path: Path, name: str) -> WeightsError:
    return WeightsError(
        f"the file asks for {name} to be imported, beside its tensors; reading it would run that code, so "
        "nothing of it was executed",
        where=str(path),
        remedy="If you trust who made it, load it in a sandbox with torch.load(..., weights_only=False), "
        "save the tensors alone with safetensors.torch.save_file, and name the new file.",
    )


def _tensors_in(content: Any, path: Path) -> dict[str, Tensor]:
    """The tensors of an unpickled checkpoint, taken out of a dictionary that wraps them."""
    wrapped = []
    if isinstance(content, Mapping):
        wrapped = [name for name in _WRAPPERS if isinstance(content.get(name), Mapping)]
    if len(wrapped) > 1:
        raise WeightsError(
            f"two sets of weights lie under {' and '.join(wrapped)}",
            where=str(path),
            remedy="Save the one that is meant alone.",
        )
    state = content[wrapped[0]] if wrapped else content
    if not isinstance(state, Mapping):
        raise WeightsError(
            f"it holds a {type(state).__name__}, not tensors by name",
            where=str(path),
            remedy="Save a state_dict().",
        )
    others = [
        f"{key} ({type(value).__name__})" for key, value in state.items() if not isinstance(value, Tensor)
    ]
    if others:
        raise WeightsError(
            f"{len(others)} entries are not tensors: {', '.join(others[:8])}",
            where=str(path),
            remedy=f"Save the tensors alone, or under one of {', '.join(_WRAPPERS)}.",
        )
    return {str(key): tensor.detach() for key, tensor in state.items()}
