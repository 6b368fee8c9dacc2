"""What a gate lets through and what it does not: above all, nothing that is missing or not comparable."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from climp_bench.errors import UsageError
from climp_bench.gate.check import Verdict, judge
from climp_bench.gate.measured import Measured
from climp_bench.gate.rules import Gate
from tests.unit.gate.scores import outcomes, score


def gate(*rules: dict[str, Any], **facts: Any) -> Gate:
    named = [{"name": f"rule {k}", "metric": "*", **rule} for k, rule in enumerate(rules)]
    return Gate.model_validate({"schema": 1, "name": "g", "rule": named, **facts})


def judged(rule: dict[str, Any], run: list[Measured], baseline: list[Measured] | None) -> list[Verdict]:
    return judge(gate(rule), run, baseline)


def one(rule: dict[str, Any], run: list[Measured], baseline: list[Measured] | None) -> Verdict:
    (verdict,) = judged(rule, run, baseline)
    return verdict


BASE = score(outcomes(80))


@pytest.mark.parametrize(
    ("rule", "right", "answer"),
    [
        ({"tolerance": 1.0}, 79, "pass"),
        ({"tolerance": 1.0}, 78, "fail"),
        ({"tolerance": 1.0}, 95, "pass"),
        ({"tolerance": 1.0, "direction": "same"}, 95, "fail"),
        ({"tolerance": 1.0, "direction": "lower"}, 95, "fail"),
        ({"tolerance": 1.0, "direction": "lower"}, 60, "pass"),
        ({"tolerance_se": 2.0}, 77, "pass"),
        ({"tolerance_se": 2.0}, 70, "fail"),
        ({"significance": 0.05}, 76, "pass"),  # four lost, none gained: p = 1/16
        ({"significance": 0.05}, 75, "fail"),  # five: p = 1/32
        ({"significance": 0.05, "tolerance": 5.0}, 75, "pass"),
        ({"significance": 0.05}, 95, "pass"),
        ({"flips": 2}, 82, "pass"),
        ({"flips": 2}, 83, "fail"),
        ({"ratio": 1.02}, 79, "pass"),
        ({"ratio": 1.02}, 78, "fail"),
        ({"floor": 79.0}, 79, "pass"),
        ({"floor": 79.0}, 78, "fail"),
        ({"ceiling": 79.0}, 80, "fail"),
    ],
)
def test_criteria(rule: dict[str, Any], right: int, answer: str) -> None:
    verdict = one(rule, [score(outcomes(right))], [BASE])
    assert verdict.answer == answer
    assert bool(verdict.reasons) == (answer == "fail")


def test_equal_scores_from_other_samples_are_flips() -> None:
    swapped = score(outcomes(80)[::-1])
    assert one({"tolerance": 0.0}, [swapped], [BASE]).answer == "pass"
    assert "40 of 100 samples" in one({"flips": 3}, [swapped], [BASE]).reasons[0]


@pytest.mark.parametrize(
    ("run", "says"),
    [
        ([], "missing"),
        ([score(value=None, status="failed", reason="out of memory")], "failed: out of memory"),
        ([score(value=None, status="skipped", reason="undefined")], "skipped: undefined"),
        ([score(metric="any", value=None, status="failed", reason="no data")], "failed: no data"),
        ([score(outcomes(90), status="partial", reason="10 broken images")], "partial: 10 broken"),
        ([score(outcomes(90), condition={"protocol": "other"})], "protocol: corrected, other"),
        ([score(outcomes(90), condition={"fingerprint": "e" * 64})], "fingerprint"),
        ([score(outcomes(90), condition={"revision": "v2"})], "revision"),
        ([score(outcomes(90, 120))], "n: 100, 120"),
        ([score(outcomes(90), condition={"resolution": (96, 96)})], "resolution: 64x64, 96x96"),
        ([score(outcomes(90), condition={"dtype": "bfloat16"})], "dtype"),
        ([score(outcomes(90), condition={"kind": "multilabel"})], "kind"),
        ([score(outcomes(90), samples="others")], "samples: other ids"),
        ([score(outcomes(90), model="n@micro")], "missing"),
    ],
)
def test_what_cannot_be_judged_fails(run: list[Measured], says: str) -> None:
    for rule in ({"tolerance": 50.0}, {"flips": 99}, {"significance": 0.05}):
        verdicts = judged(rule, run, [BASE])
        assert verdicts[0].answer == "fail" and says in verdicts[0].reasons[0]


def test_a_score_whose_outcomes_say_otherwise_is_refused() -> None:
    verdict = one({"tolerance": 50.0}, [score(outcomes(90), value=0.95)], [BASE])
    assert verdict.answer == "fail" and "90 of 100" in verdict.reasons[0]


def test_without_outcomes_points_are_judged_and_tests_are_not() -> None:
    before, now = score(value=0.8, low=0.7, high=0.9), score(value=0.75, low=0.65, high=0.85)
    assert one({"tolerance": 6.0}, [now], [before]).answer == "pass"
    assert one({"tolerance_se": 1.0}, [now], [before]).answer == "pass"  # 5 points of 7.2
    assert one({"tolerance_se": 0.5}, [now], [before]).answer == "fail"
    for rule in ({"flips": 99}, {"significance": 0.01}):
        assert "--fresh" in one(rule, [now], [before]).reasons[0]
    no_mean = [score(value=v, metric="mean_average_precision") for v in (0.75, 0.8)]
    assert "no mean over samples" in one({"flips": 99}, no_mean[:1], no_mean[1:]).reasons[0]
    assert "standard error" in one({"tolerance_se": 9.0}, no_mean[:1], no_mean[1:]).reasons[0]


def test_what_is_not_in_the_baseline_fails_until_it_is_updated() -> None:
    new = score(outcomes(90), task="new")
    verdicts = judged({"tolerance": 1.0}, [BASE, new], [BASE])
    assert [v.answer for v in verdicts] == ["pass", "fail"]
    assert "gate update" in verdicts[1].reasons[0]
    undefined = score(value=None, status="skipped", reason="two classes", metric="acc5")
    assert len(judged({"tolerance": 1.0}, [BASE, undefined], [BASE])) == 1


def test_another_resolution_beside_does_not_stand_in_for_the_one_gated() -> None:
    beside = score(outcomes(10), condition={"resolution": (96, 96)})
    assert one({"tolerance": 1.0}, [beside, BASE], [BASE]).answer == "pass"
    assert one({"tolerance": 99.0, "across": ["resolution"]}, [beside], [BASE]).answer == "pass"


def test_a_rule_that_covers_nothing_fails() -> None:
    for baseline in ([BASE], None):
        verdict = one({"floor": 1.0, "task": "typo-*"}, [BASE], baseline)
        assert verdict.answer == "fail" and "covers no score" in verdict.reasons[0]


def test_comparing_without_a_baseline_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match="baseline"):
        judged({"tolerance": 1.0}, [BASE], None)


def test_fixed_limits_need_no_baseline_but_what_is_required() -> None:
    require = {"suite": "s", "tasks": ["t", "u"], "metrics": ["acc1"], "models": ["m@micro"]}
    rules = gate({"floor": 50.0}, require=[require])
    broken = score(metric="any", task="u", value=None, status="failed", reason="no such data")
    assert [v.answer for v in judge(rules, [BASE, score(outcomes(60), task="u")], None)] == ["pass", "pass"]
    missing = judge(rules, [BASE], None)
    assert [(v.rule, v.where[1], v.answer) for v in missing if v.answer == "fail"] == [
        ("required", "u", "fail")
    ]
    failed = judge(rules, [BASE, broken], None)
    assert {v.rule for v in failed if v.answer == "fail"} == {"required", "rule 0"}
    assert all("no such data" in v.reasons[0] for v in failed if v.answer == "fail")


@pytest.mark.parametrize("task", ["imagenet-o", "scenes-shape-o"])
def test_imagenet_o_is_reported_unless_named(task: str) -> None:
    before, now = score(outcomes(80), task=task), score(outcomes(10), task=task)
    verdict = one({"tolerance": 1.0}, [now], [before])
    assert verdict.answer == "report" and "fell by 70 points" in verdict.reasons[0]
    assert one({"tolerance": 1.0, "task": task}, [now], [before]).answer == "fail"
    assert one({"report": True, "metric": "acc1"}, [now], None).answer == "report"


def test_exclude_and_patterns_choose() -> None:
    tasks = [score(outcomes(80), task=t) for t in ("a1", "a2", "b1")]
    verdicts = judged({"tolerance": 1.0, "task": "a*", "exclude": ["*2"]}, tasks, tasks)
    assert [v.where[1] for v in verdicts] == ["a1"]


def test_efficiency_against_another_model_of_the_run_and_on_another_host() -> None:
    facts = {"kind": "efficiency", "n": None, "host": "cpu one"}
    fast = score(value=10.0, metric="latency_ms", model="a", condition=facts)
    slow = score(value=15.0, metric="latency_ms", model="b", condition=facts)
    rule = {"metric": "latency_ms", "direction": "lower", "against": "a"}
    assert one(rule | {"ratio": 1.6}, [fast, slow], None).answer == "pass"
    assert "1.5 times as much" in one(rule | {"ratio": 1.2}, [fast, slow], None).reasons[0]
    assert "a has no such score" in one(rule | {"ratio": 1.6}, [slow], None).reasons[0]
    elsewhere = score(value=10.0, metric="latency_ms", model="a", condition=facts | {"host": "cpu two"})
    relative = {"metric": "latency_ms", "direction": "lower", "ratio": 1.5}
    assert "host" in one(relative, [elsewhere], [fast]).reasons[0]
    assert one(relative | {"across": ["host"]}, [elsewhere], [fast]).answer == "pass"
    assert "shares" in one({"tolerance": 1.0, "direction": "lower"}, [fast], [fast]).reasons[0]


def test_holm_corrects_over_the_scores_of_a_rule() -> None:
    before = [score(outcomes(80), task=f"t{k}") for k in range(10)]
    now = [score(outcomes(74 if k == 0 else 80), task=f"t{k}") for k in range(10)]
    alone = judged({"significance": 0.05}, now[:1], before[:1])
    together = judged({"significance": 0.05}, now, before)
    assert alone[0].answer == "fail" and alone[0].p == pytest.approx(2**-6)
    assert together[0].answer == "pass" and together[0].p == pytest.approx(10 * 2**-6)


def test_false_alarms_of_a_gate_come_at_the_nominal_rate() -> None:
    """2,000 pairs of runs of equally good models under one rule at 5%: 3% to 7% fail."""
    rng, rules, alarms = np.random.default_rng(0), gate({"significance": 0.05}), 0
    for _ in range(2000):
        a, b = rng.random((2, 400)) < rng.uniform(0.3, 0.9, 400)
        (verdict,) = judge(rules, [score(b)], [score(a)])
        alarms += verdict.answer == "fail"
    assert 0.03 <= alarms / 2000 <= 0.07
