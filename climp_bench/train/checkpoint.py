"""Checkpoints of a run: tensors in safetensors, the rest in JSON, a manifest of digests last.

A folder without a manifest was cut off while it was written and does not count. Nothing is unpickled.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from climp_bench.errors import TrainingError
from climp_bench.files import sha256_file, write_text

KEEP = 2
TENSORS, STATE, MANIFEST = "tensors.safetensors", "state.json", "manifest.json"
_MODEL, _OPTIMISER, _RANDOM, _MORE = "model.", "optimiser.", "random.", "more."


def save(
    root: Path,
    step: int,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    *,
    state: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
) -> Path:
    """Write a checkpoint, then delete all but the newest ``KEEP``.

    Args:
        root: folder of the run's checkpoints.
        step: number of steps done.
        model, optimiser: what to keep, with the states of torch's random number generators.
        state: what else the run needs, as JSON.
        tensors: likewise, as tensors.

    Raises:
        TrainingError: the place cannot be written.
    """
    folder = root / f"step-{step:08d}"
    kept = {_MODEL + key: tensor for key, tensor in model.state_dict().items()}
    for index, slots in optimiser.state_dict()["state"].items():
        kept |= {f"{_OPTIMISER}{index}.{slot}": tensor for slot, tensor in slots.items()}
    kept |= {_RANDOM + key: tensor for key, tensor in _random_states().items()}
    kept |= {_MORE + key: tensor for key, tensor in tensors.items()}
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        save_file({key: tensor.detach().cpu().contiguous() for key, tensor in kept.items()}, folder / TENSORS)
    except OSError as fault:
        raise TrainingError(
            f"the checkpoint cannot be written ({fault})", where=str(folder),
            remedy="Free some space, then run the same command: it goes on from the checkpoint before.",
        ) from fault  # fmt: skip
    write_text(folder / STATE, json.dumps({"step": step, **state}, indent=1) + "\n", TrainingError)
    digests = {name: sha256_file(folder / name) for name in (TENSORS, STATE)}
    write_text(folder / MANIFEST, json.dumps(digests, indent=1) + "\n", TrainingError)
    _tidy(root)
    return folder


def latest(root: Path) -> Path | None:
    """The newest complete checkpoint, or None."""
    complete = [folder for folder in _folders(root) if (folder / MANIFEST).is_file()]
    return complete[-1] if complete else None


def load(
    folder: Path, model: nn.Module, optimiser: torch.optim.Optimizer
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Put model, optimiser and random number generators back, in place.

    Returns:
        What ``save`` got as ``state`` (with ``step``) and ``tensors`` (on the host).

    Raises:
        TrainingError: a file is missing, changed or unreadable, or is of another model.
    """
    try:
        digests = json.loads((folder / MANIFEST).read_text())
        for name in (TENSORS, STATE):
            if sha256_file(folder / name) != digests[name]:
                raise _damaged(folder / name, "the file is not the one its manifest names")
        tensors = load_file(folder / TENSORS)
        state: dict[str, Any] = json.loads((folder / STATE).read_text())
        model.load_state_dict(_under(tensors, _MODEL))
        slots: dict[int, dict[str, Tensor]] = {}
        for key, tensor in _under(tensors, _OPTIMISER).items():
            index, _, slot = key.partition(".")
            slots.setdefault(int(index), {})[slot] = tensor
        optimiser.load_state_dict({**optimiser.state_dict(), "state": slots})
        _restore_random(_under(tensors, _RANDOM))
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as fault:
        raise _damaged(folder, f"the checkpoint cannot be read ({fault})") from fault
    return state, _under(tensors, _MORE)


def discard(root: Path) -> None:
    """Delete every checkpoint under ``root``."""
    for folder in _folders(root):
        shutil.rmtree(folder)


def _folders(root: Path) -> list[Path]:
    return sorted(folder for folder in root.glob("step-*") if folder.is_dir())


def _tidy(root: Path) -> None:
    complete = [folder for folder in _folders(root) if (folder / MANIFEST).is_file()]
    for folder in _folders(root):
        if folder not in complete[-KEEP:]:
            (folder / MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(folder)


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _random_states() -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _restore_random(states: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def _damaged(path: Path, what: str) -> TrainingError:
    return TrainingError(
        what,
        where=str(path),
        remedy="Delete this checkpoint's folder to go on from the one before, or start afresh.",
    )
