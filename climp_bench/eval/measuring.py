"""Runs one cell of ``climp-bench efficiency``: ``python -m climp_bench.eval.measuring``, JSON in and out.

A process of its own for every cell, so that nothing which ran before shapes memory or time, and running out
of memory ends the cell alone. It answers a job a line, all of the same cell. In order: memory, agreement of
the scans with their references, latency at batch 1, on a GPU the same as a graph, throughput, energy. Inputs
are standard-normal images or random tokens; weights are freshly initialised: neither values nor content
matter to any of it.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from climp_bench.errors import ClimpError
from climp_bench.eval import memory, nvml
from climp_bench.eval.kernel_checks import require_right
from climp_bench.models.catalogue import build_tower, find, operator
from climp_bench.ops.dispatch import resolve
from climp_bench.report.efficiency_tables import OUT_OF_BUDGET

FEWEST = 3
"""Repetitions of a pass that are made unless they would exceed the budget."""
SHARE = 1 / 7
"""Part of the budget after which latency has been measured enough, once ``FEWEST`` are made."""
MOST = {"cpu": 20, "cuda": 200}
"""Repetitions of a pass at which it ends in any case."""
LARGEST_BATCH = 1024
GAIN = 1.02
"""The search for the best batch ends when two in a row raise throughput by less than this over the best."""


@dataclass(frozen=True)
class Job:
    """One cell to measure.

    Attributes:
        model: ``family@scale``.
        tower: ``image`` or ``text``.
        size: side of the image in pixels, or length of the text in tokens.
        device: ``cpu`` or ``cuda``.
        dtype: float32, or lower for autocast.
        compiled: run the tower through ``torch.compile``.
        batches: batch sizes whose throughput is measured; None searches, on a CPU takes 1.
        budget_s: seconds for all passes together.
        part: ``ready`` starts, builds and compiles; ``all`` measures; ``times`` leaves out memory and energy;
            ``memory`` is memory alone.
        seed: of weights and inputs.
    """

    model: str
    tower: str
    size: int
    device: str
    dtype: str = "float32"
    compiled: bool = False
    batches: tuple[int, ...] | None = None
    budget_s: float = 30.0
    part: str = "all"
    seed: int = 0


@dataclass
class Measurement:
    """What a cell gave.

    Attributes:
        values: single numbers by metric.
        missing: why a metric has no number, by metric.
        latencies_ms: every timed pass at batch 1.
        graphed_ms: every timed replay of the same as a CUDA graph.
        rates: inputs a second by batch size.
        passes: timed passes behind each rate.
        backends: the backend that ran, by op, after it agreed with the reference.
        facts: side facts for the record.
        problem: what, where and remedy if the cell broke off.
    """

    values: dict[str, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    latencies_ms: list[float] = field(default_factory=list)
    graphed_ms: list[float] = field(default_factory=list)
    rates: dict[int, float] = field(default_factory=dict)
    passes: dict[int, int] = field(default_factory=dict)
    backends: dict[str, str] = field(default_factory=dict)
    facts: dict[str, float | int | str | None] = field(default_factory=dict)
    problem: dict[str, str] | None = None


class Subject:
    """A tower on its device, and how to feed it."""

    def __init__(self, job: Job) -> None:
        spec = find(job.model)
        self.job, self.config = job, spec.image if job.tower == "image" else spec.text
        torch.manual_seed(job.seed)
        self.tower = build_tower(self.config).eval().to(job.device)
        if name := operator(self.config):
            resolve(name, job.device)  # the compiler cannot trace the import of a backend
        self.forward: Any = torch.compile(self.tower, dynamic=False) if job.compiled else self.tower
        self.weights_bytes = torch.cuda.memory_allocated() if job.device == "cuda" else 0
        self.compile_s: float | None = None

    def compile(self, batches: Sequence[int]) -> None:
        """Compile for these batch sizes, once; a larger one that exceeds the memory is left out."""
        if not self.job.compiled or self.compile_s is not None:
            return
        self.compile_s = 0.0
        for batch in batches:
            try:
                self.compile_s += self.seconds(self.inputs(batch, self.job.size))
            except (RuntimeError, MemoryError) as error:
                if batch == 1 or not out_of_memory(error):
                    raise

    def inputs(self, batch: int, size: int) -> tuple[Tensor, ...]:
        """Random images (B, 3, size, size), or token ids (B, size) with their lengths."""
        if self.job.tower == "image":
            return (torch.randn(batch, 3, size, size).to(self.job.device),)
        ids_BL = torch.randint(self.config.vocab_size, (batch, size))
        return ids_BL.to(self.job.device), torch.full((batch,), size).to(self.job.device)

    def run(self, inputs: tuple[Tensor, ...], forward: Any = None) -> Tensor:
        """One forward pass in inference mode; on a GPU it may still be running."""
        enabled = self.job.dtype != "float32"
        dtype = getattr(torch, self.job.dtype) if enabled else torch.bfloat16
        with torch.inference_mode(), torch.autocast(self.job.device, dtype=dtype, enabled=enabled):
            output: Tensor = (forward or self.forward)(*inputs)
        return output

    def features(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """The features of every pixel or token."""
        return self.run(inputs[:1], self.tower.forward_features)

    def seconds(self, inputs: tuple[Tensor, ...], passes: int = 1) -> float:
        """How long ``passes`` passes take, one after the other, from an idle device to an idle device."""
        self.wait()
        start = time.perf_counter()
        for _ in range(passes):
            self.run(inputs)
        self.wait()
        return time.perf_counter() - start

    def wait(self) -> None:
        """Until the device is idle."""
        if self.job.device == "cuda":
            torch.cuda.synchronize()


def measure(job: Job, subject: Subject | None = None) -> Measurement:
    """Measure one cell in this process.

    Args:
        job: what to measure.
        subject: the tower, if it is built.

    Raises:
        ClimpError: no such model, a size that the tower cannot take, or a backend that is wrong.
        RuntimeError, MemoryError: as torch raises them, when memory is out or compiling fails.
    """
    result = Measurement()
    subject = subject or Subject(job)
    subject.job = job
    subject.compile((1, *(job.batches or ())) if job.part == "ready" else (1,))
    if job.part in ("all", "memory"):
        _memory(subject, result)
    if job.part in ("ready", "memory"):
        return result
    if name := operator(subject.config):
        checked = require_right(name, job.device)
        result.backends[name] = checked.backend
        result.facts["error_against_reference"] = checked.values
    result.facts |= _host(job.device)
    inputs = subject.inputs(1, job.size)
    if subject.compile_s is not None:
        result.facts["compile_s"] = subject.compile_s
    start = time.monotonic()
    first = subject.seconds(inputs)
    if 2 * first > job.budget_s:
        reason = f"the first pass took {first:.1f} s and only warms up; the budget is {job.budget_s:g} s"
        result.missing |= dict.fromkeys(("latency_ms", "throughput"), reason)
        return result
    most = MOST[job.device]
    times = repeat(lambda: subject.seconds(inputs), first, job.budget_s, most)
    result.latencies_ms = [1000 * seconds for seconds in times]
    if job.device == "cuda":
        _graphed(subject, inputs, result)
    _throughput(subject, result, start + job.budget_s)
    if job.device == "cuda" and job.part == "all" and result.rates:
        _energy(subject, result)
    return result


def repeat(timed: Callable[[], float], first: float, budget_s: float, most: int) -> list[float]:
    """Repeat a pass: ``FEWEST`` times, then on for a share of the budget, never past it but for one pass.

    Args:
        timed: makes one pass and returns its seconds.
        first: seconds of the pass that warmed up; it counts against the budget.
        budget_s: seconds for all of them.
        most: repetitions at which it ends.

    Returns:
        The seconds of each repetition, at least one.
    """
    times = [timed()]
    spent = first + times[0]
    while len(times) < most:
        limit = budget_s if len(times) < FEWEST else SHARE * budget_s
        if spent + times[-1] > limit:
            break
        times.append(timed())
        spent += times[-1]
    return times


def _graphed(subject: Subject, inputs: tuple[Tensor, ...], result: Measurement) -> None:
    """Latency at batch 1 without the launches; that a pass cannot be captured is a reason, not a failure."""
    from climp_bench.eval.graphed import GraphError, capture

    job = subject.job
    try:
        replay = capture(lambda: subject.run(inputs))
    except GraphError as error:
        result.missing["latency_graphed_ms"] = str(error)
        return
    times = repeat(replay, replay(), job.budget_s, MOST[job.device])
    result.graphed_ms = [1000 * seconds for seconds in times]


def _memory(subject: Subject, result: Measurement) -> None:
    job = subject.job
    if job.compiled:
        _memory_compiled(subject, result)
    elif job.device == "cuda":
        taken = memory.on_cuda(lambda: subject.inputs(1, job.size), subject.run, subject.features)
        result.values |= {name: float(number) for name, number in taken.items()}
    else:
        subject.run(subject.inputs(1, _smallest(subject)))  # libraries load and threads start
        peak, how = memory.peak_rss(lambda: subject.run(subject.inputs(1, job.size)))
        result.values["peak_memory_bytes"] = peak
        result.facts["peak_memory_by"] = how


def _memory_compiled(subject: Subject, result: Measurement) -> None:
    """On a GPU the peak of a pass after compiling, over the weights as without compiling."""
    if subject.job.device == "cpu":
        reason = "the compiler shares the process, and its memory is not told apart"
        result.missing["peak_memory_bytes"] = reason
        return
    inputs = subject.inputs(1, subject.job.size)
    torch.cuda.reset_peak_memory_stats()
    subject.seconds(inputs)
    result.values["peak_memory_bytes"] = float(torch.cuda.max_memory_allocated() - subject.weights_bytes)


def _smallest(subject: Subject) -> int:
    """A size that costs next to nothing."""
    if subject.job.tower == "text":
        return min(8, subject.job.size)
    return min(4 * getattr(subject.config, "patch_size", 16), subject.job.size)


def _throughput(subject: Subject, result: Measurement, deadline: float) -> None:
    """Inputs a second at each batch size, until memory, time or the gain runs out."""
    job = subject.job
    searching = job.batches is None and job.device == "cuda"
    single = sum(result.latencies_ms) / len(result.latencies_ms) / 1000
    if searching:
        batches: Sequence[int] = [2**k for k in range(LARGEST_BATCH.bit_length())]
    else:
        batches = job.batches or (1,)
    without_gain = 0  # one alone may be the host's: at small batches a GPU waits for launches
    for batch in batches:
        if batch == 1:
            result.rates[1], result.passes[1] = 1 / single, len(result.latencies_ms)
            continue
        expected = batch / max(result.rates.values(), default=1 / single)
        if (searching or job.device == "cpu") and time.monotonic() + 2 * expected > deadline:
            stalled = f"{batch // 2} gains less than {100 * (GAIN - 1):.0f}%, the budget ends before {batch}"
            result.facts["batches_end"] = stalled if without_gain else f"{batch} {OUT_OF_BUDGET}"
            break
        try:
            rate, passes, compiling = _rate(subject, batch, deadline)
        except (RuntimeError, MemoryError) as error:
            if not (result.rates and out_of_memory(error)):
                raise
            result.facts["batches_end"] = f"{batch} exceeds the memory"
            break
        deadline += compiling
        gained = rate > GAIN * max(result.rates.values(), default=0)
        without_gain = 0 if gained else without_gain + 1
        result.rates[batch], result.passes[batch] = rate, passes
        if searching and without_gain == 2:
            result.facts["batches_end"] = f"{batch // 2} and {batch} gain less than {100 * (GAIN - 1):.0f}%"
            break
    if not result.rates:
        what = f"no batch of {', '.join(map(str, batches))} fits into the budget of {job.budget_s:g} s"
        result.missing["throughput"] = what


def _rate(subject: Subject, batch: int, deadline: float) -> tuple[float, int, float]:
    """Inputs a second, the passes behind it, and what compiling took, which counts against no budget.

    About half a second of passes, at least ``FEWEST``. A GPU's kernels are compiled when they first meet a
    kind of batch; on a CPU the first pass is a pass.
    """
    inputs = subject.inputs(batch, subject.job.size)
    warming = subject.seconds(inputs)
    once = subject.seconds(inputs)
    compiling = max(0.0, warming - once) if subject.job.device == "cuda" else 0.0
    left = max(0.0, deadline + compiling - time.monotonic())
    passes = max(1, min(max(FEWEST, math.ceil(0.5 / once)), int(left / once)))
    return batch * passes / subject.seconds(inputs, passes), passes, compiling


def _energy(subject: Subject, result: Measurement) -> None:
    """Energy an input and utilisation at the best batch, over about two seconds."""
    batch = max(result.rates, key=lambda size: result.rates[size])
    inputs = subject.inputs(batch, subject.job.size)
    passes = max(1, math.ceil(2 * result.rates[batch] / batch))
    subject.seconds(inputs)
    readings = nvml.watch(lambda: subject.seconds(inputs, passes))
    result.facts |= readings.facts
    per_input = None if readings.joules is None else readings.joules / (passes * batch)
    for name, value in (("energy", per_input), ("gpu_utilisation", readings.utilisation)):
        if value is None:
            result.missing[name] = readings.reason or "NVML gave no sample"
        else:
            result.values[name] = value


def _host(device: str) -> dict[str, float | int | str | None]:
    """What else shapes times here."""
    facts: dict[str, float | int | str | None] = {"threads": torch.get_num_threads()}
    if hasattr(os, "getloadavg"):
        facts["load_before"] = round(os.getloadavg()[0], 2)
    if device == "cuda":
        products, convolutions = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        facts["tf32"] = (
            f"products {'yes' if products else 'no'}, convolutions {'yes' if convolutions else 'no'}"
        )
    return facts


def out_of_memory(error: BaseException) -> bool:
    """Whether this is how Python, or torch on a CPU or a GPU, says that memory is out."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def problem_of(error: Exception) -> dict[str, str]:
    """What, where and remedy of an error that ended a cell."""
    if isinstance(error, ClimpError):
        return {"what": error.what, "where": error.where, "remedy": error.remedy}
    first = (str(error).strip().splitlines() or [""])[0]
    if out_of_memory(error):
        remedy = "Free memory, or leave out this size: --res."
        return {"what": f"out of memory ({type(error).__name__}: {first})", "where": "", "remedy": remedy}
    return {"what": f"{type(error).__name__}: {first}".rstrip(": "), "where": "", "remedy": ""}


def main() -> None:
    """Read jobs of one cell from stdin, a line each, and write a measurement a line to stdout.

    Whatever libraries print goes to stderr.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    subject = None
    for line in sys.stdin:
        asked = json.loads(line)
        job = Job(**asked | {"batches": tuple(asked["batches"] or ()) or None})
        try:
            subject = subject or Subject(job)
            result = measure(job, subject)
            if job.device == "cuda":
                torch.cuda.empty_cache()  # whoever measures next may need it
        except Exception as error:
            result = Measurement(problem=problem_of(error))
        print(json.dumps(asdict(result), allow_nan=False), file=answers, flush=True)


if __name__ == "__main__":
    main()
