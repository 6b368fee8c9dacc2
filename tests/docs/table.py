"""The score table of README.md, from the report that is kept with the code: python -m tests.docs.table"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from climp_bench.report.tables import HEADLINE, Line

ROOT = Path(__file__).resolve().parents[2]
REPORT = ROOT / "reports" / "published" / "zeroshot-embedded.csv"
START, END = "<!-- table:start -->", "<!-- table:end -->"

Row = Mapping[str, str]


def read_report(path: Path = REPORT) -> list[dict[str, str]]:
    """The rows of a report's CSV: one score each, all columns as text."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def families(rows: Iterable[Row]) -> list[str]:
    """The families of a report, in its order."""
    return list(dict.fromkeys(row["family"] for row in rows))


def render_table(rows: Sequence[Row]) -> str:
    """The main metrics as Markdown: task, metric, n, chance, then percent with one decimal by family."""
    lines = [["task", "metric", "n", "chance", *families(rows)]]
    lines.append(["---", "---", "--:", "--:", *["--:"] * len(families(rows))])
    for task in dict.fromkeys(row["task"] for row in rows):
        of_task = [row for row in rows if row["task"] == task]
        for metric in (*HEADLINE[of_task[0]["kind"]], "worst_group_acc1"):
            scores = [row for row in of_task if row["metric"] == metric]
            if scores:
                lines.append(_line(task, metric, scores, families(rows)))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _line(task: str, metric: str, scores: Sequence[Row], columns: Sequence[str]) -> list[str]:
    of_family = {row["family"]: row for row in scores}
    chance = next((row["extra.chance"] for row in scores if row["extra.chance"]), "")
    cells = [_score(of_family.get(family)) for family in columns]
    label = Line(task, metric, None, ()).label
    return [task, label, _count(scores), f"{100 * float(chance):.1f}" if chance else "", *cells]


def _score(row: Row | None) -> str:
    if row is None:
        return "-"
    return f"{100 * float(row['value']):.1f}" if row["value"] else row["status"]


def _count(scores: Sequence[Row]) -> str:
    """Samples of the score; the range where models differ (each has its own worst group)."""
    counts = sorted({int(row["n_evaluated"]) for row in scores if row["n_evaluated"]})
    return "-".join(f"{n:,}" for n in dict.fromkeys((counts[0], counts[-1]))) if counts else "-"


def table_in(text: str) -> str:
    """What stands between the two marks of a Markdown text. Raises ``ValueError`` unless both are there."""
    if text.count(START) != 1 or text.count(END) != 1:
        raise ValueError(f"there must be one {START} and one {END}")
    return text.partition(START)[2].partition(END)[0].lstrip("\n")


if __name__ == "__main__":
    print(render_table(read_report()), end="")
