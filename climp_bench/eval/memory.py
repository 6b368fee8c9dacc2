"""Memory that a call takes: the process's own on a CPU, the allocator's on a GPU."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch

_STATUS, _REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_SAMPLED_EVERY_S = 0.001


def peak_rss(call: Callable[[], object]) -> tuple[int, str]:
    """How far resident memory rises during ``call`` above what it was before, and how that was found.

    On Linux the kernel's high-water mark is reset before and read after. Elsewhere, or where the kernel
    refuses, resident memory is sampled every millisecond, which may miss a short peak.

    Returns:
        Bytes, at least 0, and ``high-water mark`` or ``sampled``.
    """
    try:
        before = _kernel("VmRSS")
        _REFS.write_text("5")
    except (OSError, ValueError):
        return _sampled(call), "sampled"
    call()
    return max(0, _kernel("VmHWM") - before), "high-water mark"


def _kernel(field: str) -> int:
    """A field of this process's status, in bytes. Raises ``ValueError`` if the kernel does not tell it."""
    found = re.search(rf"^{field}:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    if found is None:
        raise ValueError(field)
    return 1024 * int(found[1])


def _sampled(call: Callable[[], object]) -> int:
    process, done = psutil.Process(), threading.Event()
    before = int(process.memory_info().rss)
    peak = [before]

    def watch() -> None:
        while not done.wait(_SAMPLED_EVERY_S):
            peak[0] = max(peak[0], int(process.memory_info().rss))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        call()
    finally:
        done.set()
        watcher.join()
    return max(peak[0], int(process.memory_info().rss)) - before


def on_cuda(
    make_inputs: Callable[[], Any], pooled: Callable[[Any], Any], features: Callable[[Any], Any]
) -> dict[str, int]:
    """What the CUDA allocator holds beyond what it held at the call, in bytes; the weights must be there.

    No matrix product may have run before: what remains after the first forward pass includes the workspace
    that cuBLAS takes at its first product and keeps (32 MiB on an H100, unless CUBLAS_WORKSPACE_CONFIG says
    otherwise).

    Args:
        make_inputs: puts the inputs onto the device.
        pooled: the tower's output for them, one vector an input.
        features: the tower's output for every token or pixel.

    Returns:
        ``retained_memory_bytes``: after a forward pass, with inputs and output alive;
        ``retained_features_memory_bytes``: the same where all features are the output;
        ``peak_memory_bytes``: the most during a forward pass, inputs included.
    """
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    inputs = make_inputs()
    output = pooled(inputs)
    torch.cuda.synchronize()
    retained = torch.cuda.memory_allocated() - before
    del output
    output = features(inputs)
    torch.cuda.synchronize()
    retained_features = torch.cuda.memory_allocated() - before
    del output
    torch.cuda.reset_peak_memory_stats()
    pooled(inputs)
    torch.cuda.synchronize()
    return {
        "retained_memory_bytes": retained,
        "retained_features_memory_bytes": retained_features,
        "peak_memory_bytes": torch.cuda.max_memory_allocated() - before,
    }
