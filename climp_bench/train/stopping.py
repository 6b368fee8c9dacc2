"""Stopping a run on request: Ctrl-C and SIGTERM are taken note of, and the run stops where it can go on."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from climp_bench.errors import TrainingError


class TrainingStopped(TrainingError):
    """Training was stopped on request; everything needed to go on is on disk."""

    exit_code = 130


class StopRequest:
    """Within this context SIGINT and SIGTERM set ``pending``; a second signal acts as it would without.

    Outside the main thread signals are left alone.
    """

    def __init__(self) -> None:
        self.pending = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        self._restore()

    def check(self, where: str) -> None:
        """Raises ``TrainingStopped`` if a stop was asked for."""
        if self.pending:
            raise TrainingStopped(
                "stopped on request", where=where, remedy="Run the same command again to go on from there."
            )

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.pending = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
