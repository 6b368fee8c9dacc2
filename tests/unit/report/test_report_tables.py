"""Tables of a report: what they show is what their CSVs hold, and nothing missing becomes a number."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from pathlib import Path

import pytest

from climp_bench.metrics.uncertainty import combine, wilson
from climp_bench.report.document import Report, Row, Shown, Standing, Table
from climp_bench.report.files import write_files
from climp_bench.report.formats import head_of, plain_rows, slug, to_csv, to_latex, to_markdown
from climp_bench.report.gather import gather
from climp_bench.report.paper import HEAD, commands, paper_rows
from climp_bench.results import ResultStore
from climp_bench.results.experiments import find_experiments
from climp_bench.run.standings import judge_of
from tests.unit.report import trained
from tests.unit.report.stored import HOSTILE, N, failed, fill, named, untested, write
from tests.unit.results.records import record


def made(root: Path) -> Report:
    store = fill(root)
    trained.fill(root)
    return gather(store, judge_of(store), (), find_experiments(root))


def table(report: Report, start: str) -> Table:
    return next(t for s in report.sections for t in s.tables if t.key.startswith(start))


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_every_table_equals_its_csv(tmp_path: Path) -> None:
    checked: Counter[str] = Counter()
    for section in made(tmp_path).sections:
        for one in section.tables:
            lines = read(to_csv(one))
            for row, plain, line in zip(one.rows, plain_rows(one), lines, strict=True):
                assert [line[head] for head in one.heads] == list(row.labels)
                shown = dict(zip(head_of(one), plain, strict=True))
                assert line["n"] == row.n.replace(",", "")
                for column in one.columns:
                    if f"{column} low" not in line or not line[column]:
                        assert line[column] == shown[column] or shown[column] in ("-", "failed", "skipped")
                        continue
                    numbers = [
                        line[name] for name in (column, f"{column} low", f"{column} high") if line[name]
                    ]
                    value, *bounds = re.findall(r"[-+]?[0-9][0-9.,]*", shown[column])
                    assert len(bounds) == len(numbers) - 1
                    for text, number in zip([value, *(b.rstrip(",") for b in bounds)], numbers, strict=True):
                        digits = len(text.partition(".")[2])
                        assert abs(float(text.replace(",", "")) - float(number)) <= 0.5001 * 10**-digits
                    checked[section.key] += 1
    assert min(checked[key] for key in ("zeroshot", "ablation", "scaling-data", "scaling-model", "bias")) >= 6


def test_what_is_missing_is_no_number_anywhere(tmp_path: Path) -> None:
    scores = table(made(tmp_path), "zeroshot-scenes")
    row = next(row for row in scores.rows if row.labels[0] == HOSTILE)
    assert [cell.text for cell in row.cells] == ["25.0", "failed", "-"]
    line = next(line for line in read(to_csv(scores)) if line["task"] == HOSTILE)
    assert line["b@micro"] == line["c@micro"] == ""
    assert "| failed | - |" in to_markdown(scores) and r"& failed & -- &" in to_latex(scores)


def test_averages_take_only_models_with_every_task(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    for task, right in (("x", 50), ("y", 150)):
        write(store, "a@micro", task, right)
    write(store, "b@micro", "x", 60)
    failed(store, "b@micro", "y")
    (scores, *_) = gather(store, untested).sections[0].tables
    average = scores.rows[-1]
    assert average.labels == ("average of 2 tasks", "acc@1") and average.cells[1] == Shown()
    around = combine([0.5, 0.5], [0.25, 0.75], [wilson(50, N), wilson(150, N)])
    cell = average.cells[0]
    assert (cell.value, cell.low, cell.high) == pytest.approx((50.0, 100 * around.low, 100 * around.high))
    assert [r.task for r in cell.records] == ["x", "y"]


def test_a_sweep_is_no_zero_shot_table_and_says_its_sizes(tmp_path: Path) -> None:
    report = made(tmp_path)
    keys = [t.key for s in report.sections for t in s.tables]
    assert "resolution-sizes" in keys and "zeroshot-sizes" not in keys
    assert [row.labels for row in table(report, "resolution-sizes").rows] == [
        ("swept", "acc@1", "64 px"),
        ("swept", "acc@1", "96 px"),
    ]


def test_a_model_in_two_precisions_has_two_columns(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    first = write(store, "a@micro", "x", 50)
    run = first.provenance.model_copy(update={"dtype": "bfloat16"})
    write(store, "a@micro", "x", 60, provenance=run)
    (scores, *_) = gather(store, untested).sections[0].tables
    assert scores.columns == ("a@micro (bfloat16)", "a@micro (float32)")
    assert [cell.text for cell in scores.rows[0].cells] == ["30.0", "25.0"]


def test_the_best_is_marked_in_every_format() -> None:
    cells = (Shown("1.0", 1.0), Shown("3.0", 3.0), Shown("2.0", 2.0))
    row = Row(("t",), cells, standing=Standing(1, 2, "b", "p = 0.001"))
    one = Table("k", "A table", ("task",), ("a", "b", "c"), (row,))
    assert "| t | 1.0 | **3.0** | <ins>2.0</ins> | b |" in to_markdown(one)
    assert r"t & 1.0 & \textbf{3.0} & \underline{2.0} & b \\" in to_latex(one)
    (line,) = read(to_csv(one))
    assert (line["best"], line["second"], line["why"]) == ("b", "c", "p = 0.001")


def test_hostile_names_stay_text_in_markdown_and_latex(tmp_path: Path) -> None:
    scores = table(made(tmp_path), "zeroshot-scenes")
    text = to_markdown(scores)
    assert "<script" not in text and r"\|" in text
    widths = {len(re.split(r"(?<!\\)\|", line)) for line in text.splitlines() if line.startswith("|")}
    assert len(widths) == 1
    latex = to_latex(scores)
    assert r"\textless{}script\textgreater{}" in latex and r"\_\{\}\textbackslash{}" in latex
    assert latex.count("{") - latex.count(r"\{") == latex.count("}") - latex.count(r"\}")


def test_files_lie_where_they_are_linked_and_names_are_safe(tmp_path: Path) -> None:
    files = write_files(made(tmp_path), tmp_path / "out")
    assert files[0] == tmp_path / "out/index.html" and all(file.is_file() for file in files)
    text = (tmp_path / "out/report.md").read_text()
    linked = re.findall(r"\]\((plots/[^)]+)\)", text)
    assert linked and all((tmp_path / "out" / place).is_file() for place in linked)
    runs = [run for one in find_experiments(tmp_path) for run in one.content.runs]
    stored = len(ResultStore(tmp_path / "records").read()) + sum(len(run.records) for run in runs)
    assert len(read((tmp_path / "out/records.csv").read_text())) == stored
    assert slug("../../etc/passwd") == "etc-passwd" and slug("///") == "table"
    assert all(file.is_relative_to(tmp_path / "out") for file in files)


def test_figures_of_the_paper_stand_beside_ours_or_say_why_not(tmp_path: Path) -> None:
    ours = {
        "model": {**named("climp-m1@base"), "family": "climp-m1"}, "suite": "nocaps", "task": "nocaps",
        "dataset": {"name": "nocaps", "split": "val"}, "kind": "retrieval",
        "metric": "image_retrieval_recall@5", "value": 0.71, "resolution": (224, 224),
    }  # fmt: skip
    rows = [dict(zip(HEAD, row, strict=True)) for row in paper_rows([record(**ours)])[1:]]
    reason = HEAD[7]
    same = [r for r in rows if (r["what"], r["model"]) == ("nocaps, 224 px", "climp-m1@base")]
    found = {r["metric"]: r for r in same}
    assert found["image R@5"]["published"] == "70.5" and found["image R@5"]["ours"].startswith("71.0 [")
    assert found["image R@5"]["difference"] == "+0.5" and found["image R@5"][reason] == "yes"
    assert found["text R@5"]["ours"] == "-" and "other conditions" in found["text R@5"][reason]
    absent = next(r for r in rows if r["what"] == "imagenet-o, 224 px")
    assert absent["ours"] == absent["n"] == "-" and absent[reason] == "not measured"
    assert any(row["metric"].startswith("GFLOPs") and row["published"] == "259.7" for row in rows)
    assert "climp-bench ood --suite imagenet-ood --model climp-m1@base" in commands([record(**ours)])


def test_published_figures_stand_in_the_cell_they_belong_to(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    facts = {
        "suite": "mine", "task": "t", "kind": "retrieval", "resolution": (224, 224),
        "dataset": {"name": "nocaps", "split": "val"}, "metric": "image_retrieval_recall@5", "value": 0.71,
    }  # fmt: skip
    store.write([record(**facts, model=named("climp-m1@base")), record(**facts | {"model": named("a@base")})])
    (scores, *_) = gather(store, untested).sections[0].tables
    row = next(row for row in scores.rows if row.labels == ("t", "image R@5"))
    values = {c: [f.value for f in cell.published] for c, cell in zip(scores.columns, row.cells, strict=True)}
    assert values == {"a@base": [], "climp-m1@base": [0.705]}
    assert "(published 70.5)" in to_markdown(scores) and "(published 70.5)" in to_latex(scores)
    (line,) = [line for line in read(to_csv(scores)) if line["metric"] == "image R@5"]
    assert (line["climp-m1@base published"], line["a@base published"]) == ("70.5", "")
