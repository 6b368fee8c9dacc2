"""Published figures beside ours: read whole, matched exactly, differences and coverage right."""

from __future__ import annotations

from pathlib import Path

import pytest

from climp_bench.data.published import published
from climp_bench.errors import UsageError
from climp_bench.report.reference import Figure, compare, read_figures, rows, section
from climp_bench.specs import Interval
from climp_bench.suite import load
from tests.unit.results.records import FAILED, record

HEAD = "dataset,model,resolution,metric,value,source\n"
B16 = "open_clip:ViT-B-16/openai"


def scored(model: str, dataset: str, metric: str, value: float, **changes: object) -> object:
    family, _, scale = model.partition("@")
    return record(
        model={"name": model, "family": family, "scale": scale or None, "weights_digest": "ab"},
        task=dataset,
        dataset={"name": dataset, "split": "test", "fingerprint": "f"},
        metric=metric,
        value=value,
        interval=Interval(value - 0.01, value + 0.01, 0.95, "wilson"),
        resolution=(224, 224),
        extra={},
        **changes,
    )


def test_the_shipped_figures_are_those_that_were_published() -> None:
    figures = {(f.dataset, f.model, f.metric, f.source[:12]): f.value for f in read_figures()}
    assert figures["imagenet1k", B16, "acc1", "LAION-AI/CLI"] == pytest.approx(0.6835, abs=1e-4)
    assert figures["imagenet-o", B16, "acc1", "mlfoundation"] == pytest.approx(0.423, abs=1e-3)
    assert figures["vtab/pets", B16, "mean_per_class_recall", "mlfoundation"] > 0.8
    nocaps = {(f.model, f.metric): f for f in read_figures() if f.dataset == "nocaps"}
    assert len(nocaps) == 12 and {f.resolution for f in nocaps.values()} == {224}
    assert nocaps["climp-m1@base", "image_retrieval_recall@1"].value == 0.382
    assert nocaps["climp-m2@base", "text_retrieval_recall@10"].value == 0.909


def test_every_shipped_figure_is_of_a_set_or_suite_that_exists_and_names_its_source() -> None:
    sets = {entry.name for entry in published()}
    for figure in read_figures():
        if figure.dataset.startswith("suite:"):
            load(figure.dataset.partition(":")[2])
        else:
            assert figure.dataset in sets
        assert figure.source and 0 <= figure.value <= 1


def test_difference_and_coverage() -> None:
    figures = [Figure("cars", B16, None, "acc1", 0.645, "a table")]
    (near,) = compare([scored(B16, "cars", "acc1", 0.65)], figures)
    (far,) = compare([scored(B16, "cars", "acc1", 0.60)], figures)
    assert near.difference == pytest.approx(0.005) and near.covered is True
    assert far.difference == pytest.approx(-0.045) and far.covered is False
    exact = record(
        value=0.645,
        interval=None,
        no_interval_reason="exact",
        dataset={"name": "cars", "split": "test"},
        model={"name": B16, "family": B16},
    )
    assert compare([exact], figures)[0].covered is None
    table = rows([near, far])
    assert table[1][4:8] == ["65.0 [64.0, 66.0]", "64.5", "+0.5", "yes"] and table[2][6:8] == ["-4.5", "no"]


@pytest.mark.parametrize(
    "other",
    [
        {"model": "open_clip:ViT-B-16/laion400m_e32"},
        {"dataset": "stl10"},
        {"metric": "acc5"},
        {"resolution": 384},
    ],
)
def test_only_the_same_model_set_metric_and_size_are_compared(other: dict[str, object]) -> None:
    facts: dict[str, object] = {"dataset": "cars", "model": B16, "resolution": 224, "metric": "acc1"}
    ours = [scored(B16, "cars", "acc1", 0.65)]
    assert len(compare(ours, [Figure(**facts, value=0.6, source="x")])) == 1  # type: ignore[arg-type]
    assert compare(ours, [Figure(**{**facts, **other}, value=0.6, source="x")]) == []  # type: ignore[arg-type]


def test_what_failed_is_not_compared_and_no_figure_means_no_section() -> None:
    figures = [Figure("scenes-shape", "climp-m1@micro", None, "any", 0.5, "x")]
    assert compare([record(**FAILED, metric="any")], figures) == []
    assert section([record()]) == ""


def test_a_suites_mean_needs_every_task_and_leaves_the_reference_out() -> None:
    names = [task.name for task in load("imagenet-ood").tasks]
    apart = {task.shifted_from or task.ood_reference for task in load("imagenet-ood").tasks}
    figures = [Figure("suite:imagenet-ood", "climp-m1@base", 224, "acc1", 0.352, "the paper")]
    values = {name: 0.30 + 0.02 * k for k, name in enumerate(names)}
    ours = [scored("climp-m1@base", n, "acc1", v, suite="imagenet-ood") for n, v in values.items()]
    (mean,) = compare(ours, figures)
    counted = [value for name, value in values.items() if name not in apart]
    assert mean.value == pytest.approx(sum(counted) / len(counted)) and mean.n == len(counted) == 5
    assert mean.covered is None
    assert compare(ours[:-1], figures) == []


def test_the_section_has_a_row_a_figure_with_its_source() -> None:
    text = section([scored(B16, "imagenet1k", "acc1", 0.684)])
    lines = [line for line in text.splitlines() if line.startswith("| imagenet1k")]
    assert len(lines) == 2, "both tables that publish it"
    assert any("benchmark.csv" in line and "| +0.0 | yes |" in line for line in lines)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("dataset,model\n", "first line"),
        (HEAD + "cars,m,,acc1,64.5,x\n", "line 2"),
        (HEAD + "cars,m,,acc1,nan,x\n", "line 2"),
        (HEAD + "cars,m,big,acc1,0.5,x\n", "line 2"),
        (HEAD + "cars,m,,acc1,0.5,\n", "line 2"),
        (HEAD + "cars,m,,acc1\n", "line 2"),
        (HEAD + "cars,m,,acc1,0.5,x,y\n", "line 2"),
    ],
)
def test_a_table_that_is_no_table_is_refused_by_line(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(text)
    with pytest.raises(UsageError, match=says):
        read_figures(path)


def test_a_table_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(HEAD + "nocaps,climp-m1@micro,64,acc1,0.5,measured here\n")
    assert read_figures(path) == (Figure("nocaps", "climp-m1@micro", 64, "acc1", 0.5, "measured here"),)
    with pytest.raises(UsageError, match="no table"):
        read_figures(tmp_path / "none.csv")
