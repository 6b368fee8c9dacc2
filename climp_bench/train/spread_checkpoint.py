"""Checkpoints that every process writes its part of, and that any number of processes reads.

``step-N/tensors`` is in the format of torch.distributed.checkpoint, ``step-N/state.json`` the rest, and
``step-N/manifest.json`` names every file with its size; it is written last, and a folder without it does not
count. torch.distributed.checkpoint keeps its table of contents as a pickle: go on only from checkpoints of
your own.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load as load_tensors
from torch.distributed.checkpoint.state_dict_saver import save as save_tensors

from climp_bench.errors import RankError, TrainingError
from climp_bench.files import write_text
from climp_bench.train.checkpoint import MANIFEST, STATE
from climp_bench.train.learner import Learner
from climp_bench.train.world import World

TENSORS = "tensors"
_SLOTS = ("exp_avg", "exp_avg_sq")


def save(
    root: Path,
    step: int,
    learner: Learner,
    optimiser: torch.optim.AdamW,
    state: Mapping[str, Any],
    keep: int,
) -> Path:
    """Write a checkpoint together, then delete all but the newest ``keep``.

    Args:
        root: folder of the run's checkpoints, the same for every process.
        step: number of steps done.
        learner, optimiser: what to keep.
        state: what else the run needs, as JSON.
        keep: at least 1.

    Raises:
        TrainingError: in every process, if one of them could not write; the checkpoints before stay.
    """
    folder, world = root / f"step-{step:08d}", learner.world
    with _together(world, folder):
        if world.rank == 0:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
    with _together(world, folder), _quiet():
        save_tensors(_tensors(learner, optimiser), checkpoint_id=folder / TENSORS)
    with _together(world, folder):
        if world.rank == 0:
            write_text(folder / STATE, json.dumps({"step": step, **state}, indent=1) + "\n", TrainingError)
            write_text(folder / MANIFEST, json.dumps(_sizes(folder), indent=1) + "\n", TrainingError)
            for old in complete(root)[:-keep]:
                (old / MANIFEST).unlink()
            for cut_off in set(_folders(root)) - set(complete(root)):
                shutil.rmtree(cut_off)
    return folder


def complete(root: Path) -> list[Path]:
    """The checkpoints that were written to their end, oldest first."""
    return [folder for folder in _folders(root) if (folder / MANIFEST).is_file()]


def load(folder: Path, learner: Learner, optimiser: torch.optim.AdamW) -> dict[str, Any]:
    """Put model and optimiser back, in place, on any number of processes; what ``save`` got as ``state``.

    Raises:
        TrainingError: a file is missing, cut off or unreadable, or is of another model.
    """
    try:
        if _sizes(folder) != json.loads((folder / MANIFEST).read_text()):
            raise ValueError("its files are not those that its manifest names")
        state: dict[str, Any] = json.loads((folder / STATE).read_text())
        _prepare(learner, optimiser)
        with _quiet(), torch.no_grad():
            load_tensors(_tensors(learner, optimiser), checkpoint_id=folder / TENSORS)
    except (OSError, ValueError, KeyError, RuntimeError, CheckpointException) as fault:
        raise TrainingError(
            f"the checkpoint cannot be read ({str(fault).strip().splitlines()[0][:300]})", where=str(folder),
            remedy="Delete this folder to go on from the checkpoint before, or start afresh.",
        ) from fault  # fmt: skip
    return state


def discard(root: Path) -> None:
    """Delete every checkpoint under ``root``."""
    for folder in _folders(root):
        shutil.rmtree(folder)


def _tensors(learner: Learner, optimiser: torch.optim.AdamW) -> dict[str, Any]:
    """By name, sharing memory with model and optimiser: they are read from and loaded into."""
    named = learner.parameters()
    model = learner.model.state_dict() | {name: parameter.detach() for name, parameter in named.items()}
    slots = {
        f"{name}.{slot}": value
        for name, parameter in named.items()
        for slot, value in optimiser.state.get(parameter, {}).items()
    }
    return {"model": model, "optimiser": slots}


def _prepare(learner: Learner, optimiser: torch.optim.AdamW) -> None:
    """Give the optimiser the slots that its first step would make."""
    for parameter in learner.parameters().values():
        where = parameter.device if optimiser.defaults["fused"] else torch.device("cpu")
        slots: dict[str, Tensor] = {"step": torch.zeros((), device=where)}
        slots |= {slot: torch.zeros_like(parameter.detach()) for slot in _SLOTS}
        optimiser.state[parameter] = slots


@contextmanager
def _together(world: World, folder: Path) -> Iterator[None]:
    """Within, one process's failure to write is everyone's, and what it began is taken away."""
    fault: BaseException | None = None
    try:
        yield
    except RankError:
        raise
    except (OSError, TrainingError, RuntimeError, CheckpointException) as error:
        fault = error
    if world.any(fault is not None):
        if world.rank == 0:
            shutil.rmtree(folder, ignore_errors=True)
        said = "another process could not write its part" if fault is None else _reason(fault)
        raise TrainingError(
            f"the checkpoint cannot be written ({said})", where=str(folder),
            remedy="Free some space, then run the same command: it goes on from the checkpoint before.",
        ) from fault  # fmt: skip


def _reason(fault: BaseException) -> str:
    """The last line that says anything: torch.distributed.checkpoint puts whole tracebacks before it."""
    lines = [line.strip() for line in str(fault).splitlines() if line.strip(" ^~")]
    telling = [line for line in lines if "Error" in line and "raise" not in line]
    return (telling or lines or [type(fault).__name__])[-1][:300]


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="torch.distributed")
        yield


def _folders(root: Path) -> list[Path]:
    return sorted(folder for folder in root.glob("step-*") if folder.is_dir())


def _sizes(folder: Path) -> dict[str, int]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != MANIFEST)
    return {str(path.relative_to(folder)): path.stat().st_size for path in files}
