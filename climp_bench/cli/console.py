"""What commands print with: results to stdout, progress and notes to stderr, quiet when asked or piped."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console

from climp_bench.errors import ClimpError

if TYPE_CHECKING:
    from rich.progress import Progress
    from rich.table import Table

out = Console(soft_wrap=False)
err = Console(stderr=True)


def note(text: str, *, always: bool = False) -> None:
    """A remark for the user, on stderr; only where a person watches, unless it belongs into a log as well."""
    if always or err.is_terminal:
        err.print(text, style="dim", highlight=False, markup=False)


def show_error(error: ClimpError) -> None:
    """What, where and remedy, on stderr."""
    place = f"{error.where}: " if error.where else ""
    err.print("Error: ", style="bold red", end="")
    err.print(f"{place}{error.what.rstrip('.')}.", highlight=False, markup=False, soft_wrap=True)
    if error.remedy:
        err.print(error.remedy, highlight=False, markup=False, soft_wrap=True)


def no_download_bars() -> None:
    """Keep huggingface_hub from drawing its progress bars."""
    from huggingface_hub import utils

    utils.disable_progress_bars()  # type: ignore[attr-defined] # public, but not in its __all__


def print_json(value: Any) -> None:
    """Strict JSON on stdout."""
    sys.stdout.write(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def print_table(table: Table) -> None:
    """A table on stdout; one that goes to a file or a pipe is not folded."""
    (out if out.is_terminal else Console(file=out.file, width=200)).print(table)


class RunWatcher:
    """Shows a run: which task, how many images of it, how fast. Silent when stderr is no terminal."""

    def __init__(self, jobs: int, progress: Progress | None) -> None:
        self._jobs, self._progress = jobs, progress
        self._started = 0
        self._task = progress.add_task("starting", total=None) if progress else None

    def job(self, label: str, images: int) -> None:
        """A job starts."""
        self._started += 1
        if self._progress and self._task is not None:
            description = f"[{self._started}/{self._jobs}] {label}"
            self._progress.reset(self._task, total=images or 1, description=description)
            if not images:
                self._progress.advance(self._task)

    def advance(self, images: int) -> None:
        """So many images are encoded."""
        if self._progress and self._task is not None:
            self._progress.advance(self._task, images)

    def failed(self, label: str, model: str, problem: Any) -> None:
        """An evaluation failed; the run goes on."""
        show_error(
            ClimpError(
                f"{problem.what}", where=f"{label} {model} {problem.where}".strip(), remedy=problem.remedy
            )
        )


@contextmanager
def steps(total: int, quiet: bool) -> Iterator[Callable[[str], None]]:
    """Yields a function to tell of each of ``total`` steps as it starts; shown as by ``watch``."""
    if quiet or not err.is_terminal:
        yield lambda label: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    text = TextColumn("{task.description}", markup=False)
    columns = (text, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        task, started = progress.add_task("starting", total=total), itertools.count()

        def step(label: str) -> None:
            progress.update(task, completed=next(started), description=label)

        yield step


@contextmanager
def watch(jobs: int, quiet: bool) -> Iterator[RunWatcher]:
    """A progress bar on stderr if it is a terminal and nobody asked for quiet."""
    if quiet or not err.is_terminal:
        yield RunWatcher(jobs, None)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("images x models"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err, transient=True) as progress:
        yield RunWatcher(jobs, progress)
