"""Hold a run against the rules of a gate. What is missing, incomplete or not comparable fails."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from climp_bench.errors import StoreError, UsageError
from climp_bench.gate.measured import Measured, Where, by_place
from climp_bench.gate.pairing import Pairing, missing, pair_scores
from climp_bench.gate.rules import RELATIVE, Gate, Rule
from climp_bench.metrics.paired import holm, sign_flip, standard_error

Answer = Literal["pass", "fail", "report"]
_DUST = 1e-12
_Z95 = 1.959963984540054


@dataclass
class Verdict:
    """What a rule says of one score.

    Attributes:
        rule: its name.
        where: suite, task, metric, model.
        answer: ``report`` is shown and cannot fail.
        before, now: the scores compared, None where there is none.
        is_share: whether they are shares, told in percent.
        allowed: the criteria, in words.
        p: one-sided p-value, corrected; None where no test was asked for.
        reasons: why it fails, or would; or what is to be known of a pass.
    """

    rule: str
    where: Where
    answer: Answer
    before: float | None = None
    now: float | None = None
    is_share: bool = True
    allowed: str = ""
    p: float | None = None
    reasons: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """``embedded/scenes-shape acc1 climp-m1@micro``."""
        suite, task, metric, model = self.where
        return f"{suite}/{task} {metric} {model}"


def judge(gate: Gate, run: Sequence[Measured], baseline: Sequence[Measured] | None) -> list[Verdict]:
    """One verdict for each rule and score it covers, and for whatever should be there and is not.

    Args:
        gate: the rules.
        run: what was measured.
        baseline: what it is held against; None if the gate has fixed limits only.

    Raises:
        UsageError: a rule compares with a baseline and there is none.
    """
    verdicts = list(_required(gate, by_place(run)))
    for rule in gate.rules:
        of_rule = _RuleOnRun(rule, run, baseline).verdicts()
        if not of_rule:
            where = (rule.suite, rule.task, rule.metric, rule.model)
            reasons = ["it covers no score of the run nor of the baseline"]
            of_rule = [Verdict(rule.name, where, "report" if rule.report else "fail", reasons=reasons)]
        verdicts += of_rule
    return verdicts


def _required(gate: Gate, places: dict[Where, list[Measured]]) -> Iterator[Verdict]:
    for where in (where for require in gate.require for where in require.places()):
        found = places.get(where, [])
        if not any(not missing(score) for score in found):
            why = missing(found[0]) if found else _why_absent(where, places)
            yield Verdict("required", where, "fail", reasons=[why])


def _why_absent(where: Where, places: dict[Where, list[Measured]]) -> str:
    """The failure of the whole evaluation, where there is one."""
    suite, task, _, model = where
    broken = places.get((suite, task, "any", model))
    return missing(broken[0]) if broken else "missing: it was not measured"


class _RuleOnRun:
    """One rule on all scores that it covers."""

    def __init__(self, rule: Rule, run: Sequence[Measured], baseline: Sequence[Measured] | None) -> None:
        self.rule = rule
        self.places = by_place(run)
        self.compares = rule.against is None and any(getattr(rule, name) is not None for name in RELATIVE)
        if self.compares and baseline is None:
            remedy = "Give --baseline, or name one in the file of rules."
            raise UsageError("compares with a baseline and there is none", where=rule.name, remedy=remedy)
        self.baseline = baseline or ()

    def verdicts(self) -> list[Verdict]:
        """Pair first, since the correction needs all p-values; then judge one by one."""
        entries = [(where, before, now, self._pair(before, now)) for where, before, now in self._entries()]
        p_values = self._p_values([pairing for *_, pairing in entries])
        return [
            self._judge(where, before, now, pairing, p)
            for (where, before, now, pairing), p in zip(entries, p_values, strict=True)
        ]

    def _entries(self) -> Iterator[tuple[Where, Measured | None, Measured | None]]:
        """Where a score should be, what it is held against, and what is there."""
        known = set()
        for before in self.baseline:
            if self.rule.against is None and self.rule.covers(before.where):
                known.add(before.where)
                found = self.places.get(before.where, [])
                alike = sorted(found, key=lambda now: len(before.condition.differences(now.condition)))
                yield before.where, before, alike[0] if alike else None
        evaluations = {(suite, task, model) for suite, task, _, model in known}
        for where, scores in self.places.items():
            suite, task, metric, model = where
            broken = metric == "any" and scores[0].status == "failed"
            if where in known or not self.rule.covers(where, any_metric=broken):
                continue
            if broken and (suite, task, model) in evaluations:
                continue
            for now in scores:
                if now.status != "skipped" and model != self.rule.against:
                    yield where, self._other_model(now), now

    def _other_model(self, now: Measured) -> Measured | None:
        if self.rule.against is None:
            return None
        suite, task, metric, _ = now.where
        found = self.places.get((suite, task, metric, self.rule.against), [])
        alike = sorted(found, key=lambda other: len(now.condition.differences(other.condition)))
        return alike[0] if alike else None

    def _pair(self, before: Measured | None, now: Measured | None) -> Pairing | str | None:
        """The pairing, or why the outcomes cannot be read; None without two scores."""
        if before is None or now is None or missing(now):
            return None
        try:
            return pair_scores(before, now, self.rule.across)
        except StoreError as error:
            return str(error)

    def _p_values(self, pairings: Sequence[Pairing | str | None]) -> list[float | None]:
        if self.rule.significance is None:
            return [None] * len(pairings)
        fall = "less" if self.rule.direction == "higher" else "greater"
        tested = [
            sign_flip(p.pairs.totals, fall) if isinstance(p, Pairing) and p.pairs else None  # type: ignore[arg-type]
            for p in pairings
        ]
        adjusted = iter(holm([p for p in tested if p is not None]))
        return [None if p is None else next(adjusted) for p in tested]

    def _judge(
        self,
        where: Where,
        before: Measured | None,
        now: Measured | None,
        pairing: Pairing | str | None,
        p: float | None,
    ) -> Verdict:
        rule, some = self.rule, now or before
        reports = rule.only_reports(where[1])
        verdict = Verdict(
            rule.name,
            where,
            "report" if reports else "pass",
            before=before.value if before else None,
            now=now.value if now else None,
            is_share=some is not None and some.is_share,
            allowed=criteria(rule),
            p=p,
        )
        verdict.reasons = self._faults(where, before, now, pairing, p)
        if verdict.reasons and not reports:
            verdict.answer = "fail"
        return verdict

    def _faults(
        self,
        where: Where,
        before: Measured | None,
        now: Measured | None,
        pairing: Pairing | str | None,
        p: float | None,
    ) -> list[str]:
        if now is None:
            return [_why_absent(where, self.places)]
        if why := missing(now):
            return [why]
        faults = list(_limits(self.rule, now))
        if isinstance(pairing, str):
            return [*faults, pairing]
        if pairing is None:
            if self.rule.against is not None:
                return [*faults, f"{self.rule.against} has no such score in this run"]
            return (
                [*faults, "it is not in the baseline (`climp-bench gate update`)"]
                if self.compares
                else faults
            )
        if pairing.reasons:
            return [*faults, "not comparable with the baseline: " + "; ".join(pairing.reasons)]
        return [
            *faults,
            *_ratio(self.rule, pairing),
            *_flips(self.rule, pairing),
            *_fall(self.rule, pairing, p),
        ]


def criteria(rule: Rule) -> str:
    """What a rule asks, in words: ``fall 1.0 points; flips 0.5``."""
    move = {"higher": "fall", "lower": "rise", "same": "change"}[rule.direction]
    words = {
        "tolerance": "{move} {0:g} points",
        "tolerance_se": "{move} {0:g} standard errors",
        "significance": "only if p < {0:g}",
        "flips": "{0:g} samples change",
        "ratio": "factor {0:g}",
        "floor": "at least {0:g}",
        "ceiling": "at most {0:g}",
    }
    given = ((text, getattr(rule, name)) for name, text in words.items())
    return "; ".join(text.format(limit, move=move) for text, limit in given if limit is not None)


def _limits(rule: Rule, now: Measured) -> Iterator[str]:
    assert now.value is not None
    shown = 100 * now.value if now.is_share else now.value
    if rule.floor is not None and shown < rule.floor - _DUST:
        yield f"{shown:.6g} is below the floor of {rule.floor:g}"
    if rule.ceiling is not None and shown > rule.ceiling + _DUST:
        yield f"{shown:.6g} is above the ceiling of {rule.ceiling:g}"


def _ratio(rule: Rule, pairing: Pairing) -> Iterator[str]:
    if rule.ratio is None:
        return
    before, now = pairing.a.value, pairing.b.value
    assert before is not None and now is not None
    over, under = (now, before) if rule.direction == "lower" else (before, now)
    if over > under * rule.ratio * (1 + _DUST):
        factor = f"{over / under:.4g}" if under else "infinitely many"
        what = "times as much" if rule.direction == "lower" else "times less"
        yield f"{factor} {what}, {rule.ratio:g} allowed"


def _flips(rule: Rule, pairing: Pairing) -> Iterator[str]:
    if rule.flips is None:
        return
    if pairing.pairs is None:
        yield f"flips cannot be counted: {pairing.untested}"
        return
    changed = pairing.pairs.gained + pairing.pairs.lost
    if changed > rule.flips:
        yield f"{changed} of {pairing.pairs.n} samples changed their outcome, {rule.flips} allowed"


def _fall(rule: Rule, pairing: Pairing, p: float | None) -> Iterator[str]:
    if rule.tolerance is None and rule.tolerance_se is None and rule.significance is None:
        return
    if rule.significance is not None and p is None:
        yield f"a fall cannot be tested: {pairing.untested}"
        return
    change = pairing.difference
    allowed = _allowed(rule, pairing)
    if isinstance(allowed, str):
        yield allowed
        return
    fall = {"higher": -change, "lower": change, "same": abs(change)}[rule.direction]
    by_chance = rule.significance is not None and p is not None and p >= rule.significance
    if fall <= allowed + _DUST or by_chance:
        return
    unit, scale = (" points", 100.0) if pairing.a.is_share else ("", 1.0)
    verb = "fell" if change < 0 else "rose"
    tested = f" (p = {p:.3g})" if p is not None else ""
    yield f"{verb} by {scale * abs(change):.4g}{unit}, {scale * allowed:.4g} allowed{tested}"


def _allowed(rule: Rule, pairing: Pairing) -> float | str:
    """In the unit of the score, or why it cannot be told."""
    if rule.tolerance_se is None:
        if rule.tolerance and not pairing.a.is_share:
            return "a tolerance in points goes with shares: use ratio, floor or ceiling"
        return (rule.tolerance or 0.0) / 100
    if pairing.pairs is not None:
        return rule.tolerance_se * standard_error(pairing.pairs)
    errors = [_standard_error(score) for score in (pairing.a, pairing.b)]
    if None in errors:
        return "no interval that tells a standard error"
    return rule.tolerance_se * math.hypot(*(error for error in errors if error is not None))


def _standard_error(score: Measured) -> float | None:
    interval = score.interval()
    return None if interval is None or interval.level != 0.95 else (interval.high - interval.low) / 2 / _Z95
