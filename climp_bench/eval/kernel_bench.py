"""All checks, then the timings of what passed: the run behind ``climp-bench bench-kernels``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context

import torch

from climp_bench.errors import BackendError, UsageError
from climp_bench.eval import nvml
from climp_bench.eval.kernel_cases import SIZES, beyond_int32, check_cases, timed_cases
from climp_bench.eval.kernel_checks import check_case, check_ends, crashed, dtypes_of, first_failures
from climp_bench.eval.kernel_inputs import OPS, Case
from climp_bench.eval.kernel_timing import WARMUP, time_case
from climp_bench.ops.dispatch import BackendStatus, backends
from climp_bench.registry import unknown
from climp_bench.results import collect
from climp_bench.results.kernels import BASELINE, Direction, KernelCheck, KernelRun, KernelTiming

NEVER = ("meta", "reference")
"""The one computes nothing, the other is what all are compared with."""

WORKER_BYTES = 8e9
"""Memory of a GPU that there is for each process that checks backends."""
MOST_WORKERS = 16

Step = Callable[[str], object]


@dataclass(frozen=True)
class _Check:
    """A case to check all backends on; ``alone`` where it takes the memory of a whole GPU."""

    case: Case
    dtype: torch.dtype
    check: Callable[..., list[KernelCheck]]
    alone: bool = False

    def __call__(self, bench: Bench, backends: Sequence[str] | None = None) -> list[KernelCheck]:
        names = bench.running[self.case.op] if backends is None else backends
        found = self.check(self.case, names, bench.device, self.dtype, bench.seed)
        if bench.device == "cuda":
            with suppress(RuntimeError):  # a backend that failed may have left no device to this process
                torch.cuda.empty_cache()
        return found


@contextmanager
def _crew(device: str) -> Iterator[Executor | None]:
    """Processes that share a GPU; on a CPU, whose cores a backend takes, there are none."""
    if device != "cuda":
        yield None
        return
    memory = torch.cuda.get_device_properties().total_memory
    size = max(1, min(MOST_WORKERS, os.cpu_count() or 1, int(memory // WORKER_BYTES)))
    with ProcessPoolExecutor(size, get_context("spawn")) as pool:
        try:
            yield pool
        except BrokenExecutor as error:
            raise BackendError(
                "a process that checks backends died", where=device,
                remedy="Check one by one: --op OP --backend NAME.",
            ) from error  # fmt: skip


@dataclass(frozen=True)
class Bench:
    """What to check and time.

    Attributes:
        ops: names of ops; none is all.
        backends: names of backends; none is all that can run. The baseline runs in any case.
        device: ``cpu`` or ``cuda``.
        gpu: name of the accelerator.
        dtype: of the activations: ``float32``, ``bfloat16`` or ``float16``.
        sizes: one of ``SIZES``, or ``tiny`` for tests.
        repeats: timed rounds; None is some number that does not take long.
        backward: also time gradients. They are checked in any case.
        seed: of all inputs.
    """

    ops: Sequence[str] = ()
    backends: Sequence[str] = ()
    device: str = "cpu"
    gpu: str | None = None
    dtype: str = "float32"
    sizes: str = "small"
    repeats: int | None = None
    backward: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.sizes not in (*SIZES, "tiny"):
            raise unknown("size", self.sizes, SIZES)
        for op in self.ops:
            if op not in OPS:
                raise unknown("op", op, OPS)
        named = {status.name for op in self._ops for status in self._statuses(op)}
        for name in self.backends:
            if name == "reference":
                what = "the reference is what backends are checked against; it is not timed"
                raise UsageError(what, where="--backend", remedy=f"Choose of {', '.join(sorted(named))}.")
            if name not in named:
                raise unknown("backend", name, named)
            self._check_runs_somewhere(name)

    def _check_runs_somewhere(self, name: str) -> None:
        of_ops = {op: s for op in self._ops for s in self._statuses(op) if s.name == name}
        if not any(status.available for status in of_ops.values()):
            op, status = next(iter(of_ops.items()))
            raise BackendError(
                f"backend {name!r} cannot run on {self.device}: {status.reason}",
                where=op,
                remedy="Leave --backend out for all that can run here; `climp-bench doctor` says why.",
            )

    @property
    def _ops(self) -> tuple[str, ...]:
        return tuple(op for op in OPS if op in (self.ops or OPS))

    def _statuses(self, op: str) -> list[BackendStatus]:
        return [status for status in backends(op, self.device) if status.name not in NEVER]

    @property
    def running(self) -> dict[str, list[str]]:
        """The backends to run, by op, in order of preference."""
        wanted = {*self.backends, BASELINE}
        return {
            op: [
                s.name for s in self._statuses(op) if s.available and (not self.backends or s.name in wanted)
            ]
            for op in self._ops
        }

    @property
    def absent(self) -> dict[str, str]:
        """Why a backend cannot run here, by ``op: backend``."""
        return {
            f"{op}: {s.name}": s.reason for op in self._ops for s in self._statuses(op) if not s.available
        }

    @property
    def steps(self) -> int:
        """How often ``run`` reports progress."""
        checks = sum(1 for op in self._ops for _ in self._checks(op))
        return checks + len(self._directions) * sum(len(timed_cases(op, self.sizes)) for op in self._ops)

    @property
    def _dtype(self) -> torch.dtype:
        return {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(self.dtype, torch.float32)

    @property
    def _directions(self) -> tuple[Direction, ...]:
        return ("forward", "forward+backward") if self.backward else ("forward",)

    def _checks(self, op: str) -> Iterator[_Check]:
        for case in check_cases(op):
            for dtype in dtypes_of(case, self._dtype):
                yield _Check(case, dtype, check_case)
        for case in timed_cases(op, self.sizes):
            yield _Check(case, self._dtype, partial(check_ends, gradients=self.backward))
        if self.device == "cuda":
            without = partial(check_ends, gradients=False)
            yield _Check(beyond_int32(op), torch.bfloat16, without, alone=True)

    def run(self, step: Step) -> KernelRun:
        """Check everything, then time the backends that passed everything.

        Args:
            step: told what comes next, ``steps`` times.
        """
        checks, timings = self._checked(step), []
        for op, names in self.running.items():
            timings += self._times(op, names, checks, step)
        return KernelRun(
            device=self.device,
            sizes=self.sizes,
            dtype=self.dtype,
            seed=self.seed,
            warmup=WARMUP,
            threads=torch.get_num_threads(),
            driver=nvml.driver() if self.device == "cuda" else None,
            cuda=torch.version.cuda if self.device == "cuda" else None,
            absent=self.absent,
            checks=tuple(checks),
            timings=tuple(timings),
            provenance=collect(device=self.device, dtype=self.dtype, seed=self.seed, gpu=self.gpu),
        )

    def _checked(self, step: Step) -> list[KernelCheck]:
        """All checks; on a GPU several processes make them, as most of the time goes into compiling."""
        jobs = sorted((job for op in self._ops for job in self._checks(op)), key=lambda job: job.alone)
        found = []
        with _crew(self.device) as crew:
            waiting = [crew.submit(job, self) if crew and not job.alone else None for job in jobs]
            for job, future in zip(jobs, waiting, strict=True):
                step(f"checking {job.case.op}: {job.case.name}")
                found += future.result() if future else self._apart(job) if job.alone else job(self)
        return found

    def _apart(self, job: _Check) -> list[KernelCheck]:
        """Each backend in a process of its own: after an access out of bounds a process has no device."""
        found = []
        for name in self.running[job.case.op]:
            with ProcessPoolExecutor(1, get_context("spawn")) as own:
                try:
                    found += own.submit(job, self, [name]).result()
                except BrokenExecutor:
                    found.append(crashed(job.case, name, job.dtype))
        return found

    def _times(
        self, op: str, names: Sequence[str], checks: Sequence[KernelCheck], step: Step
    ) -> list[KernelTiming]:
        failures = first_failures(checks)
        withheld = {
            name: f"withheld: failed {failures[op, name]}" for name in names if (op, name) in failures
        }
        timings = []
        for case in timed_cases(op, self.sizes):
            for direction in self._directions:
                step(f"timing {op}: {case.name}")
                timings += time_case(
                    case, names, withheld, self.device, self._dtype, direction,
                    repeats=self.repeats, seed=self.seed,
                )  # fmt: skip
        return timings
