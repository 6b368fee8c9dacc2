"""The plan of the paper: every part found by its names, told apart by what it lacks, failures isolated."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from climp_bench.errors import UsageError
from climp_bench.models.catalogue import find
from climp_bench.models.counting import count_image
from climp_bench.run import pace
from climp_bench.run.dry_run import Data, Forecast
from climp_bench.run.reproduce import (
    STAGES,
    Done,
    Look,
    Stage,
    Step,
    carry_out,
    exit_code,
    in_a_process,
    last_error,
    plan,
    select,
)

ALL = {word for stage in STAGES for word in (stage.twin[0], stage.full[0])}


def test_every_table_and_figure_of_the_paper_is_planned_once() -> None:
    names = [name for stage in STAGES for name in stage.names if name != stage.key]
    tables = sorted(int(n.removeprefix("table-")) for n in names if n.startswith("table-"))
    figures = sorted(int(n.removeprefix("figure-")) for n in names if n.startswith("figure-"))
    assert tables == list(range(1, 15)) and figures == [2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("asked", "keys"),
    [
        (["table 2"], ["ood"]),
        (["Table 10"], ["zeroshot"]),
        (["2"], ["ood"]),
        (["figure-4", "table_7"], ["scaling-model", "scaling-data"]),
        (["geometry", "ood"], ["ood", "geometry"]),
        (None, [stage.key for stage in STAGES]),
    ],
)
def test_parts_are_found_by_any_of_their_names(asked: list[str] | None, keys: list[str]) -> None:
    assert [stage.key for stage in select(asked)] == keys


def test_an_unknown_part_has_near_matches() -> None:
    with pytest.raises(UsageError, match="geometri") as caught:
        select(["geometri"])
    assert "geometry" in caught.value.remedy


@pytest.mark.parametrize(
    ("look", "state"),
    [
        (Look(10), "can run"),
        (Look(10, recorded=4), "can run"),
        (Look(10, recorded=10), "recorded"),
        (Look(10, cannot=4), "can run in part"),
        (Look(10, cannot=10), "cannot run"),
        (Look(10, recorded=4, cannot=6), "cannot run"),
    ],
)
def test_the_state_says_what_there_is_to_do(look: Look, state: str) -> None:
    (step,) = plan(select(["ood"]), "embedded", ALL, lambda stage: look)
    assert step.state == state and step.runs == state.startswith("can run")


def test_what_is_not_built_or_not_automatic_is_not_looked_at() -> None:
    def look(stage: Stage) -> Look:
        raise AssertionError(stage.key)

    steps = plan(select(["ood", "similarity"]), "paper", {"similarity"}, look)
    assert [(s.stage.key, s.state) for s in steps] == [("ood", "not built"), ("similarity", "by hand")]
    for scale, state in (("embedded", "can run"), ("paper", "by hand")):
        trained = select(["bias", "ablation", "scaling-data", "scaling-model"])
        found = plan(trained, scale, ALL, lambda stage: Look(0))  # type: ignore[arg-type]
        assert [step.state for step in found] == [state] * 4


def steps(*states: str) -> list[Step]:
    made = [Stage(f"s{k}", f"Table {k}", "t", (f"twin{k}",), (f"full{k}",)) for k in range(len(states))]
    return [Step(stage, "paper", state, Look(1)) for stage, state in zip(made, states, strict=True)]  # type: ignore[arg-type]


def test_one_failure_leaves_the_others_alone(tmp_path: Path) -> None:
    ran: list[str] = []

    def launch(words: Sequence[str], log: Path) -> int:
        ran.append(f"{' '.join(words)} > {log.name}")
        return {"full1": 1, "full3": 3}.get(words[0], 0)

    told: list[tuple[str, int | None]] = []
    made = steps("recorded", "can run", "can run", "can run in part", "cannot run", "not built", "by hand")
    found = carry_out(
        made, lambda s: [s.stage.full[0], "-q"], tmp_path, launch,
        lambda step, done: told.append((step.stage.key, done and done.code)),
    )  # fmt: skip
    assert ran == [f"full{k} -q > s{k}-paper.log" for k in (1, 2, 3)]
    assert [(d.step.stage.key, d.code) for d in found] == [("s0", None), ("s1", 1), ("s2", 0), ("s3", 3)]
    assert told == [("s1", None), ("s1", 1), ("s2", None), ("s2", 0), ("s3", None), ("s3", 3)]


@pytest.mark.parametrize(
    ("codes", "code"),
    [([0, 0], 0), ([None, 0], 0), ([0, 1], 3), ([3, 3], 3), ([None, 1], 3), ([1, 2], 1), ([-9], 1)],
)
def test_exit_codes(codes: list[int | None], code: int) -> None:
    (step,) = steps("can run")
    assert exit_code([Done(step, c) for c in codes]) == code


def test_commands_run_in_a_process_and_leave_a_log(tmp_path: Path) -> None:
    log = tmp_path / "logs/x.log"
    assert in_a_process(["--version"], log) == 0 and log.read_text().startswith("climp-bench ")
    assert in_a_process(["suites", "show", "embeded"], log) == 2
    assert "embeded" in last_error(log)
    log.write_text("one\nError: first.\nError: the disk is full.\nFree some space.\n")
    assert last_error(log) == "the disk is full."
    log.write_text("\n")
    assert last_error(log) == "it said nothing"


def forecast(model: str, images: int | None, side: int) -> Forecast:
    return Forecast("s", "t", "d", None, model, (side, side), Data("here", 10), "encode", images)


def test_time_follows_images_and_multiply_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "multiply_adds_a_second", lambda device: 1e10)
    macs = count_image(find("rope-vit", "micro").image, (64, 64)).macs
    one = pace.PER_IMAGE_S + macs / (0.35 * 1e10)
    assert pace.seconds([forecast("rope-vit@micro", 100, 64)], "cpu") == pytest.approx(100 * one)
    twice = pace.PER_IMAGE_S + 4 * macs / (0.35 * 1e10)
    assert pace.seconds([forecast("rope-vit@micro", 100, 128)], "cpu") == pytest.approx(100 * twice)
    scan = pace.seconds([forecast("climp-m1@micro", 1, 64)], "cpu")
    assert scan is not None and scan > pace.PER_IMAGE_S
    assert pace.seconds([forecast("hf:some/peer", 100, 64)], "cpu") is None
    assert pace.seconds([forecast("rope-vit@micro", None, 64)], "cpu") is None
    assert pace.seconds([forecast("rope-vit@micro", 0, 64)], "cpu") == 0


def test_this_machine_multiplies() -> None:
    assert 1e8 < pace.multiply_adds_a_second("cpu") < 1e14


def test_weights_are_as_large_as_their_publisher_says() -> None:
    assert pace.weights_bytes("climp-m1@base") / 1e9 == pytest.approx(5.8, abs=0.1)
