"""The records of a cell of ``climp-bench efficiency``: a metric each, or why it has no value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any

from climp_bench.eval.efficiency import Cell, Conditions
from climp_bench.eval.measuring import Measurement
from climp_bench.metrics.timing import P95_NEEDS, median, median_interval, p95
from climp_bench.models.counting import TowerCost
from climp_bench.models.positional import positional_bytes
from climp_bench.results import DatasetRef, ModelRef, Problem, RunRecord, collect
from climp_bench.specs import Interval

KIND = "efficiency"
_NO_SPREAD = "counted, not sampled"
_ONE_PASS = "one pass, not sampled"


class CellRecords:
    """Makes the records of a cell.

    Args:
        cell: the cell.
        conditions: how it was measured.
        started: when.
        backends: of the cell's op, as they would run.
    """

    def __init__(
        self, cell: Cell, conditions: Conditions, started: datetime, backends: Mapping[str, str]
    ) -> None:
        self.cell, self.conditions = cell, conditions
        self.extra: dict[str, float | int | str | None] = {
            "tower": f"{type(cell.config).__name__}:{sha256(repr(cell.config).encode()).hexdigest()[:8]}",
            "budget_s": conditions.budget_s,
            "batch_sizes": _joined(conditions.batches) or "auto",
            "rounds": 0,
            "threads": conditions.threads,
        }
        self._provenance = collect(
            device=conditions.device,
            dtype=conditions.dtype,
            seed=conditions.seed,
            gpu=conditions.gpu or ("none: shapes only" if conditions.device == "meta" else None),
            backends=backends,
            started_at=started,
        )

    def counted(self, cost: TowerCost) -> list[RunRecord]:
        """Parameters, MACs, FLOPs and the positional state."""
        facts = {"unsupported": ", ".join(cost.unsupported)} if cost.unsupported else {}
        records = [
            self._value("parameters", cost.params, _NO_SPREAD),
            self._value("macs", cost.macs, _NO_SPREAD, extra=facts),
            self._value("flops", cost.flops, _NO_SPREAD, extra=facts),
        ]
        state = positional_bytes(self.cell.config, self.cell.size)
        if state is None:
            return [*records, self._without("positional_state_bytes", "no formula for towers of this class")]
        return [*records, self._value("positional_state_bytes", state, _NO_SPREAD)]

    def skipped(self, what: str, remedy: str = "") -> RunRecord:
        """Nothing was measured, on purpose."""
        return self._make("any", None, 0, "skipped", Problem(what=what, remedy=remedy))

    def measured(self, rounds: Sequence[Measurement]) -> list[RunRecord]:
        """All metrics of the rounds that were made so far; a round that broke off fails the cell."""
        self.extra["rounds"] = len(rounds)
        broken = next((m.problem for m in rounds if m.problem), None)
        if broken:
            problem = Problem(**{**broken, "where": broken["where"] or self.cell.label})
            return [self._make("any", None, 0, "failed", problem)]
        first = rounds[0]
        facts = dict(first.facts)
        records = [*self._latency(rounds, facts), *self._graphed(rounds, facts)]
        records.append(self._throughput(rounds, facts))
        for name, value in first.values.items():
            metric = f"energy_joule_per_{self.cell.tower}" if name == "energy" else name
            records.append(self._value(metric, value, _ONE_PASS, extra=facts))
        for name, why in first.missing.items():
            if name not in ("latency_ms", "latency_graphed_ms", "throughput"):
                metric = f"energy_joule_per_{self.cell.tower}" if name == "energy" else name
                records.append(self._without(metric, why))
        return records

    def _latency(self, rounds: Sequence[Measurement], facts: dict[str, Any]) -> list[RunRecord]:
        remedy = f"Try --budget {4 * self.conditions.budget_s:g}."
        if missing := next((m.missing["latency_ms"] for m in rounds if "latency_ms" in m.missing), ""):
            return [self._without("latency_ms", missing, remedy)]
        times = [time for m in rounds for time in m.latencies_ms]
        facts = facts | {"fastest_ms": min(times), "slowest_ms": max(times)} | self._spread(rounds)
        interval = median_interval(times)
        few = "" if interval else f"{len(times)} repetitions are too few; extra has the fastest and slowest"
        records = [self._value("latency_ms", median(times), few, interval, len(times), facts)]
        if len(times) >= P95_NEEDS:
            reason = "a percentile of the repetitions"
            return [*records, self._value("latency_p95_ms", p95(times), reason, None, len(times), facts)]
        what = f"a 95th percentile takes {P95_NEEDS} repetitions, there were {len(times)}"
        return [*records, self._without("latency_p95_ms", what)]

    def _graphed(self, rounds: Sequence[Measurement], facts: dict[str, Any]) -> list[RunRecord]:
        """The latency as a CUDA graph, or why there is none; nothing where there are no graphs."""
        name = "latency_graphed_ms"
        if missing := next((m.missing[name] for m in rounds if name in m.missing), ""):
            return [self._without(name, missing)]
        times = [time for m in rounds for time in m.graphed_ms]
        if not times:
            return []
        interval = median_interval(times)
        few = "" if interval else f"{len(times)} repetitions are too few"
        medians = {"round_medians_ms": ", ".join(f"{median(m.graphed_ms):.4g}" for m in rounds)}
        return [self._value(name, median(times), few, interval, len(times), facts | medians)]

    def _spread(self, rounds: Sequence[Measurement]) -> dict[str, float | str]:
        """How far the rounds' medians lie apart, relative to their middle."""
        if len(rounds) < 2:
            return {}
        medians = [median(m.latencies_ms) for m in rounds]
        spread = (max(medians) - min(medians)) / median(medians)
        return {"round_medians_ms": ", ".join(f"{m:.4g}" for m in medians), "round_spread": spread}

    def _throughput(self, rounds: Sequence[Measurement], facts: dict[str, Any]) -> RunRecord:
        metric = f"throughput_{self.cell.inputs}_per_s"
        if missing := next((m.missing["throughput"] for m in rounds if "throughput" in m.missing), ""):
            return self._without(metric, missing, f"Try --budget {4 * self.conditions.budget_s:g}.")
        common = set.intersection(*(set(m.rates) for m in rounds))
        if not common:
            return self._without(metric, "the rounds have no batch size in common")
        rates = {batch: median([m.rates[batch] for m in rounds]) for batch in sorted(common)}
        best = max(rates, key=lambda batch: rates[batch])
        each = "; ".join(f"{batch}: {rate:.4g}" for batch, rate in rates.items())
        extra = facts | {"batch": best, "rate_by_batch": each}
        passes = sum(m.passes[best] for m in rounds)
        reason = "passes run back to back, only their sum is timed" if best > 1 else "see latency_ms"
        return self._value(metric, rates[best], reason, n=passes, extra=extra)

    def _value(
        self,
        metric: str,
        value: float,
        reason: str,
        interval: Interval | None = None,
        n: int = 1,
        extra: Mapping[str, Any] | None = None,
    ) -> RunRecord:
        return self._make(metric, value, n, "ok", None, interval, "" if interval else reason, extra)

    def _without(self, metric: str, what: str, remedy: str = "") -> RunRecord:
        return self._make(metric, None, 0, "skipped", Problem(what=what, remedy=remedy))

    def _make(
        self,
        metric: str,
        value: float | None,
        n: int,
        status: str,
        error: Problem | None = None,
        interval: Interval | None = None,
        reason: str = "",
        extra: Mapping[str, Any] | None = None,
    ) -> RunRecord:
        cell, spec = self.cell, self.cell.spec
        return RunRecord.model_validate(
            {
                "model": ModelRef(
                    name=spec.name, family=spec.family, scale=spec.scale, weights_source="random"
                ),
                "suite": self.conditions.suite,
                "task": cell.task,
                "dataset": DatasetRef(name="random inputs", split="none"),
                "protocol": cell.protocol,
                "kind": KIND,
                "metric": metric,
                "value": value,
                "interval": interval,
                "no_interval_reason": reason or None,
                "n_evaluated": n,
                "status": status,
                "error": error,
                "resolution": (cell.size, cell.size) if cell.tower == "image" else None,
                "extra": {**self.extra, **(extra or {})},
                "provenance": self._provenance,
            }
        )


def _joined(batches: tuple[int, ...] | None) -> str:
    return ",".join(map(str, batches or ()))
