"""What ``bench-kernels`` finds: checks of backends against the reference, timings of those that passed."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from climp_bench.results.schema import Part, Provenance

BASELINE = "torch"
"""The backend that speeds are relative to."""

Direction = Literal["forward", "forward+backward"]


class KernelCheck(Part):
    """One backend on one case.

    Attributes:
        op, backend, case, dtype: what was checked; dtype is that of the activations, parameters are float32.
        oracle: what it was compared with: ``reference``, or ``torch in float64`` where loops take too long.
        status: ``skipped`` has a reason; ``failed`` has one where more can be said than the errors do.
        values: largest error of the result over its largest value; None if not finite or not measured.
        gradients: the same for the gradient of each argument.
        tolerance, gradient_tolerance: what they had to stay below (result, gradients).
        reason: see ``status``.
    """

    op: str
    backend: str
    case: str
    dtype: str
    oracle: str
    status: Literal["passed", "failed", "skipped"]
    values: float | None = None
    gradients: dict[str, float | None] = Field(default_factory=dict)
    tolerance: float
    gradient_tolerance: float
    reason: str = ""


class KernelTiming(Part):
    """How long one call of a backend takes.

    Attributes:
        op, backend, size, dtype, direction: what was timed.
        shape: the arguments that make ``size``, as text.
        repeats: rounds in which it was timed.
        median_ms, min_ms, p95_ms: over the repeats, of one call; the last takes 20 repeats. None: not timed.
        calls: calls of which a repeat is the mean.
        peak_mib: peak memory of a call over what was allocated before it; CUDA only.
        speed: the baseline's median over this one's: 2 is twice as fast.
        reason: why nothing was timed.
    """

    op: str
    backend: str
    size: str
    shape: str
    dtype: str
    direction: Direction
    repeats: int = 0
    median_ms: float | None = None
    min_ms: float | None = None
    p95_ms: float | None = None
    calls: int = 0
    peak_mib: float | None = None
    speed: float | None = None
    reason: str = ""


class KernelRun(Part):
    """All checks and timings of one run.

    Attributes:
        device: ``cpu`` or ``cuda``.
        sizes: name of the set of sizes.
        dtype: dtype of the timed activations.
        seed: of all inputs.
        warmup: calls of each backend before it is timed.
        threads: that torch computes with on the CPU.
        driver, cuda: versions of NVIDIA's driver and of the CUDA that torch was built with, None without.
        absent: why a backend cannot run here, by ``op: backend``.
    """

    schema_version: Literal[1] = 1
    device: str
    sizes: str
    dtype: str
    seed: int
    warmup: int
    threads: int
    driver: str | None = None
    cuda: str | None = None
    absent: dict[str, str] = Field(default_factory=dict)
    checks: tuple[KernelCheck, ...]
    timings: tuple[KernelTiming, ...]
    provenance: Provenance

    @property
    def failed(self) -> tuple[KernelCheck, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.status == "failed")
