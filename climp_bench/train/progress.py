"""How a run tells what it is doing: a bar on a terminal, else a line from time to time."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars


@dataclass(frozen=True)
class Status:
    """Where training stands, averaged since the last one.

    Attributes:
        loss: contrastive loss, in nats.
        accuracy: share of images whose own text is the best of the batch.
        images_per_s: images a second.
        seconds_left: until the last step, at the pace so far.
    """

    loss: float
    accuracy: float
    images_per_s: float
    seconds_left: float

    def __str__(self) -> str:
        left = format_seconds(self.seconds_left)
        return (
            f"loss {self.loss:.3f}, in-batch accuracy {self.accuracy:.1%}, "
            f"{self.images_per_s:,.0f} images/s, {left} left"
        )


class Progress(Protocol):
    """What a run reports to."""

    def advance(self, what: str, done: int, total: int, status: Status | None = None) -> None:
        """``done`` of ``total`` things of the phase ``what`` are done; ``status`` is new if it is there."""

    def note(self, text: str) -> None:
        """Something worth a line."""

    def close(self) -> None:
        """The run is over, well or not."""


class Quiet:
    """Reports nothing."""

    def advance(self, what: str, done: int, total: int, status: Status | None = None) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class Lines:
    """A line every few seconds, at the start and at the end of a phase.

    Args:
        stream: where lines go; standard error by default.
        seconds: least time between two lines of a phase.
    """

    def __init__(self, stream: TextIO | None = None, seconds: float = 30.0) -> None:
        self._stream, self._seconds = stream or sys.stderr, seconds
        self._what, self._next, self._status = "", 0.0, ""

    def advance(self, what: str, done: int, total: int, status: Status | None = None) -> None:
        """See ``Progress``."""
        now = time.monotonic()
        if what != self._what:
            self._what, self._next, self._status = what, 0.0, ""
        if status is not None:
            self._status = f": {status}"
        if now >= self._next or done == total:
            self.note(f"{what} {done:,}/{total:,}{self._status}")
            self._next = now + self._seconds

    def note(self, text: str) -> None:
        """See ``Progress``."""
        print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """Nothing is open."""


class Bar:
    """A progress bar a phase.

    Args:
        console: a terminal.
    """

    def __init__(self, console: Console) -> None:
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            TextColumn("{task.fields[status]}"),
        )  # fmt: skip
        self._bars = Bars(*columns, console=console)
        self._tasks: dict[str, TaskID] = {}

    def advance(self, what: str, done: int, total: int, status: Status | None = None) -> None:
        """See ``Progress``."""
        if not self._tasks:
            self._bars.start()
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(what, total=total, status="")
        fields = {} if status is None else {"status": f"loss {status.loss:.3f}, {status.images_per_s:,.0f}/s"}
        self._bars.update(self._tasks[what], completed=done, **fields)  # type: ignore[arg-type]

    def note(self, text: str) -> None:
        """See ``Progress``."""
        self._bars.console.print(text, highlight=False, markup=False)

    def close(self) -> None:
        """Take the bars off the terminal's live area."""
        self._bars.stop()
        self._tasks.clear()


def default_progress() -> Progress:
    """A bar if standard error is a terminal, else lines."""
    console = Console(stderr=True)
    return Bar(console) if console.is_terminal else Lines()


def format_seconds(seconds: float) -> str:
    """Seconds as ``45 s``, ``12 min`` or ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
