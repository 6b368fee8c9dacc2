"""Experiments in a report: read strictly, shown with seeds, samples and provenance, toys marked as toys."""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from climp_bench.errors import StoreError
from climp_bench.report.bias import DRAWINGS
from climp_bench.report.document import Report, Section, Table
from climp_bench.report.experiment import SMALL, write_numbers
from climp_bench.report.files import write_files
from climp_bench.report.gather import gather
from climp_bench.report.html import to_html
from climp_bench.results import ResultStore
from climp_bench.results.experiments import find_experiments, read_experiment
from tests.unit.report import trained
from tests.unit.report.stored import HOSTILE, untested
from tests.unit.report.test_html import Checker

T_ONE = 12.7062  # Student's t of one degree of freedom, 97.5%


def report(root: Path) -> Report:
    return gather(ResultStore(root / "records"), untested, (), find_experiments(root))


def section(found: Report, key: str) -> Section:
    return next(s for s in found.sections if s.key == key)


def table(found: Report, key: str) -> Table:
    return next(t for s in found.sections for t in s.tables if t.key == key)


def test_an_ablation_shows_means_over_seeds_and_paired_differences(tmp_path: Path) -> None:
    trained.fill(tmp_path)
    found = report(tmp_path)
    scores = table(found, "ablation-scores")
    assert scores.columns == ("VMamba", "RoPE-ViT") and scores.unit == "percent"
    assert [row.labels for row in scores.rows] == [
        ("shapes", "acc@1", "Mamba-1"),
        ("shapes", "acc@1", "LLaMA"),
    ]
    assert {(row.n, row.chance) for row in scores.rows} == {("200 x 2", 25.0)}
    vmamba, rope = scores.rows[1].cells
    for cell, values in ((vmamba, [60.0, 62.0]), (rope, [80.0, 86.0])):  # 120, 124; 160, 172 of 200
        half = T_ONE * statistics.stdev(values) / math.sqrt(2)
        mean = statistics.mean(values)
        reach = (mean, mean - half, min(100.0, mean + half))
        assert (cell.value, cell.low, cell.high) == pytest.approx(reach, rel=1e-4)
        assert [r.extra["training seed"] for r in cell.records] == [0, 1]
    (difference,) = table(found, "ablation-differences").rows[1].cells
    half = T_ONE * statistics.stdev([-20.0, -24.0]) / math.sqrt(2)
    assert (difference.value, difference.low, difference.high) == pytest.approx(
        (-22.0, -22 - half, -22 + half), rel=1e-4
    )
    assert difference.text == "-22.0" and len(difference.records) == 4


def test_one_seed_has_the_interval_of_its_samples_and_no_paired_one(tmp_path: Path) -> None:
    runs = trained.ablation(seeds=1)
    write_numbers("ablation", runs, trained.FACTS, tmp_path, small=True, remarks=[])
    found = report(tmp_path)
    row = table(found, "ablation-scores").rows[0]
    score = runs[0]["scores"][0]
    assert row.n == "200 x 1"
    assert (row.cells[0].low, row.cells[0].high) == pytest.approx((100 * score["low"], 100 * score["high"]))
    assert table(found, "ablation-differences").rows[0].cells[0].bounds == ""


def test_a_pair_that_was_not_trained_is_a_dash(tmp_path: Path) -> None:
    runs = [run for run in trained.ablation() if run["family"] != "rope-vit"]
    write_numbers("ablation", runs, trained.FACTS, tmp_path, small=True, remarks=[])
    found = report(tmp_path)
    cells = table(found, "ablation-scores").rows[1].cells
    assert cells[0].value == pytest.approx(61.0) and cells[1].value is None and cells[1].text == "-"
    assert [row.labels[-1] for row in table(found, "ablation-differences").rows] == ["Mamba-1"]


def test_scaling_has_its_law_or_says_why_not(tmp_path: Path) -> None:
    trained.fill(tmp_path)
    found = report(tmp_path)
    law = table(found, "scaling-data-laws").rows[0]
    exponent, factor, remark = law.cells
    assert exponent.value == pytest.approx(-0.25, abs=0.03) and exponent.low and exponent.high
    assert factor.value == pytest.approx(2.0, abs=0.3) and remark.text == "fitted" and law.n == "6"
    columns = table(found, "scaling-data-scores").columns
    assert columns == ("100 training pairs", "200 training pairs", "400 training pairs")
    refused = table(found, "scaling-model-laws").rows[0].cells
    assert [cell.text for cell in refused] == ["-", "-", "not fitted: 2 sizes, a law needs 3"]
    drawn, bare = (section(found, name).charts[0].panels[0][0] for name in ("scaling-data", "scaling-model"))
    assert drawn.count('class="band') == drawn.count('class="line') == 2 and drawn.count("<title>") == 12
    assert 'class="band' not in bare and 'class="line' not in bare and bare.count("<title>") == 8


