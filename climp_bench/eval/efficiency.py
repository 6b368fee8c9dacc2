"""What a tower costs at a size: counted from shapes, and measured in a process of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import climp_bench
from climp_bench.eval.measuring import Job, Measurement
from climp_bench.models.counting import TowerCost, count_image, count_text
from climp_bench.models.spec import ModelSpec

START_UP_S = 300.0
"""How long a cell may take to start, build its tower and, besides its budget, make one pass."""
COMPILING_S = 900.0
"""How much longer if the tower is compiled."""
COMMAND = (sys.executable, "-m", "climp_bench.eval.measuring")


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


def measure(
    cell: Cell,
    conditions: Conditions,
    *,
    part: str = "all",
    batches: tuple[int, ...] | None = None,
    command: Sequence[str] = COMMAND,
    timeout_s: float | None = None,
) -> Measurement:
    """Measure a cell in a fresh process. Whatever happens to that process is in the result.

    Args:
        cell: what to measure.
        conditions: how.
        part: see ``Job``.
        batches: in place of those of ``conditions``.
        command: what runs the job: JSON in, JSON out.
        timeout_s: when to give it up; by default a generous time to start, and the budget.
    """
    job = Job(
        model=cell.spec.name,
        tower=cell.tower,
        size=cell.size,
        device=conditions.device,
        dtype=conditions.dtype,
        compiled=cell.compiled,
        batches=batches or conditions.batches,
        budget_s=conditions.budget_s,
        part=part,
        seed=conditions.seed,
    )
    result = _run(job, command, timeout_s or START_UP_S + 2 * job.budget_s + COMPILING_S * cell.compiled)
    if part == "all" and job.device == "cuda" and not cell.compiled and not result.problem:
        _add_without_workspace(result, job, command)
    return result


def _add_without_workspace(result: Measurement, job: Job, command: Sequence[str]) -> None:
    """The memory again in a process whose cuBLAS keeps no workspace, to tell its part apart."""
    job = Job(**asdict(job) | {"part": "memory"})
    bare = _run(job, command, START_UP_S + 2 * job.budget_s, {"CUBLAS_WORKSPACE_CONFIG": ":0:0"})
    for name in [name for name in result.values if name.endswith("_memory_bytes")]:
        metric = name.replace("_memory_bytes", "_memory_without_workspace_bytes")
        if bare.problem:
            result.missing[metric] = bare.problem["what"]
        else:
            result.values[metric] = bare.values[name]


def _run(
    job: Job, command: Sequence[str], timeout_s: float, environment: Mapping[str, str] | None = None
) -> Measurement:
    here = str(Path(climp_bench.__file__).resolve().parents[1])
    paths = os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))
    env = {**os.environ, "PYTHONPATH": paths, **(environment or {})}
    try:
        done = subprocess.run(
            command, input=json.dumps(asdict(job)), capture_output=True, text=True, env=env, timeout=timeout_s
        )
    except subprocess.TimeoutExpired:
        what = f"it was not done after {timeout_s:.0f} s and was stopped"
        return Measurement(problem={"what": what, "where": "", "remedy": "Leave out this size: --res."})
    if done.returncode:
        return Measurement(problem=_crash(done.returncode, done.stderr))
    answer = json.loads(done.stdout)
    for name in ("rates", "passes"):
        answer[name] = {int(batch): number for batch, number in answer[name].items()}
    return Measurement(**answer)


def _crash(code: int, stderr: str) -> dict[str, str]:
    """What is known of a process that ended without an answer."""
    if code < 0:
        killed = code == -9
        what = f"its process was ended by signal {-code}" + " (often: out of memory)" * killed
        remedy = "Free memory, or leave out this size: --res." if killed else ""
        return {"what": what, "where": "", "remedy": remedy}
    last = next((line for line in reversed(stderr.splitlines()) if line.strip()), "no message")
    return {"what": f"its process ended with {code}: {last.strip()}", "where": "", "remedy": ""}
