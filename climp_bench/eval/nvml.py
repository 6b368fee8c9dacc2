"""Energy, utilisation, clocks and driver of an NVIDIA GPU, through NVML."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

_SAMPLED_EVERY_S = 0.05


@dataclass
class Readings:
    """What was read, and why what is missing is missing.

    Attributes:
        joules: energy that the whole GPU took during the call, idle power included.
        utilisation: mean share of time in which a kernel ran, in [0, 1].
        facts: driver and clocks, read right after the call.
        reason: why something is missing; "" if nothing is.
    """

    joules: float | None = None
    utilisation: float | None = None
    facts: dict[str, int | str] = field(default_factory=dict)
    reason: str = ""


def driver() -> str | None:
    """Version of the driver; None where NVML is not installed or does not tell."""
    try:
        nvml: Any = importlib.import_module("pynvml")
        nvml.nvmlInit()
        return str(nvml.nvmlSystemGetDriverVersion())
    except Exception:  # not installed, or any of the library's own errors
        return None


def watch(call: Callable[[], object]) -> Readings:
    """Run ``call`` once, which must end with the GPU idle, and read what the current CUDA device took for it.

    NVML that is not installed or refuses is a reason in the result, never an error.
    """
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError:
        call()
        return Readings(reason="NVML is not installed: pip install nvidia-ml-py")
    readings, samples, done = Readings(), list[float](), threading.Event()
    try:
        nvml.nvmlInit()
        device = nvml.nvmlDeviceGetHandleByUUID(_uuid())
        start: int | None = nvml.nvmlDeviceGetTotalEnergyConsumption(device)
    except nvml.NVMLError as error:
        call()
        return Readings(reason=f"NVML refuses: {error}")

    def sample() -> None:
        try:
            while not done.wait(_SAMPLED_EVERY_S):
                samples.append(nvml.nvmlDeviceGetUtilizationRates(device).gpu / 100)
        except nvml.NVMLError as error:
            readings.reason = f"NVML refuses: {error}"

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    try:
        call()
    finally:
        done.set()
        sampler.join()
    readings.utilisation = sum(samples) / len(samples) if samples else None
    try:
        readings.joules = (nvml.nvmlDeviceGetTotalEnergyConsumption(device) - start) / 1000
        readings.facts["driver"] = str(nvml.nvmlSystemGetDriverVersion())
        for name, kind in (("sm", nvml.NVML_CLOCK_SM), ("memory", nvml.NVML_CLOCK_MEM)):
            readings.facts[f"{name}_clock_mhz"] = nvml.nvmlDeviceGetClockInfo(device, kind)
    except nvml.NVMLError as error:
        readings.reason = f"NVML refuses: {error}"
    return readings


def _uuid() -> str:
    """The current CUDA device, as NVML names it."""
    import torch

    return f"GPU-{torch.cuda.get_device_properties(torch.cuda.current_device()).uuid}"
