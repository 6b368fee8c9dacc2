"""Baselines repeat to the byte and tell what moved; verdicts reach machines whole."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from climp_bench.errors import StoreError
from climp_bench.gate.baseline import changes, encode_baseline, parse_baseline, read_baseline
from climp_bench.gate.check import Verdict
from climp_bench.gate.outputs import summary, to_junit, to_markdown, workflow_commands
from tests.unit.gate.scores import outcomes, score

HERE = Path("b.baseline.json")
SCORES = [
    score(outcomes(80), weights="w"),
    score(outcomes(95), metric="acc5", weights="w"),
    score(outcomes(7, 13), task="a", condition={"n": 13}),
    score(value=0.3, low=0.2, high=0.4, metric="mean_average_precision", condition={"kind": "multilabel"}),
    score(value=None, status="skipped", reason="undefined", metric="acc5", task="a"),
]


def test_a_baseline_is_read_back_and_does_not_depend_on_order() -> None:
    text = encode_baseline(SCORES)
    assert text == encode_baseline(SCORES[::-1])
    read = parse_baseline(text, HERE)
    assert [s.where[1:3] for s in read] == [
        ("a", "acc1"), ("t", "acc1"), ("t", "acc5"), ("t", "mean_average_precision")
    ]  # fmt: skip
    assert encode_baseline(read) == text
    for kept in read:
        original = next(s for s in SCORES if s.where == kept.where)
        assert (kept.value, kept.condition, kept.low) == (original.value, original.condition, original.low)
        if original.has_outcomes:
            assert list(kept.trial().right) == list(original.trial().right)
    assert len(text.splitlines()) == 2 + 3 + len(read)  # a line a score, one an evaluation, the frame
    json.loads(text)


@pytest.mark.parametrize("status", ["failed", "partial"])
def test_only_whole_scores_become_a_baseline(status: str) -> None:
    bad = score(outcomes(50), status=status, reason="a reason")
    with pytest.raises(StoreError, match="a reason"):
        encode_baseline([*SCORES, bad])
    with pytest.raises(StoreError, match="two results of the same"):
        encode_baseline([*SCORES, score(outcomes(50), weights="w")])


def test_an_update_tells_what_moves() -> None:
    new = [
        score(outcomes(78), weights="v"),
        score(outcomes(95)[::-1], metric="acc5", weights="w"),
        SCORES[3],
        score(outcomes(1, 2), task="z"),
    ]
    old, new = (parse_baseline(encode_baseline(s), HERE) for s in (SCORES, new))
    assert [change.text for change in changes(old, new)] == [
        "- s/a acc1 m@micro: 53.85",
        "~ s/t acc1 m@micro: 80.00 -> 78.00 (other weights)",
        "~ s/t acc5 m@micro: 95.00 -> 95.00 (the same score from other samples)",
        "+ s/z acc1 m@micro: 50.00",
    ]
    assert changes(old, old) == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not a baseline"),
        ("[]", "not a baseline"),
        ('{"schema_version": 2}', "reads 1"),
        (encode_baseline(SCORES).replace("0.8,", "NaN,"), "finite"),
        (encode_baseline(SCORES).replace('"acc5": {"n": 100', '"acc5": {"m": 100'), "not a baseline"),
    ],
)
def test_what_is_no_baseline_is_named(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / HERE
    path.write_text(text)
    with pytest.raises(StoreError, match=says) as caught:
        read_baseline(path)
    assert caught.value.where == str(path) and "gate update" in caught.value.remedy


WHERE = ("s", "t|1", "acc1", "m@micro")
VERDICTS = [
    Verdict("r", WHERE, "pass", 0.8, 0.81, allowed="fall 1 points"),
    Verdict(
        "r", WHERE, "fail", 0.8, 0.5, allowed="x", p=0.01, reasons=["fell by <30> points\x07", "100%, a\nb"]
    ),
    Verdict("r", WHERE, "report", 0.8, None, reasons=["missing"]),
]


def test_junit_counts_and_says_why() -> None:
    root = ElementTree.fromstring(to_junit("g", VERDICTS))
    suite = root.find("testsuite")
    assert suite is not None and {k: suite.get(k) for k in ("tests", "failures", "skipped")} == {
        "tests": "3", "failures": "1", "skipped": "1"
    }  # fmt: skip
    (failure,) = suite.iter("failure")
    assert failure.get("message", "").startswith("fell by <30> points") and "now: 50.00" in (
        failure.text or ""
    )
    assert suite.find("testcase").get("name") == "s/t|1 acc1 m@micro"  # type: ignore[union-attr]


def test_markdown_shows_failures_first_and_folds_the_rest() -> None:
    page = to_markdown("g", VERDICTS)
    assert page.startswith("## Gate g: failed") and summary(VERDICTS) in page
    assert summary(VERDICTS) == "1 of 2 checks failed; 1 more only reported."
    assert page.index("| FAIL |") < page.index("<details>") < page.index("| pass |")
    assert "s/t\\|1" in page and "| 80.00 | 50.00 | -30.00 | x (p = 0.01) |" in page
    assert to_markdown("g", VERDICTS[:1]).startswith("## Gate g: passed")


def test_annotations_are_escaped_and_at_most_ten() -> None:
    (line,) = workflow_commands("g", VERDICTS)
    assert line.startswith("::error title=g%3A s/t|1 acc1 m@micro::fell by")
    assert "100%25, a%0Ab" in line and "\n" not in line
    many = workflow_commands("g", [VERDICTS[1]] * 30)
    assert len(many) == 10 and many[-1].endswith("::21 more checks failed")