def test_sizes_that_differ_by_family_have_rows_of_their_own(tmp_path: Path) -> None:
    runs = trained.scaling()[:6] + [trained.trial("rope-vit", 0, 90, point=n) for n in (110, 220)]
    write_numbers("scaling-model", runs, trained.FACTS, tmp_path, small=True, remarks=[])
    scores = table(report(tmp_path), "scaling-model-scores")
    assert scores.heads[-1] == "image parameters" and scores.columns == ("score",)
    sizes = {"climp-m1": ("100", "200", "400"), "rope-vit": ("110", "220")}
    assert [row.labels[2:] for row in scores.rows] == [(f, n) for f, own in sizes.items() for n in own]


def test_bias_shows_accuracy_loss_and_what_the_order_costs(tmp_path: Path) -> None:
    trained.fill(tmp_path)
    found = report(tmp_path)
    accuracy, loss = table(found, "bias-accuracy").rows[0], table(found, "bias-loss").rows[0]
    assert [cell.text for cell in accuracy.cells] == ["62.5", "52.5"] and accuracy.n == "200 x 2"
    assert [cell.text for cell in loss.cells] == ["1.125", "1.625"]
    cost = table(found, "bias-differences").rows[0]
    assert [cell.told for cell in cost.cells] == ["+10.0", "-0.500"]  # alike with both seeds
    losses = section(found, "bias").charts[1]
    assert len(losses.panels) == 2 and losses.panels[0][0].count('class="thin') == 4
    (tmp_path / "bias/bias.json").unlink()
    write_numbers("bias", trained.bias(seeds=1), trained.FACTS, tmp_path / "bias", small=True, remarks=[])
    one = table(report(tmp_path), "bias-accuracy")
    assert one.rows[0].cells[0].low is not None and "of its test images" in " ".join(one.notes)
    assert table(report(tmp_path), "bias-loss").rows[0].cells[0].low is None


@pytest.mark.parametrize("small", [True, False])
def test_toys_are_marked_beside_every_number_and_nothing_else_is(tmp_path: Path, small: bool) -> None:
    trained.fill(tmp_path, small=small)
    found = report(tmp_path)
    for key, warning in (
        ("ablation", SMALL),
        ("scaling-data", SMALL),
        ("scaling-model", SMALL),
        ("bias", DRAWINGS),
    ):
        own = section(found, key)
        shown = [" ".join(t.notes) for t in own.tables if t.key != "bias-towers"] + [
            c.caption for c in own.charts
        ]
        assert len(shown) >= 4 and {warning in text for text in shown} == {small}
    state = {row[0]: row[7] for row in found.beside}
    assert state["Ablation"] == (
        "measured as toys only, which says nothing about the paper" if small else "measured"
    )
    assert any(c.startswith("climp-bench ablation --recipe") for c in found.wanted) == small


def test_without_experiments_the_paper_table_says_what_would_run_them(tmp_path: Path) -> None:
    found = report(tmp_path)
    assert [s.tables for s in found.sections if s.key in ("ablation", "bias")] == [(), ()]
    states = {row[0]: (row[4], row[7]) for row in found.beside}
    assert states["Inductive bias"] == ("-", "not measured") and "climp-bench bias --data DIR" in found.wanted


def test_two_of_one_kind_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    for folder in ("ablation", "ablation-whole"):
        write_numbers("ablation", trained.ablation(), {}, tmp_path / folder, small=False, remarks=[])
    titles = [t.title for t in section(report(tmp_path), "ablation").tables]
    assert titles[0] == "Ablation (ablation)" and "Ablation (ablation-whole)" in titles
    deeper = tmp_path / "a/b"
    write_numbers("bias", trained.bias(), {}, deeper, small=False, remarks=[])
    assert section(report(tmp_path), "bias").tables == ()


