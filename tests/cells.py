"""A stand-in for the process that measures a cell: instant, and it breaks in the ways that real ones do."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from climp_bench.eval.efficiency import Conditions

CONDITIONS = Conditions(device="cpu", budget_s=20.0)

_SCRIPT = """
import json, os, signal, sys, time
rates = {1: 1.0, 2: 1.5, 4: 2.5, 8: 2.4}
for line in sys.stdin:
    job = json.loads(line) | {"pid": os.getpid(), "bare": "CUBLAS_WORKSPACE_CONFIG" in os.environ}
    with open(sys.argv[1], "a") as log:
        log.write(json.dumps(job) + "\\n")
    ends = json.loads(sys.argv[2]).get(job["model"].partition("@")[0])
    if ends == "MemoryError":
        raise MemoryError("planted")
    if ends == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if ends == "hangs":
        time.sleep(60)
    short = ends == "short"
    cut = {"batches_end": "16 would exceed the budget"} if short else {}
    timed = job["part"] in ("all", "times")
    times = [1000.0 + k for k in range(20 if short else int(ends or 20))] if timed else []
    values = {"peak_memory_bytes": 3 * 2**20} if job["part"] in ("all", "memory") else {}
    tried = {batch: rates[batch] for batch in job["batches"] or rates} if times else {}
    print(json.dumps({"values": values, "missing": {}, "latencies_ms": times, "rates": tried,
        "passes": dict.fromkeys(tried, 3), "backends": {}, "facts": {"load_before": 0.5, **cut},
        "problem": None}), flush=True)
"""


class FakeCells:
    """The command to measure with, and the jobs it was given.

    Args:
        folder: where jobs are noted.
        ends: by family ``MemoryError``, ``killed``, ``hangs``, ``short`` (of budget), or how many repetitions
            in place of 20.
    """

    def __init__(self, folder: Path, **ends: str) -> None:
        self._log = folder / "jobs"
        ends = {family.replace("_", "-"): how for family, how in ends.items()}
        self.command = (sys.executable, "-S", "-c", _SCRIPT, str(self._log), json.dumps(ends))

    @property
    def asked(self) -> list[dict[str, Any]]:
        """Every job so far, with the process that had it."""
        if not self._log.exists():
            return []
        return [json.loads(line) for line in self._log.read_text().splitlines()]

    @property
    def jobs(self) -> list[tuple[str, int]]:
        """Family and size of every job so far."""
        return [(job["model"].partition("@")[0], job["size"]) for job in self.asked]
