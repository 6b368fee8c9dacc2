"""Suites: shipped ones are valid, wrong ones are refused with the key, its place and near matches."""

from __future__ import annotations

from pathlib import Path

import pytest

from climp_bench.errors import UsageError
from climp_bench.suite import available, load, load_all

GOOD = 'schema = 1\nname = "mine"\n[[task]]\ndataset = "scenes-shape"\n'


@pytest.mark.parametrize("name", sorted(available()))
def test_every_shipped_suite_loads_and_is_named_after_its_file(name: str) -> None:
    suite = load(name)
    assert suite.name == name and suite.description and suite.tasks


def test_a_users_file_works_by_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD)
    suite = load(str(path))
    assert suite.tasks[0].name == "scenes-shape" and suite.protocol == "corrected"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (GOOD + "datset = 1\n", "unknown key 'task.0.datset' (did you mean 'dataset'?)"),
        ("nmae = 'x'\n" + GOOD, "unknown key 'nmae' (did you mean 'name'?)"),
        (GOOD + "n = 0\n", "task.0.n"),
        (GOOD + 'kind = "guess"\n', "task.0.kind"),
        (GOOD + 'templates = ["a photo"]\n', "has no {c}"),
        (GOOD + GOOD.split("\n", 2)[2], "two tasks are called 'scenes-shape'"),
        (GOOD.replace("schema = 1", "schema = 2"), "schema"),
        ("schema = 1\nname = 'x'\n", "task"),
        (GOOD.replace("mine", "../mine"), "name: "),
        (GOOD.replace("mine", ""), "name: "),
        (GOOD.replace("scenes-shape", ""), "task.0.dataset"),
        ("schema = = 1", "not valid TOML"),
    ],
)
def test_faults_are_named(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        load(str(path))
    assert says in str(caught.value) and str(path) in str(caught.value)


def test_unknown_names_get_near_matches(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean 'embedded'"):
        load("embeded")
    with pytest.raises(UsageError, match="no such suite file"):
        load(str(tmp_path / "none.toml"))


def test_a_fault_in_the_only_task_is_not_called_a_missing_task(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD + "bogus = 1\n")
    with pytest.raises(UsageError, match="bogus") as caught:
        load(str(path))
    assert "at least" not in str(caught.value)


def test_two_suites_of_one_name_are_refused(tmp_path: Path) -> None:
    one, other = tmp_path / "one.toml", tmp_path / "other.toml"
    one.write_text(GOOD)
    other.write_text(GOOD.replace("scenes-shape", "scenes-colour"))
    assert len(load_all([str(one), str(one)])) == 1
    with pytest.raises(UsageError, match="two different suites are called 'mine'"):
        load_all([str(one), str(other)])
