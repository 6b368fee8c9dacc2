"""Compare two runs: pair what measures the same thing, test it, correct for the number of tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from climp_bench.errors import StoreError, UsageError
from climp_bench.gate.measured import Measured, Where, by_place
from climp_bench.gate.pairing import Pairing, pair_scores
from climp_bench.gate.runs import Run
from climp_bench.metrics.paired import cluster_interval, detectable, holm, paired_bootstrap, sign_flip
from climp_bench.results.differences import Comparison, Difference, Finding


@dataclass(frozen=True)
class Options:
    """How to compare.

    Attributes:
        wanted: which scores to compare.
        alpha: level of the tests, corrected by Holm; intervals are of level ``1 - alpha``, uncorrected.
        bootstrap: intervals by a bootstrap over images in place of the closed form.
        seed: of the bootstrap.
        across: conditions that may differ, such as ``resolution``; precision of the encoders always may.
    """

    wanted: Callable[[Measured], bool] = lambda score: True
    alpha: float = 0.05
    bootstrap: bool = False
    seed: int = 0
    across: tuple[str, ...] = ()


def compare(a: Run, b: Run, options: Options) -> Comparison:
    """The differences of B from A; scores that only one has, or that differ in kind, are told apart.

    Raises:
        UsageError: the runs have no model in common and are not one model each, or nothing is left.
    """
    names = _models(a, b)
    places_a, places_b = (
        {k: _of_interest(v, options) for k, v in by_place(r.scores).items()} for r in (a, b)
    )
    differences: list[Difference] = []
    for model_a, model_b in names:
        seen = [where[:3] for where in places_a if where[3] == model_a and places_a[where]]
        seen += [where[:3] for where in places_b if where[3] == model_b and places_b[where]]
        for suite, task, metric in dict.fromkeys(seen):
            scores_a = places_a.get((suite, task, metric, model_a), [])
            scores_b = places_b.get((suite, task, metric, model_b), [])
            where = (suite, task, metric, model_a)
            differences += _at_one_place(where, model_b, scores_a, scores_b, options)
    if not differences:
        remedy = "Check --suite and --metric, and that both runs measured them."
        raise UsageError("nothing to compare", where=f"{a.name}, {b.name}", remedy=remedy)
    return Comparison(a.name, b.name, options.alpha, tuple(_corrected(differences, options.alpha)))


def _models(a: Run, b: Run) -> list[tuple[str, str]]:
    """Which model of A goes with which of B: one with one, else those of one name."""
    if len(a.models) == len(b.models) == 1:
        return [(a.models[0], b.models[0])]
    both = [model for model in a.models if model in b.models]
    if not both:
        what = f"{', '.join(a.models)} against {', '.join(b.models)}: no model in common"
        raise UsageError(what, where=f"{a.name}, {b.name}", remedy="Name one of each: DIR:MODEL.")
    return [(model, model) for model in both]


def _of_interest(scores: Sequence[Measured], options: Options) -> list[Measured]:
    return [score for score in scores if score.status != "skipped" and options.wanted(score)]


def _at_one_place(
    where: Where, model_b: str, a: Sequence[Measured], b: Sequence[Measured], options: Options
) -> list[Difference]:
    """Pair alike with alike; what has no partner is not comparable."""
    across = ("dtype", *options.across)
    made, left = [], list(b)
    for one in a:
        by_likeness = sorted(left, key=lambda other: len(one.condition.differences(other.condition)))
        partner = by_likeness[0] if by_likeness else None
        if partner is not None:
            left.remove(partner)
        made.append(_difference(where, model_b, one, partner, across, options))
    return made + [_difference(where, model_b, None, other, across, options) for other in left]


def _difference(
    where: Where,
    model_b: str,
    a: Measured | None,
    b: Measured | None,
    across: Sequence[str],
    options: Options,
) -> Difference:
    some = a or b
    assert some is not None
    base = Difference(
        *where,
        model_b,
        "not comparable",
        is_share=some.is_share,
        a=a.value if a else None,
        b=b.value if b else None,
        n=some.condition.n,
    )
    if a is None or b is None:
        return replace(base, reason=f"only in {'B' if a is None else 'A'}")
    try:
        pairing = pair_scores(a, b, across)
    except StoreError as error:
        return replace(base, reason=str(error))
    if pairing.reasons:
        return replace(base, reason="; ".join(pairing.reasons))
    if pairing.pairs is None:
        return replace(base, finding="not tested", reason=pairing.untested)
    return _tested(base, pairing, options)


def _tested(base: Difference, pairing: Pairing, options: Options) -> Difference:
    pairs, level = pairing.pairs, 1 - options.alpha
    assert pairs is not None and pairing.trials is not None
    if options.bootstrap:
        one, other = pairing.trials
        clusters = one.clusters if one.clusters is not None else other.clusters
        interval = paired_bootstrap(one.right, other.right, clusters, seed=options.seed, level=level)
    else:
        interval = cluster_interval(pairs, level)
    return replace(
        base,
        finding="no difference shown",
        clusters=len(pairs.totals),
        interval=interval,
        gained=pairs.gained,
        lost=pairs.lost,
        p=sign_flip(pairs.totals),
        cohens_g=pairs.cohens_g,
        odds_ratio=pairs.odds_ratio,
        detectable=detectable(pairs, level),
    )


def _corrected(differences: Sequence[Difference], alpha: float) -> list[Difference]:
    adjusted = iter(holm([d.p for d in differences if d.p is not None]))
    return [d if d.p is None else _decided(d, next(adjusted), alpha) for d in differences]


def _decided(difference: Difference, p_holm: float, alpha: float) -> Difference:
    finding: Finding = "no difference shown"
    if p_holm < alpha:
        finding = "B better" if (difference.difference or 0) > 0 else "A better"
    return replace(difference, p_holm=p_holm, finding=finding)
