"""Pair two scores sample by sample, or say why they cannot be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from climp_bench.errors import StoreError
from climp_bench.gate.measured import Measured, Trial
from climp_bench.metrics.paired import Pairs, pair


@dataclass(frozen=True)
class Pairing:
    """Two scores that can be compared, or the reasons why not.

    Attributes:
        reasons: why not; empty if they can be compared.
        pairs: the outcomes; None without, then ``untested`` says why the difference cannot be tested.
        trials: the outcomes of each side, behind ``pairs``.
    """

    a: Measured
    b: Measured
    reasons: tuple[str, ...] = ()
    pairs: Pairs | None = None
    untested: str = ""
    trials: tuple[Trial, Trial] | None = None

    @property
    def difference(self) -> float:
        """B minus A; only of scores that can be compared."""
        assert self.a.value is not None and self.b.value is not None
        return self.b.value - self.a.value


def missing(score: Measured) -> str:
    """Why there is no whole score, or nothing: ``partial: 10 broken images``."""
    if score.status == "ok" and score.value is not None:
        return ""
    return f"{score.status}: {score.reason or 'no reason given'}"


def pair_scores(a: Measured, b: Measured, allowed: Sequence[str] = ()) -> Pairing:
    """Check that two scores measure the same thing, then pair their samples.

    Args:
        a, b: of the same metric.
        allowed: conditions that may differ, such as ``dtype``.

    Raises:
        StoreError: outcomes that must be there are missing, or are not those of the record.
    """
    gone = [f"{side}: {why}" for side, why in (("A", missing(a)), ("B", missing(b))) if why]
    reasons = gone or a.condition.differences(b.condition, allowed)
    if reasons:
        return Pairing(a, b, tuple(reasons))
    without = next((score for score in (a, b) if not score.has_outcomes), None)
    if without is not None:
        return Pairing(a, b, untested=without.no_outcomes)
    one, other = a.trial(), b.trial()
    if one.samples != other.samples:
        return Pairing(a, b, ("samples: other ids, order or captions",))
    clusters = one.clusters if one.clusters is not None else other.clusters
    if one.over == "texts" and clusters is None:
        remedy = "Compare with a results directory on one side."
        raise StoreError("two baselines do not tell which captions share an image", remedy=remedy)
    pairs = pair(one.right, other.right, clusters)
    for score, right in ((a, pairs.right_a), (b, pairs.right_b)):
        if score.value is None or abs(score.value - right / pairs.n) > 1e-9:
            what = f"{right} of {pairs.n} samples were right, the score says {score.value}"
            raise StoreError(what, where="/".join(score.where), remedy="Evaluate again with --fresh.")
    return Pairing(a, b, pairs=pairs, trials=(one, other))
