"""A dry run tells what the run then does, and reads neither models nor images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from climp_bench.data.webdataset import WebDataset
from climp_bench.run.dry_run import Unready, forecast, problems, rows, totals
from climp_bench.run.execute import execute
from climp_bench.run.plan import Settings, make_plan
from climp_bench.run.sweep import sweep
from climp_bench.suite.schema import Suite
from tests.fakes import ToyEncoder
from tests.unit.run.test_execute import Listener

Make = Callable[..., Path]


class Sizable(ToyEncoder):
    """A toy that takes other sizes."""

    def at(self, size: tuple[int, int]) -> Sizable:
        return Sizable(self.family, size=size)


def suite_of(*datasets: str, protocol: str = "corrected", **facts: object) -> Suite:
    tasks = [{"dataset": name, **facts} for name in datasets]
    return Suite.model_validate({"schema": 1, "name": "dry", "protocol": protocol, "task": tasks})


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "data").mkdir(exist_ok=True)
    roots = (tmp_path / "data",)
    return Settings(out=tmp_path / "out", cache=tmp_path / "cache", data_roots=roots, offline=False)


def states(suite: Suite, encoders: list[ToyEncoder], settings: Settings) -> list[tuple[str, str, int | None]]:
    found = forecast(make_plan(encoders, [suite]).jobs, encoders, [], settings)
    return [(one.task, one.state, one.images) for one in found]


def test_it_foretells_a_run_then_its_records_then_its_cache(make_wds: Make, settings: Settings) -> None:
    make_wds("photos")
    suite, encoders = suite_of("photos"), [ToyEncoder("ann"), ToyEncoder("bob")]
    assert states(suite, encoders, settings) == [("photos", "encode", 10)] * 2
    assert not settings.out.exists() and not settings.cache.exists()
    assert all(e.image_batches == e.texts_encoded == 0 for e in encoders)
    execute(make_plan(encoders[:1], [suite]), settings, Listener())
    assert states(suite, encoders, settings) == [("photos", "recorded", 0), ("photos", "encode", 10)]
    for path in settings.out.rglob("*.json"):
        path.unlink()
    assert states(suite, encoders, settings)[0] == ("photos", "embedded", 0)


def test_no_image_is_decoded(make_wds: Make, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    make_wds("photos")
    monkeypatch.setattr(WebDataset, "image", lambda *args: pytest.fail("an image was decoded"))
    assert states(suite_of("photos"), [ToyEncoder()], settings) == [("photos", "encode", 10)]


def test_published_sets_are_sized_once_however_many_tasks_read_them(settings: Settings) -> None:
    suite = suite_of("nocaps", "objectnet")
    twice = [*make_plan([ToyEncoder()], [suite]).jobs] * 2
    found = forecast(twice, [ToyEncoder()], [], settings)
    sums = totals(found)
    assert (sums.evaluations, sums.bytes, sums.unsized, sums.cannot) == (4, 1_420_000_000, 1, 0)
    assert sums.images == 2 * (4500 + 18574)
    assert [row[4] for row in rows(found, by_size=False)[1:]] == ["fetch 1.4 GB", "fetch ?"]


def test_offline_what_is_not_here_cannot_run(settings: Settings, tmp_path: Path) -> None:
    offline = Settings(out=settings.out, cache=settings.cache)
    found = forecast(make_plan([], [suite_of("nocaps")]).jobs, [ToyEncoder()], [], offline)
    assert found[0].state == "cannot" and totals(found).bytes == 0
    assert "1.4 GB" in problems(found)[0] and problems(found)[0].startswith("nocaps: is not here")


def test_a_damaged_or_unknown_set_cannot_run_and_says_why(make_wds: Make, settings: Settings) -> None:
    (make_wds("photos") / "test" / "1.tar").unlink()
    found = forecast(make_plan([], [suite_of("photos", "nothing")]).jobs, [ToyEncoder()], [], settings)
    assert [one.state for one in found] == ["cannot", "cannot"]
    assert "missing 1.tar" in found[0].note and "unknown dataset" in found[1].note
    wrong = forecast(make_plan([], [suite_of("sklearn-digits", n=5)]).jobs, [ToyEncoder()], [], settings)
    assert wrong[0].state == "cannot"


def test_models_that_are_not_ready_are_told_apart(settings: Settings) -> None:
    unready = [Unready("a", "its weights are fetched first", False), Unready("b", "has no weights", True)]
    found = forecast(make_plan([], [suite_of("nocaps")]).jobs, [], unready, settings)
    assert [(one.model, one.state, one.images) for one in found] == [
        ("a", "encode", 4500),
        ("b", "cannot", None),
    ]
    assert problems(found) == ["a: its weights are fetched first", "b: has no weights"]


def test_a_model_that_the_protocol_refuses_cannot_run(make_wds: Make, settings: Settings) -> None:
    make_wds("photos")
    crops = ToyEncoder("crops")
    crops.preprocess = type(crops.preprocess)(size=(8, 8), mode="center_crop")
    suite = suite_of("photos", protocol="climp-authors")
    found = forecast(make_plan([], [suite]).jobs, [ToyEncoder("squash"), crops], [], settings)
    assert [one.state for one in found] == ["encode", "cannot"]
    outcome = execute(make_plan([ToyEncoder("squash"), crops], [suite]), settings, Listener())
    assert (outcome.done, outcome.failed) == (1, 1)


def test_every_size_is_foretold_and_recorded_ones_are_known(make_wds: Make, settings: Settings) -> None:
    make_wds("photos")
    suite, encoder = suite_of("photos"), Sizable()
    jobs = make_plan([encoder], [suite]).jobs
    sweep([encoder], [suite], [8], settings, Listener())
    found = forecast(jobs, [encoder], [], settings, sizes=[8, 16])
    assert [(one.size, one.state) for one in found] == [((8, 8), "recorded"), ((16, 16), "encode")]
    assert [row[2] for row in rows(found, by_size=True)[1:]] == ["8", "16"]