def test_every_number_opens_its_seeds_with_their_provenance(tmp_path: Path) -> None:
    trained.fill(tmp_path, task=HOSTILE)
    found = report(tmp_path)
    text = to_html(found)
    checker = Checker()
    checker.feed(text)
    assert checker.faults == [] and checker.open == [] and len(checker.ids) == len(set(checker.ids))
    cells = [c for s in found.sections for t in s.tables for row in t.rows for c in row.cells]
    assert all(c.records for c in cells if c.value is not None)
    data = json.loads(re.findall(r'id="data">(.*?)</script>', text, re.DOTALL)[0])
    first = next(r for r in data["records"] if r["title"].startswith("climp-m1-thumbnail@micro"))
    assert first["title"].endswith(", seed 0")
    facts = dict(first["facts"]) | dict(first["run"]) | dict(data["runs"][first["made"]])
    assert facts["recipe (sha256)"] == "d1ce" and facts["weights"] == "climp-m1 0"
    assert facts["host"] and facts["packages"] and facts["started"] and facts["device"]


def test_its_files_are_written_like_every_other_part(tmp_path: Path) -> None:
    trained.fill(tmp_path)
    out = tmp_path / "report"
    names = {path.relative_to(out).as_posix() for path in write_files(report(tmp_path), out)}
    for table_of in (
        "ablation-scores",
        "ablation-differences",
        "scaling-data-scores",
        "scaling-data-laws",
        "bias-loss",
    ):
        assert {f"tables/{table_of}.{suffix}" for suffix in ("md", "csv", "tex")} <= names
    plots = {name for name in names if name.startswith("plots/")}
    drawn = ("ablation-scores-dots", "scaling-data-curves", "scaling-model-curves", "bias-accuracy-dots")
    assert plots == {f"plots/{name}.svg" for name in (*drawn, "bias-losses")}
    for plot in plots:
        ElementTree.parse(out / plot)
    assert "# Ablation (Table 8 of the paper)" in (out / "report.md").read_text()
    assert find_experiments(out) == []


def _old(content: dict[str, Any]) -> None:
    del content["schema_version"], content["name"], content["small"]


def _twice(content: dict[str, Any]) -> None:
    content["runs"].append(content["runs"][0])


def _unpaired(content: dict[str, Any]) -> None:
    content["runs"].pop()


def _moved(content: dict[str, Any]) -> None:
    content["runs"][0]["records"] = content["runs"][1]["records"]


@pytest.mark.parametrize(
    ("name", "spoil", "says"),
    [
        ("ablation", _old, "an earlier climp-bench"),
        ("bias", _old, "an earlier climp-bench"),
        ("ablation", lambda c: c.update(schema_version=2), "experiment schema 2"),
        ("ablation", lambda c: c.update(name="bias"), "name: not ablation"),
        ("ablation", lambda c: c.update(runs=[]), "at least 1"),
        ("ablation", lambda c: c["runs"][0]["scores"][0].update(value=0.9), "no record of"),
        ("ablation", lambda c: c["runs"][0]["scores"][0].update(low=float("nan")), "finite"),
        ("ablation", lambda c: c["runs"][0].pop("recipe_sha256"), "recipe_sha256"),
        ("ablation", lambda c: c.update(more=1), "more"),
        ("ablation", _twice, "twice"),
        ("ablation", lambda c: c["runs"][0]["scores"][0].update(surplus=1), "surplus"),
        ("scaling/scaling-data", lambda c: c["runs"][0].update(point=0), "no size"),
        ("bias", _unpaired, "each order"),
        ("bias", _moved, "last loss"),
    ],
)
def test_a_damaged_file_is_named_with_the_command_that_mends_it(
    tmp_path: Path, name: str, spoil: Callable[[dict[str, Any]], object], says: str
) -> None:
    trained.fill(tmp_path)
    folder, _, name = name.rpartition("/")
    path = tmp_path / (folder or name) / f"{name}.json"
    read_experiment(path)
    content = json.loads(path.read_text())
    spoil(content)
    path.write_text(json.dumps(content))
    with pytest.raises(StoreError, match=says) as caught:
        find_experiments(tmp_path)
    assert caught.value.where == str(path)
    assert f"climp-bench {name.replace('-', ' ')}" in caught.value.remedy or "Upgrade" in caught.value.remedy


@pytest.mark.parametrize("text", ["", "[1]", '{"schema_version": 1', "\xff"])
def test_what_is_no_json_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "scaling-data.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(StoreError, match="is no experiment") as caught:
        find_experiments(tmp_path)
    assert "climp-bench scaling data" in caught.value.remedy
