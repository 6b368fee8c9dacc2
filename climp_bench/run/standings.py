"""Which model leads a row of a table: paired exact tests of all pairs, corrected over the whole table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from climp_bench.errors import StoreError
from climp_bench.gate.measured import measured
from climp_bench.gate.pairing import pair_scores
from climp_bench.metrics.paired import holm, sign_flip
from climp_bench.report.document import UNTESTED, Judge, Standing
from climp_bench.results import ResultStore, RunRecord

ALPHA = 0.05
ACROSS = ("dtype", "resolution")
"""What may differ between models of one row: each has a size and a precision of its own."""
_Pair = tuple[int, int]


@dataclass(frozen=True)
class _Tested:
    """One row: scores by column, p-values by pair of columns, and why it was not tested, if so."""

    values: dict[int, float]
    p: dict[_Pair, float]
    untested: str = ""


def judge_of(store: ResultStore) -> Judge:
    """A judge that pairs the per-sample outcomes of a store.

    All pairs of models of all rows of a table are tested together, so that one false claim in the whole table
    has a chance of ``ALPHA``. The best of a row must be better than every other model, the second better than
    all but the best. A row with a pair that cannot be tested has neither.
    """

    def judge(rows: Sequence[Sequence[RunRecord | None]], columns: Sequence[str]) -> list[Standing]:
        tested = [_test(row, store) for row in rows]
        keys = [(k, pair) for k, row in enumerate(tested) for pair in row.p]
        adjusted = holm([tested[k].p[pair] for k, pair in keys])
        corrected: list[dict[_Pair, float]] = [{} for _ in rows]
        for (k, pair), p in zip(keys, adjusted, strict=True):
            corrected[k][pair] = p
        names = short_names(columns)
        return [_standing(row, p, names) for row, p in zip(tested, corrected, strict=True)]

    return judge


def _test(row: Sequence[RunRecord | None], store: ResultStore) -> _Tested:
    scores = {k: r for k, r in enumerate(row) if r is not None and r.value is not None}
    values = {k: r.value for k, r in scores.items() if r.value is not None}
    found = {k: measured(r, store.outcomes_path(r)) for k, r in scores.items()}
    p: dict[_Pair, float] = {}
    for a, b in combinations(found, 2):
        try:
            pairing = pair_scores(found[a], found[b], ACROSS)
        except StoreError as error:
            return _Tested(values, {}, str(error))
        if pairing.reasons or pairing.pairs is None:
            return _Tested(values, {}, "; ".join(pairing.reasons) or "no outcomes of single samples")
        p[a, b] = sign_flip(pairing.pairs.totals)
    return _Tested(values, p)


def _standing(row: _Tested, p: dict[_Pair, float], names: Sequence[str]) -> Standing:
    if len(row.values) < 2:
        return Standing()
    if row.untested:
        return Standing(verdict=UNTESTED, why=row.untested)
    order = sorted(row.values, key=lambda k: -row.values[k])

    def worst(k: int, others: Sequence[int]) -> float:
        return max(p[min(k, o), max(k, o)] for o in others)

    first, *others = order
    if (against := worst(first, others)) < ALPHA:
        second = others[0] if len(others) > 1 and worst(others[0], others[1:]) < ALPHA else None
        return Standing(first, second, names[first], f"p {_bounded(against)}")
    level = [first, *(o for o in others if worst(first, [o]) >= ALPHA)]
    if len(level) < 3:
        return Standing(verdict=" or ".join(names[k] for k in level), why="no difference shown")
    return Standing(verdict=f"one of {len(level)}", why=", ".join(names[k] for k in level))


def _bounded(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def short_names(columns: Sequence[str]) -> list[str]:
    """Names of models without the scale that all of them have."""
    scales = {name.partition("@")[2] for name in columns}
    return [name.partition("@")[0] for name in columns] if len(scales) == 1 else list(columns)
