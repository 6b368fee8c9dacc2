"""Plan and carry out ``climp-bench efficiency``: cells in turn, each kept as soon as it is measured."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from itertools import groupby
from typing import Protocol

from climp_bench.errors import UsageError
from climp_bench.eval.cell_process import COMMAND
from climp_bench.eval.efficiency import Cell, CellMeter, Conditions, count
from climp_bench.eval.efficiency_records import KIND, CellRecords
from climp_bench.eval.measuring import FEWEST, Measurement
from climp_bench.models.catalogue import operator
from climp_bench.models.counting import TowerCost
from climp_bench.models.spec import ModelSpec
from climp_bench.ops.dispatch import resolve
from climp_bench.results import Problem, ResultStore, RunRecord, slot_key

_FLOAT32 = 4


class CellWatcher(Protocol):
    """Told what happens, so that a command can show it."""

    def cell(self, label: str) -> None:
        """A cell starts, or another round of it."""

    def failed(self, problem: Problem) -> None:
        """A cell failed; the run goes on."""


@dataclass
class CellOutcome:
    """What a run gave: records in the plan's order, and how many cells were done, failed or reused."""

    records: list[RunRecord] = field(default_factory=list)
    done: int = 0
    failed: int = 0
    reused: int = 0


def make_cells(
    specs: Sequence[ModelSpec], resolutions: Sequence[int], lengths: Sequence[int], *, compiled: bool
) -> list[Cell]:
    """Every model at every size; the models of one size stand together, smallest size first.

    Args:
        specs: the models.
        resolutions: sides of images for the image towers; none leaves them out.
        lengths: tokens for the text towers; none leaves them out.
        compiled: each cell again through ``torch.compile``, after the eager ones of its size.
    """
    ways = (False, True) if compiled else (False,)
    return [
        Cell(spec, tower, size, way)
        for tower, sizes in (("image", resolutions), ("text", lengths))
        for size in sizes
        for way in ways
        for spec in specs
    ]


def run_cells(
    cells: Sequence[Cell],
    conditions: Conditions,
    store: ResultStore,
    watcher: CellWatcher,
    *,
    fresh: bool = False,
    command: Sequence[str] = COMMAND,
) -> CellOutcome:
    """Count and measure every cell; records are written as soon as they are there.

    Args:
        cells: as ``make_cells`` orders them.
        conditions: how to measure.
        store: where records go, and where those of an earlier equal run are found.
        watcher: told what happens.
        fresh: measure again what the store has.
        command: what measures a cell in a process of its own.

    Raises:
        StoreError: results cannot be read or written. Whatever else goes wrong becomes a record.
    """
    known = [] if fresh else [record for record in store.read() if record.kind == KIND]
    history: dict[object, tuple[int, float]] = {}
    outcome = CellOutcome()
    for _, group in groupby(cells, key=lambda cell: (cell.tower, cell.size)):
        runs = [_CellRun(cell, conditions, store, watcher, known, history, command) for cell in group]
        try:
            _run_group(runs, conditions)
        finally:
            for run in runs:
                run.end_process()
        for run in runs:
            run.close(outcome)
    return outcome


def _run_group(runs: Sequence[_CellRun], conditions: Conditions) -> None:
    """Count and measure the cells of one size.

    On a GPU with memory for all of them, their processes start, build and compile side by side, which is
    work of CPUs, and live on from round to round; they are measured one at a time. Elsewhere a process a
    cell and round, one after the other.
    """
    for run in runs:
        run.begin()
    together = conditions.device == "cuda" and _room_for(len(runs))
    for number in range(conditions.rounds):
        for compiled in (False, True):  # a compiled tower takes over the batch size of the eager one
            side = [run for run in runs if run.waiting and run.cell.compiled == compiled]
            if together and number == 0:
                _make_ready(side, runs)
            for run in side:
                run.another_round(runs)
                if not together:
                    run.end_process()


