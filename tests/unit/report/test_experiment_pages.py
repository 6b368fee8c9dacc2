"""Pages and pictures of experiments with few and with many scores, new files and old."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from climp_bench.report.bias import rows as bias_rows
from climp_bench.report.experiment import (
    FEW,
    Rows,
    cell,
    change,
    panels,
    plot_ablation,
    tables,
    with_budget,
    write_experiment,
)
from climp_bench.report.experiment_tables import Named
from climp_bench.report.scaling import apart, law_title, laws, plot_scaling
from climp_bench.results.experiments import Trials, read_experiment
from tests.unit.report import trained

MANY = 9


def test_intervals_of_bias_are_cut_at_what_is_possible() -> None:
    made = [
        {"tower": "ViT", "order": order, "seed": seed, "parameters": 7, "n": 100, "losses": [loss],
         "accuracy": accuracy}
        for order in ("natural", "permuted")
        for seed, (accuracy, loss) in enumerate([(0.99, 0.0), (1.0, 0.001), (1.0, 0.02)])
    ]  # fmt: skip
    natural = bias_rows(made)[0]
    assert natural[4].startswith("0.007 [0.000, ") and natural[5].endswith("100.0]")


def several(runs: list[dict[str, Any]], tasks: int = MANY) -> list[dict[str, Any]]:
    """The runs with their score under several names, each lower by a hundredth than that before."""
    return [
        {**run, "scores": [
            {**score, "task": f"task-{k}", **{x: score[x] - k / 100 for x in ("value", "low", "high")}}
            for k in range(tasks) for score in run["scores"]
        ]}
        for run in runs
    ]  # fmt: skip


def read(page: Path) -> list[Rows]:
    """The tables of a Markdown page, without the lines under their heads."""
    found: list[Rows] = [[]]
    for line in page.read_text().splitlines():
        if line.startswith("|"):
            found[-1].append([part.strip() for part in line.strip("|").split("|")])
        elif found[-1]:
            found.append([])
    assert all(set(rows[1]) == {"---"} and len({len(row) for row in rows}) == 1 for rows in found if rows)
    return [[rows[0], *rows[2:]] for rows in found if rows]


def test_few_scores_have_a_column_each_and_many_a_row_each(tmp_path: Path) -> None:
    few = several(trained.ablation(), FEW)
    (only,) = tables(few).values()
    assert len(only) == 1 + 4 + 2 and len(only[0]) == 4 + FEW
    runs = several(trained.ablation())
    page = write_experiment("ablation", runs, trained.FACTS, tmp_path)[0]
    models, scores, changed = read(page)
    assert [models, scores, changed] == list(tables(runs).values())
    assert [row[:3] for row in models[1:]] == [[f, *towers] for f, towers in trained.TOWERS.items()]
    assert [row[-2:] for row in models] == [["pairs seen", "seeds"], *[["64", "2"]] * 4]
    assert scores[0][3:] == [", ".join(towers) for towers in trained.TOWERS.values()]
    assert changed[0] == ["score", "Mamba-1", "LLaMA"] and len(scores) == len(changed) == 1 + MANY
    own = [run for run in runs if run["family"] == "rope-vit"]
    assert scores[8] == ["task-7 acc@1", "25.0", "200", *scores[8][3:6], str(cell(own, ("task-7", "acc1")))]
    assert scores[8][-1].startswith("76.0") and changed[8][0] == "task-7 acc@1"
    assert changed[8][2] == str(change(runs, "LLaMA", ("task-7", "acc1")))
    assert changed[8][2].startswith("-22.0")


def test_without_pairs_of_towers_there_are_no_differences() -> None:
    runs = several([run for run in trained.ablation() if run["image"] == "VMamba"])
    assert [len(rows) for rows in tables(runs).values()] == [1 + 2, 1 + MANY]


def test_a_score_that_a_model_lacks_is_a_dash() -> None:
    runs = several(trained.ablation())
    for run in runs:
        run["scores"] = run["scores"][: 3 if run["family"] == "rope-vit" else MANY]
    _, scores, changed = tables(runs).values()
    assert [row[-1] == "-" for row in scores[1:]] == [False] * 3 + [True] * 6
    assert [row[-1] == "-" for row in changed[1:]] == [False] * 3 + [True] * 6


@pytest.mark.parametrize("tasks", [1, MANY])
def test_many_sizes_are_columns_and_laws_one_table(tmp_path: Path, tasks: int) -> None:
    runs = several(trained.scaling(), tasks)
    more = {law_title("training pairs"): laws(runs)}
    page = write_experiment("scaling-data", runs, trained.FACTS, tmp_path, point="pairs", more=more)[0]
    *_, scores, fitted = read(page)
    assert len(fitted) == 1 + 2 * tasks and fitted == laws(runs)
    assert page.read_text().count("N^") == 1
    if tasks == MANY:
        assert scores[0][3:] == ["model", "100 pairs", "200 pairs", "400 pairs"] and len(scores) == 1 + 18
        own = [run for run in runs if (run["family"], run["point"]) == ("rope-vit", 200)]
        row = next(row for row in scores if (row[0], row[3]) == ("task-4 acc@1", "rope-vit"))
        assert row[5] == str(cell(own, ("task-4", "acc1")))


def test_sizes_that_differ_by_model_have_rows_of_their_own() -> None:
    runs = trained.scaling((100, 200), 1)[:2] + [trained.trial("rope-vit", 0, 90, point=n) for n in (7, 110)]
    scores = tables(several(runs), "parameters")["Scores"]
    assert scores[0][-2:] == ["parameters", "score"] and len(scores) == 1 + 4 * MANY
    assert [row[3:5] for row in scores[1:5]] == [
        ["climp-m1", "100"], ["climp-m1", "200"], ["rope-vit", "7"], ["rope-vit", "110"]
    ]  # fmt: skip


def test_intervals_of_shares_stay_in_their_range_and_those_of_differences_do_not(tmp_path: Path) -> None:
    runs = [
        trained.trial(family, seed, right)
        for family, rights in (("climp-m1", (4, 60)), ("rope-vit-m1", (198, 140)))
        for seed, right in enumerate(rights)
    ]
    low, high = (cell(runs[k : k + 2], ("shapes", "acc1")) for k in (0, 2))
    assert low is not None and low.low == 0 and low.high is not None and 0.16 < low.high <= 1
    assert high is not None and high.high == 1 and high.low is not None and 0 <= high.low < 0.845
    between = change(runs, "Mamba-1", ("shapes", "acc1"))
    assert between is not None and between.low is not None and between.low < -1
    sheet = write_experiment("ablation", runs, trained.FACTS, tmp_path)[1]
    rows = list(csv.DictReader(sheet.open()))
    assert all(0 <= float(row["low"]) <= float(row["mean"]) <= float(row["high"]) <= 1 for row in rows)


def test_the_page_says_what_a_run_saw_even_of_a_file_that_does_not(tmp_path: Path) -> None:
    runs = trained.ablation()
    page, _, numbers = write_experiment("ablation", runs, trained.FACTS, tmp_path)
    assert "- pairs seen by a run: 64\n- steps of a run: 2\n" in page.read_text()
    content = json.loads(numbers.read_text())
    told = content["facts"]
    assert (
        told == with_budget(told, runs)
        and with_budget({"steps of a run": "x"}, runs)["steps of a run"] == "x"
    )
    sizes = [{**run, "pairs": run["pairs"] * (1 + k)} for k, run in enumerate(runs)]
    assert with_budget({}, sizes) == {"pairs seen by a run": "64 to 512"}
    numbers.write_text(json.dumps({**content, "facts": trained.FACTS}))
    old = read_experiment(numbers)
    assert isinstance(old, Trials) and "pairs seen by a run: 64" in " ".join(Named(old, "A", "a").notes)


def test_panels_stand_in_a_grid_with_labels_at_its_left() -> None:
    figure, found = panels(10, 3.4, 2.0, 1.7)
    found[0].set_yticks([0, 1], ["a", "b"])
    figure.draw_without_rendering()
    corners = [axes.get_position() for axes in found]
    assert len({round(box.x0, 3) for box in corners}) == 4 and len({round(box.y0, 3) for box in corners}) == 3
    assert len(figure.axes) == len(found) == 10
    labelled = [any(tick.label1.get_visible() for tick in axes.yaxis.get_major_ticks()) for axes in found]
    assert labelled == [k % 4 == 0 for k in range(10)]


def test_pictures_of_many_scores_are_no_wider_than_a_page(tmp_path: Path) -> None:
    plot_ablation(several(trained.ablation(), 22), tmp_path / "ablation.png")
    plot_scaling(several(trained.scaling(), 22), "pairs", tmp_path / "scaling.png")
    for name in ("ablation", "scaling"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert 1400 <= picture.width <= 1800 and picture.height > 1000


def test_labels_of_sizes_leave_each_other_room() -> None:
    assert apart([5.0]) == [5.0] and apart([1.0, 10.0, 100.0]) == [1.0, 10.0, 100.0]
    assert apart([100.0, 101.0, 300.0, 990.0, 1000.0]) == [100.0, 300.0, 1000.0]
