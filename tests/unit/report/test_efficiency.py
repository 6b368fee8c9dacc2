"""The efficiency report, from records alone."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from climp_bench.models.catalogue import MODELS
from climp_bench.report.efficiency import baseline_of, control, towers, write_efficiency
from climp_bench.report.efficiency_tables import Cells, digits, grids, ratio_grids, steady
from climp_bench.results import ResultStore, RunRecord
from climp_bench.run.efficiency_plan import make_cells, run_cells
from tests.cells import CONDITIONS, FakeCells
from tests.unit.run.test_efficiency_plan import Seen


def measured(folder: Path, names: list[str], sizes: tuple[int, ...], **ends: str) -> list[RunRecord]:
    """Records of a run, read back from the store."""
    folder.mkdir(exist_ok=True)
    cells = make_cells([MODELS.get(name) for name in names], sizes, (), compiled=False)
    store = ResultStore(folder / "records")
    run_cells(cells, CONDITIONS, store, Seen(), command=FakeCells(folder, **ends).command)
    return store.read()


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[RunRecord]:
    names = ["climp-m1@base", "climp-m2@base", "rope-vit@base", "flexivit@base"]
    return measured(
        tmp_path_factory.mktemp("cells"), names, (224, 896), flexivit="killed", climp_m2="3", rope_vit="6"
    )


def test_the_page_holds_every_table_and_says_what_is_missing(
    records: list[RunRecord], tmp_path: Path
) -> None:
    paths = write_efficiency(records, "efficiency-cpu", tmp_path)
    assert [path.name for path in paths] == ["efficiency-cpu" + s for s in (".md", ".csv", ".png", ".svg")]
    page = paths[0].read_text()
    for heading in ("GMACs", "GFLOPs", "peak memory over weights, MiB", "latency at batch 1", "images/s"):
        assert f"### {heading}" in page
    assert "| rope-vit@base | 17.6 | 449.7 |" in page and "| climp-m1@base | 15.3 | 244.7 |" in page
    assert "| flexivit@base | failed | failed |" in page and "signal 9" in page.split("## Not measured")[1]
    assert "this machine" in page and "no claim" in page
    assert "aten._upsample_bicubic2d_aa" in page
    assert paths[2].read_bytes().startswith(b"\x89PNG") and b"<svg" in paths[3].read_bytes()
    with paths[1].open() as handle:
        assert len(list(csv.DictReader(handle))) == len(records)


def test_a_throughput_whose_budget_ended_is_a_lower_bound_without_ratios(tmp_path: Path) -> None:
    found = measured(tmp_path, ["climp-m1@base", "rope-vit@base"], (224,), climp_m1="short")
    page = write_efficiency(found, "efficiency-cpu", tmp_path)[0].read_text()
    values, ratios = (
        part.split("\n### ")[0] for part in page.split("### images/s at the best batch measured")[1:]
    )
    assert "| climp-m1@base | ≥ 2.50 (batch 4) |" in values and "| rope-vit@base | 2.50 (batch 4) |" in values
    assert "| climp-m1@base | - |" in ratios and "| rope-vit@base | 1.00 |" in ratios
    assert "A larger `--budget` settles it" in page
    whole = [record for record in found if record.model.family == "rope-vit"]
    assert "≥" not in write_efficiency(whole, "efficiency-cpu", tmp_path)[0].read_text()


def test_the_same_records_give_the_same_bytes(records: list[RunRecord], tmp_path: Path) -> None:
    first, second = (write_efficiency(records, "efficiency-cpu", tmp_path / name) for name in "ab")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_the_papers_figures_stand_beside_ours(records: list[RunRecord], tmp_path: Path) -> None:
    page = write_efficiency(records, "efficiency-cpu", tmp_path)[0].read_text()
    section = page.split("## The paper's figures")[1].split("\n## ")[0]
    assert "| CLIMP (VMamba-B); ours: climp-m1@base | 259.7 | 244.7 | 0.942 |" in section
    assert "| ViT-B; ours: rope-vit@base | 457.9 | 449.7 | 0.982 |" in section
    assert "50.4" in section and "51.4" in section and "workspace" in section


def test_without_the_papers_size_there_is_no_such_section(records: list[RunRecord], tmp_path: Path) -> None:
    small = [record for record in records if record.task == "image-224"]
    page = write_efficiency(small, "efficiency-cpu", tmp_path)[0].read_text()
    assert "The paper's figures" not in page


def test_ratios_are_to_the_baseline(records: list[RunRecord]) -> None:
    (cells,) = towers(records)
    assert baseline_of(cells, records, "rope-vit") == "rope-vit@base"
    assert baseline_of(cells, records, "naflexvit") == ""
    table = {
        grid.title: {row[0]: row[1:] for row in grid.rows} for grid in ratio_grids(cells, "rope-vit@base")
    }
    assert table["GMACs"]["climp-m1@base"] == ("0.87", "0.54")  # 15.29 / 17.56, 244.7 / 449.7
    assert table["GMACs"]["rope-vit@base"] == ("1.00", "1.00")
    assert table["latency at batch 1"]["flexivit@base"] == ("-", "-")


def test_an_interval_and_the_repetitions_stand_beside_a_latency(records: list[RunRecord]) -> None:
    (cells,) = towers(records)
    (latency,) = (grid for grid in grids(cells) if grid.title.endswith("(median)"))
    shown = {row[0]: row[1] for row in latency.rows}
    assert shown["climp-m1@base"] == "1,010 [1,005, 1,014] (n 20)" and shown["climp-m2@base"] == "1,001 (n 3)"


def test_a_screen_shows_latencies_of_graphs_where_there_are_any(records: list[RunRecord]) -> None:
    graphed = [
        r.model_copy(update={"metric": "latency_graphed_ms"}) for r in records if r.metric == "latency_ms"
    ]
    (without,), (beside,) = towers(records), towers([*records, *graphed])
    for make in (grids, lambda cells: ratio_grids(cells, "rope-vit@base")):
        plain, found = list(make(without)), list(make(beside))
        assert steady(plain) == plain and any(grid.title.startswith("latency") for grid in plain)
        latencies = [grid for grid in steady(found) if grid.title.startswith("latency")]
        assert [grid.title.split(", ")[0] for grid in latencies] == ["latency at batch 1 as a CUDA graph"]
        others = [[g for g in some if not g.title.startswith("latency")] for some in (found, steady(found))]
        assert others[0] == others[1] != []


def test_models_with_one_tower_show_the_noise(records: list[RunRecord]) -> None:
    assert "climp-m1@base, climp-m2@base" in control(records) and "up to 1.01" in control(records)
    slower = [
        r.model_copy(update={"value": 2 * r.value})
        if (r.model.family, r.metric) == ("climp-m2", "latency_ms") and r.value
        else r
        for r in records
    ]
    assert "busy" in control(slower) and "busy" not in control(records)
    assert control([r for r in records if r.model.family != "climp-m2"]) == ""


def test_counts_alone_make_a_page_without_times(tmp_path: Path) -> None:
    cells = make_cells(
        [MODELS.get("rope-vit@micro"), MODELS.get("climp-m1@micro")], (64,), (20,), compiled=False
    )
    conditions = replace(CONDITIONS, device="meta")
    outcome = run_cells(cells, conditions, ResultStore(tmp_path / "r"), Seen())
    paths = write_efficiency(outcome.records, conditions.suite, tmp_path, "flexivit")
    page = paths[0].read_text()
    assert "nothing was timed" in page and "latency at batch 1, ms" not in page
    assert "## Text towers" in page and "No ratios: flexivit" in page
    assert {path.name for path in paths} >= {"efficiency-meta-text.svg", "efficiency-meta.csv"}


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.0234, "0.023"), (1.5, "1.50"), (17.56, "17.6"), (244.7, "244.7"), (2650.2, "2,650")],
)
def test_numbers_keep_the_digits_that_matter(value: float, text: str) -> None:
    assert digits(value) == text


def test_compiled_towers_stand_behind_the_eager_ones_in_any_order_of_records(
    records: list[RunRecord],
) -> None:
    twins = [record.model_copy(update={"protocol": "forward-1-compiled"}) for record in records]
    eager = {record.model.name for record in records}
    for mixed in ([*records, *twins], [*twins, *records]):
        models = Cells(mixed, "image").models
        assert set(models[: len(eager)]) == eager
        assert set(models[len(eager) :]) == {f"{name} (compiled)" for name in eager}


def test_a_page_without_times_claims_none(records: list[RunRecord], tmp_path: Path) -> None:
    on = records[0].provenance.model_copy(update={"device": "cuda", "gpu": "Some GPU"})
    counted = [r.model_copy(update={"provenance": on}) for r in records if r.metric in ("macs", "parameters")]
    page = write_efficiency(counted, counted[0].suite, tmp_path)[0].read_text()
    assert "Memory is that of Some GPU; no times" in page and "Times are of" not in page
