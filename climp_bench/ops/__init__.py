"""State-space primitives: one function an op, a readable reference beside every backend."""

from climp_bench.ops.dispatch import BackendStatus, backends, resolve
from climp_bench.ops.selective_scan import selective_scan
from climp_bench.ops.ss2d import ss2d
from climp_bench.ops.ssd import ssd

__all__ = ["BackendStatus", "backends", "resolve", "selective_scan", "ss2d", "ssd"]
