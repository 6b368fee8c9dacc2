"""A forward pass as a CUDA graph: what it takes once nobody launches its kernels one by one.

At batch 1 a tower is hundreds of kernels of a few microseconds each, and an uncompiled pass lasts as long as
its launches take, which is a matter of the host. A graph is recorded once and replayed as a whole (NVIDIA,
CUDA C++ Programming Guide, "CUDA Graphs"), so its time is that of the GPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

WARM = 3
"""Passes on the capturing stream before it captures; libraries set themselves up in them."""
CLOSE = 1e-2
"""Largest difference between a replay and a pass, relative to the norm: half precision, other products."""


class GraphError(Exception):
    """A pass cannot be captured, or its replay gives something else."""


def capture(run: Callable[[], Tensor]) -> Callable[[], float]:
    """Record a pass that always reads the same memory; returns what replays it and gives the seconds.

    Args:
        run: one forward pass on the current CUDA device; it must not wait for the device.

    Raises:
        GraphError: it cannot be captured, or a replay is not the pass.
    """
    wanted = run()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.stream(stream):
            for _ in range(WARM):
                run()
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(graph):
            found = run()
    except RuntimeError as error:
        first = (str(error).strip().splitlines() or ["no message"])[0]
        raise GraphError(f"the forward pass cannot be captured: {first}") from error
    graph.replay()
    torch.cuda.synchronize()
    far = float((found - wanted).double().norm() / wanted.double().norm())
    if not far < CLOSE:
        raise GraphError(f"a replay differs from the pass by {far:.1e} of its norm")

    def replay() -> float:
        torch.cuda.synchronize()
        start = time.perf_counter()
        graph.replay()
        torch.cuda.synchronize()
        return time.perf_counter() - start

    return replay
