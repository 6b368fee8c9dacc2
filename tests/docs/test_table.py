"""README.md shows the scores of the kept report, and that report was made with the shipped weights."""

from __future__ import annotations

import json

import pytest

from climp_bench.models.store import MANIFEST, MODEL, SHIPPED
from climp_bench.suite import load
from tests.docs.table import END, ROOT, START, families, read_report, render_table, table_in

ROWS = read_report()
DIGESTS = {
    name: files[MODEL]["sha256"]
    for name, files in json.loads((SHIPPED / MANIFEST).read_text(encoding="utf-8")).items()
}


def test_the_readme_shows_the_report() -> None:
    shown = table_in((ROOT / "README.md").read_text(encoding="utf-8"))
    assert shown == render_table(ROWS), "paste what `python -m tests.docs.table` prints"


def test_the_report_was_made_with_the_shipped_weights() -> None:
    measured = {(f"{row['family']}-{row['scale']}", row["weights_digest"]) for row in ROWS}
    assert measured == set(DIGESTS.items()), "measure again: climp-bench zeroshot"
    assert {row["weights_source"] for row in ROWS} == {"shipped"}


def test_the_report_is_of_the_shipped_suite_and_whole() -> None:
    suite = load("embedded")
    assert {row["protocol"] for row in ROWS} == {suite.protocol}
    assert {row["status"] for row in ROWS} <= {"ok", "skipped"}
    tasks = {(task.name, family) for task in suite.tasks for family in families(ROWS)}
    assert {(row["task"], row["family"]) for row in ROWS} == tasks
    wanted = {task.name: str(task.n) for task in suite.tasks}
    counted = {row["task"]: row["n_expected"] for row in ROWS if row["metric"] == "acc1"}
    assert counted == {name: wanted[name] for name in counted}


def row(family: str, metric: str, value: str, **others: str) -> dict[str, str]:
    base = {"family": family, "task": "t", "kind": "classification", "metric": metric, "value": value}
    return base | {"n_evaluated": "1200", "extra.chance": "", "status": "ok"} | others


def test_the_table_shows_one_decimal_ranges_and_why_a_score_is_missing() -> None:
    rows = [
        row("a", "acc1", "0.9994", **{"extra.chance": "0.03125"}),
        row("a", "acc5", "1.0"),
        row("a", "worst_group_acc1", "0.25", n_evaluated="75"),
        row("b", "acc1", "", status="failed"),
        row("b", "worst_group_acc1", "0.126", n_evaluated="78"),
        row("a", "image_retrieval_recall@5", "0.5", task="u", kind="retrieval"),
    ]
    assert render_table(rows).splitlines() == [
        "| task | metric | n | chance | a | b |",
        "| --- | --- | --: | --: | --: | --: |",
        "| t | acc@1 | 1,200 | 3.1 | 99.9 | failed |",
        "| t | worst-group acc@1 | 75-78 |  | 25.0 | 12.6 |",
        "| u | image R@5 | 1,200 |  | 50.0 | - |",
    ]


def test_a_readme_without_marks_is_caught() -> None:
    assert table_in(f"x\n{START}\n| a |\n{END}\ny") == "| a |\n"
    with pytest.raises(ValueError, match="one"):
        table_in("no marks")
