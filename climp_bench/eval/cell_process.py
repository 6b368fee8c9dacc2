"""The process that measures a cell, seen from outside: questions go in, measurements come out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread

import climp_bench
from climp_bench.eval.measuring import Job, Measurement

START_UP_S = 300.0
"""How long a process may take to start, build its tower and, besides its budget, make one pass."""
COMPILING_S = 900.0
"""How much longer if the tower is compiled."""
COMMAND = (sys.executable, "-m", "climp_bench.eval.measuring")


class CellProcess:
    """One process of one cell; whatever happens to it is in the measurement that was asked for.

    Args:
        job: the cell, and what is the same for all questions.
        command: what answers: a ``Job`` in JSON a line in, a ``Measurement`` in JSON a line out.
        environment: variables to set for it.
        limit_s: seconds that an answer may take; by default a generous time to start, and the budget.
    """

    def __init__(
        self, job: Job, command: Sequence[str] = COMMAND, environment: Mapping[str, str] | None = None,
        limit_s: float | None = None,
    ) -> None:  # fmt: skip
        self._job = job
        self._limit_s = limit_s or START_UP_S + 2 * job.budget_s + COMPILING_S * job.compiled
        here = str(Path(climp_bench.__file__).resolve().parents[1])
        paths = os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True,
            env={**os.environ, "PYTHONPATH": paths, **(environment or {})},
        )  # fmt: skip
        self._answers: SimpleQueue[str] = SimpleQueue()
        Thread(target=self._listen, daemon=True).start()

    def ask(self, part: str, batches: tuple[int, ...] | None = None) -> None:
        """Have it begin a part of the job; batches, if any, take the place of the job's."""
        job = replace(self._job, part=part, batches=batches or self._job.batches)
        with suppress(OSError):  # a process that died has no answer, which says why
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(asdict(job)) + "\n")
            self._process.stdin.flush()

    def answer(self) -> Measurement:
        """Wait for what was asked first and not answered yet."""
        try:
            line = self._answers.get(timeout=self._limit_s)
        except Empty:
            self.close()
            what = f"it was not done after {self._limit_s:.0f} s and was stopped"
            return Measurement(problem={"what": what, "where": "", "remedy": "Leave out this size: --res."})
        if not line:
            self._answers.put("")  # whoever asks again is told the same
            return Measurement(problem=self._crash())
        answer = json.loads(line)
        for name in ("rates", "passes"):
            answer[name] = {int(batch): number for batch, number in answer[name].items()}
        return Measurement(**answer)

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        with suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        self._errors.close()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._answers.put(line)
        self._answers.put("")

    def _crash(self) -> dict[str, str]:
        """What is known of a process that ended without an answer."""
        code = self._process.wait()
        if code < 0:
            killed = code == -9
            what = f"its process was ended by signal {-code}" + " (often: out of memory)" * killed
            remedy = "Free memory, or leave out this size: --res." if killed else ""
            return {"what": what, "where": "", "remedy": remedy}
        self._errors.seek(0)
        said = [line.strip() for line in self._errors if line.strip()] or ["no message"]
        return {"what": f"its process ended with {code}: {said[-1]}", "where": "", "remedy": ""}
