"""What a tower costs at a size: counted from shapes, or measured by processes of its own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from climp_bench.eval.cell_process import COMMAND, CellProcess
from climp_bench.eval.measuring import Job, Measurement
from climp_bench.models.counting import TowerCost, count_image, count_text
from climp_bench.models.spec import ModelSpec

NO_WORKSPACE = {"CUBLAS_WORKSPACE_CONFIG": ":0:0"}
"""With these in the environment, cuBLAS keeps no workspace between products."""


@dataclass(frozen=True)
class Conditions:
    """What holds for every cell of a run.

    Attributes:
        device: ``cpu``, ``cuda`` or ``meta`` (counts only).
        gpu: its name; None on a CPU.
        dtype: float32, or lower for autocast.
        batches: batch sizes of the throughput; None for automatic.
        budget_s: seconds of a cell for all its passes.
        rounds: times that a cell is timed, in turn with the other models of its size.
        seed: of weights and inputs.
        threads: of torch on a CPU.
    """

    device: str
    gpu: str | None = None
    dtype: str = "float32"
    batches: tuple[int, ...] | None = None
    budget_s: float = 30.0
    rounds: int = 1
    seed: int = 0
    threads: int = 1

    @property
    def suite(self) -> str:
        """``efficiency-cpu``, ``efficiency-meta``, or with the GPU's name."""
        name = re.sub(r"[^A-Za-z0-9]+", "-", self.gpu or "") if self.device == "cuda" else self.device
        return f"efficiency-{name.strip('-')}"


@dataclass(frozen=True)
class Cell:
    """One tower at one size.

    Attributes:
        spec: the model it is of.
        tower: ``image`` or ``text``.
        size: side of the image in pixels, or tokens of the text.
        compiled: through ``torch.compile``.
    """

    spec: ModelSpec
    tower: str
    size: int
    compiled: bool = False

    @property
    def config(self) -> Any:
        """The tower's configuration."""
        return self.spec.image if self.tower == "image" else self.spec.text

    @property
    def task(self) -> str:
        """``image-224`` or ``text-77``."""
        return f"{self.tower}-{self.size}"

    @property
    def protocol(self) -> str:
        """``forward-1-eager`` or ``forward-1-compiled``: version 1 of how it is measured."""
        return f"forward-1-{'compiled' if self.compiled else 'eager'}"

    @property
    def label(self) -> str:
        """For messages."""
        unit = "px" if self.tower == "image" else "tokens"
        return f"{self.spec.name} {self.size} {unit}{' (compiled)' if self.compiled else ''}"

    @property
    def inputs(self) -> str:
        """The plural of what the tower takes."""
        return f"{self.tower}s"


def count(cell: Cell) -> TowerCost:
    """Parameters, MACs and FLOPs of one input. Raises ``UsageError`` if the tower cannot take the size."""
    return _count(cell.config, cell.tower, cell.size)


@cache
def _count(config: Any, tower: str, size: int) -> TowerCost:
    """Many models share a tower."""
    return count_image(config, (size, size)) if tower == "image" else count_text(config, size)


class CellMeter:
    """The processes that measure one cell: its own, and on a GPU a second that measures memory alone.

    The second has no cuBLAS workspace, to tell that part of the memory apart. Where several cells are to be
    compared, each ``make_ready`` (start, build, compile) may run while others do; what is measured may not.

    Args:
        cell: what to measure.
        conditions: how.
        command: see ``CellProcess``.
        limit_s: see ``CellProcess``.
        environment: variables to set for the processes.
    """

    def __init__(
        self, cell: Cell, conditions: Conditions, command: Sequence[str] = COMMAND,
        limit_s: float | None = None, environment: dict[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.job = Job(
            model=cell.spec.name, tower=cell.tower, size=cell.size, device=conditions.device,
            dtype=conditions.dtype, compiled=cell.compiled, batches=conditions.batches,
            budget_s=conditions.budget_s, seed=conditions.seed,
        )  # fmt: skip
        self._own = CellProcess(self.job, command, environment, limit_s)
        self._bare: CellProcess | None = None
        if conditions.device == "cuda" and not cell.compiled:
            self._bare = CellProcess(self.job, command, {**(environment or {}), **NO_WORKSPACE}, limit_s)

    def make_ready(self, batches: tuple[int, ...] | None = None) -> None:
        """Begin to start, build and compile for batch 1 and ``batches``; ``is_ready`` waits for it."""
        self._own.ask("ready", batches)
        if self._bare:
            self._bare.ask("ready")

    def is_ready(self) -> Measurement:
        """Wait until nothing runs any more; with what went wrong, if anything."""
        own = self._own.answer()
        if self._bare:
            self._bare.answer()  # what is wrong with it, its next answer says again
        return own

    def measure(self, part: str = "all", batches: tuple[int, ...] | None = None) -> Measurement:
        """Measure a part (see ``Job``), with batch sizes in place of those of the conditions."""
        self._own.ask(part, batches)
        result = self._own.answer()
        if self._bare and part == "all" and not result.problem:
            self._bare.ask("memory")
            _add_bare(result, self._bare.answer())
            self._bare.close()
            self._bare = None
        return result

    def close(self) -> None:
        """End the processes."""
        self._own.close()
        if self._bare:
            self._bare.close()


def _add_bare(result: Measurement, bare: Measurement) -> None:
    for name in [name for name in result.values if name.endswith("_memory_bytes")]:
        metric = name.replace("_memory_bytes", "_memory_without_workspace_bytes")
        if bare.problem:
            result.missing[metric] = bare.problem["what"]
        else:
            result.values[metric] = bare.values[name]
