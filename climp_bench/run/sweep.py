"""The same plan at several input sizes."""

from __future__ import annotations

from collections.abc import Sequence

from climp_bench.models.adapters import Encoder
from climp_bench.run.execute import Outcome, Watcher, execute
from climp_bench.run.plan import Settings, make_plan
from climp_bench.suite.schema import Suite


def sweep(
    encoders: Sequence[Encoder],
    suites: Sequence[Suite],
    sizes: Sequence[int],
    settings: Settings,
    watcher: Watcher,
) -> Outcome:
    """Evaluate every model on every task at every size, smallest size first.

    A size that a model cannot take, or that does not fit into memory, is a failed record of that model and
    size; the others go on.

    Args:
        encoders: as prepared, at their own size.
        suites: what to measure.
        sizes: sides of a square input in pixels; what keeps its aspect ratio gets the same area.
        settings: how to run.
        watcher: told what happens.
    """
    total = Outcome()
    for size in sizes:
        plan = make_plan([encoder.at((size, size)) for encoder in encoders], suites)
        outcome = execute(plan, settings, watcher)
        total.records += outcome.records
        total.done += outcome.done
        total.failed += outcome.failed
        total.reused += outcome.reused
    return total