def _make_ready(side: Sequence[_CellRun], runs: Sequence[_CellRun]) -> None:
    threads = max(1, (os.cpu_count() or 1) // max(1, len(side)))
    for run in side:
        run.start_process({"TORCHINDUCTOR_COMPILE_THREADS": str(threads)})
        run.make_ready(runs)
    for run in side:
        run.await_ready()


class _CellRun:
    """One cell, from its counts to its records."""

    def __init__(
        self,
        cell: Cell,
        conditions: Conditions,
        store: ResultStore,
        watcher: CellWatcher,
        known: Sequence[RunRecord],
        history: dict[object, tuple[int, float]],
        command: Sequence[str],
    ) -> None:
        self.cell, self.conditions, self.store, self.watcher = cell, conditions, store, watcher
        self.known, self.history, self.command = known, history, command
        self.records: list[RunRecord] = []
        self.rounds: list[Measurement] = []
        self.waiting = self.reused = False
        self.macs = 0
        self._meter: CellMeter | None = None

    def begin(self) -> None:
        """Take over earlier records, or count and decide whether to measure."""
        cell, name = self.cell, operator(self.cell.config)
        backends = {name: resolve(name, self.conditions.device)[1]} if name else {}
        self.records = self._earlier(backends)
        if self.records:
            self.reused = True
            self._remember()
            return
        self.watcher.cell(cell.label)
        self.make = CellRecords(cell, self.conditions, datetime.now(timezone.utc), backends)
        try:
            cost = count(cell)
        except UsageError as error:
            self._keep([self.make.skipped(error.what, error.remedy)])
            return
        self.counted, self.macs = self.make.counted(cost), cost.macs
        obstacle = None if self.conditions.device == "meta" else self._obstacle(cost)
        self._keep([*self.counted, *([self.make.skipped(*obstacle)] if obstacle else [])])
        self.waiting = self.conditions.device != "meta" and obstacle is None

    def start_process(self, environment: dict[str, str] | None = None) -> CellMeter:
        """Start what measures, if it does not run."""
        if self._meter is None:
            meter = CellMeter(self.cell, self.conditions, self.command, environment=environment)
            self._meter = meter
        return self._meter

    def make_ready(self, runs: Sequence[_CellRun]) -> None:
        """Begin to build and compile."""
        self.watcher.cell(f"{self.cell.label}, getting ready")
        self.start_process().make_ready(self._batches(runs))

    def await_ready(self) -> None:
        """Wait for what ``make_ready`` began."""
        ready = self.start_process().is_ready()
        if ready.problem:
            self._add(ready)

    def another_round(self, runs: Sequence[_CellRun]) -> None:
        """Measure once more and keep what there is."""
        if not self.waiting:
            return
        count, of = len(self.rounds) + 1, self.conditions.rounds
        self.watcher.cell(self.cell.label + (f", round {count} of {of}" if of > 1 else ""))
        part = "times" if self.rounds else "all"
        self._add(self.start_process().measure(part, self._batches(runs)))

    def end_process(self) -> None:
        """End what measures."""
        if self._meter:
            self._meter.close()
            self._meter = None

    def close(self, outcome: CellOutcome) -> None:
        """Add what there is to ``outcome``."""
        outcome.records += self.records
        failed = [record for record in self.records if record.status == "failed"]
        if failed and failed[0].error:
            outcome.failed += 1
            self.watcher.failed(failed[0].error)
        else:
            outcome.done += 1
            outcome.reused += self.reused

    def _keep(self, records: list[RunRecord]) -> None:
        self.records = sorted(records, key=lambda record: record.metric)
        self.store.write(self.records)

    def _add(self, measured: Measurement) -> None:
        self.rounds.append(measured)
        self._keep([*self.counted, *self.make.measured(self.rounds)])
        self.waiting = measured.problem is None
        self._remember()

    def _batches(self, runs: Sequence[_CellRun]) -> tuple[int, ...] | None:
        """The batch sizes to try, if not all: in later rounds the best of the first and its neighbours.

        A compiled tower compiles for each batch size anew: it takes the best of the eager one.
        """
        if self.conditions.batches:
            return None
        if not self.cell.compiled:
            rates = self.rounds[0].rates if self.rounds else {}
            best = max(rates, key=lambda batch: rates[batch], default=0)
            return tuple(batch for batch in sorted(rates) if best <= 2 * batch <= 4 * best) or None
        twin = next((run for run in runs if run.cell.spec == self.cell.spec and not run.cell.compiled), None)
        records = twin.records if twin else []
        found = [r.extra["batch"] for r in records if r.metric.startswith("throughput") and r.value]
        return (int(found[0]),) if found and isinstance(found[0], int) else (1,)

    def _obstacle(self, cost: TowerCost) -> tuple[str, str] | None:
        """Why it is not worth or not possible to measure this cell, and what to do; None if it is."""
        if self.conditions.device == "cpu" and (free := _free_memory()) < _FLOAT32 * cost.params:
            what = f"weights of {_FLOAT32 * cost.params / 1e9:.1f} GB, {free / 1e9:.1f} GB of memory are free"
            return what, "Free memory, or take a smaller --scale."
        budget, before = self.conditions.budget_s, self.history.get(self._twins())
        if before is None:
            return None
        expected = before[1] * cost.macs / before[0]
        if 2 * expected <= budget:
            return None
        what = f"about {expected:.0f} s a pass, which warms up once: over the budget of {budget:g} s"
        return what, f"Try --budget {10 * -(-(1 + FEWEST) * expected // 10):.0f}."

    def _remember(self) -> None:
        """Note how long this tower takes, to foresee larger sizes of it."""
        value = {record.metric: record.value for record in self.records}
        macs, latency = value.get("macs"), value.get("latency_ms")
        if macs and latency:
            self.history[self._twins()] = (int(macs), latency / 1000)

    def _twins(self) -> object:
        return self.cell.config, self.cell.tower, self.cell.compiled

    def _earlier(self, backends: Mapping[str, str]) -> list[RunRecord]:
        """Records of an earlier run of this cell under equal conditions; none if it must be measured."""
        wanted = CellRecords(self.cell, self.conditions, datetime.now(timezone.utc), backends).skipped("-")
        found = [record for record in self.known if _same(record, wanted)]
        return found if _complete(found, self.conditions) else []


def _same(record: RunRecord, wanted: RunRecord) -> bool:
    """Whether a record is of the same cell, on the same host, by the same code, under the same conditions."""
    mine, other = record.provenance, wanted.provenance
    return (
        slot_key(record) == slot_key(wanted)
        and (mine.climp_bench, mine.cpu, mine.gpu) == (other.climp_bench, other.cpu, other.gpu)
        and (mine.backends, mine.seed) == (other.backends, other.seed)
        and mine.packages.get("torch") == other.packages.get("torch")
        and all(record.extra.get(k) == wanted.extra[k] for k in ("tower", "batch_sizes", "threads"))
    )


def _complete(found: Sequence[RunRecord], asked: Conditions) -> bool:
    """Whether these records leave nothing to measure: no failure, no skip that more budget would change."""
    if not found or any(record.status == "failed" for record in found):
        return False
    if asked.device == "meta":
        return True
    if any(r.status == "skipped" and float(r.extra["budget_s"] or 0) < asked.budget_s for r in found):
        return False
    metrics = {record.metric for record in found}
    rounds = max(int(record.extra["rounds"] or 0) for record in found)
    return "any" in metrics or ("latency_ms" in metrics and rounds >= asked.rounds)


def _room_for(cells: int) -> bool:
    """Whether the processes of so many cells fit side by side into the memories of GPU and host."""
    import torch

    on_gpu = torch.cuda.get_device_properties().total_memory if torch.cuda.is_available() else 0
    return cells * 3e9 < min(on_gpu, _free_memory())


def _free_memory() -> int:
    """Bytes that can be had without swapping."""
    import psutil

    return int(psutil.virtual_memory().available)
