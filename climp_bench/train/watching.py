"""Where the numbers of a run go: always a file of JSON lines, and on request TensorBoard and W&B."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from climp_bench.errors import TrainingError, UsageError
from climp_bench.files import write_text

METRICS = "metrics.jsonl"


class Watcher(Protocol):
    """Something that is told the numbers of a step."""

    def record(self, step: int, values: Mapping[str, float]) -> None:
        """The numbers, by name."""

    def close(self) -> None:
        """The run is over."""


class JsonLines:
    """``metrics.jsonl``: a line for each time that something was recorded.

    Args:
        folder: of the run.
        step: where the run goes on; lines past it, and one that a kill cut, are dropped.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._path = folder / METRICS
        kept = self._path.read_text().splitlines(keepends=True) if step and self._path.is_file() else []
        lines = [line for line in kept if line.endswith("\n") and json.loads(line)["step"] <= step]
        write_text(self._path, "".join(lines), TrainingError)

    def write(self, line: Mapping[str, Any]) -> None:
        """Add a line; ``step`` is among its keys."""
        try:
            with self._path.open("a") as handle:
                handle.write(json.dumps(line, allow_nan=False) + "\n")
        except OSError as fault:
            raise TrainingError(
                f"cannot be written ({fault.strerror})", where=str(self._path),
                remedy="Free some space, then run the same command: it goes on from the last checkpoint.",
            ) from fault  # fmt: skip


class TensorBoard:
    """Event files in ``tensorboard`` of the run's folder."""

    def __init__(self, folder: Path, name: str, recipe: Mapping[str, Any]) -> None:
        writer = _wanted("torch.utils.tensorboard", "tensorboard").SummaryWriter
        self._writer = writer(str(folder / "tensorboard"))

    def record(self, step: int, values: Mapping[str, float]) -> None:
        """See ``Watcher``."""
        for key, value in values.items():
            self._writer.add_scalar(key, value, step)

    def close(self) -> None:
        """See ``Watcher``."""
        self._writer.close()


class Wandb:
    """A run of Weights & Biases; it goes on under the name of the run's folder."""

    def __init__(self, folder: Path, name: str, recipe: Mapping[str, Any]) -> None:
        wandb = _wanted("wandb", "wandb")
        self._run = wandb.init(
            project="climp-bench", name=name, dir=str(folder), config=dict(recipe), resume="allow",
            id=folder.absolute().name,
        )  # fmt: skip

    def record(self, step: int, values: Mapping[str, float]) -> None:
        """See ``Watcher``."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """See ``Watcher``."""
        self._run.finish()


_KNOWN: dict[str, Callable[[Path, str, Mapping[str, Any]], Watcher]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
}


def open_watchers(names: Iterable[str], folder: Path, name: str, recipe: Mapping[str, Any]) -> list[Watcher]:
    """The watchers that a recipe asks for.

    Raises:
        UsageError: a package that one needs is not installed.
    """
    return [_KNOWN[word](folder, name, recipe) for word in names]


def _wanted(module: str, package: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise UsageError(
            f"{package} is not installed", where=f"run.watch = {package}",
            remedy="pip install 'climp-bench[tracking]', or leave it out: metrics.jsonl is written always.",
        ) from error  # fmt: skip
