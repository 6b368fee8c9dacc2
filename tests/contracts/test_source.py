"""The house rules on source code: everything public explains itself, and nothing grows beyond reading."""

from __future__ import annotations

from pathlib import Path

from tests.contracts.checks import MAX_FILE, MAX_FUNCTION, too_long, without_docstring
from tests.gates.checks import ROOT

PACKAGE = ROOT / "climp_bench"


def test_everything_public_has_a_docstring() -> None:
    assert without_docstring(PACKAGE) == set()


def test_files_and_functions_stay_short() -> None:
    assert too_long(PACKAGE) == set()


def test_planted_silence_is_caught(tmp_path: Path) -> None:
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "a.py").write_text(
        '"""A."""\n\n'
        "def loud():\n    'says'\n\n"
        "def silent():\n    def inner():\n        pass\n\n"
        "def _hidden():\n    pass\n\n"
        "class Silent:\n    def method(self):\n        pass\n\n    def _own(self):\n        pass\n\n"
        "class Derived(Silent):\n    'says'\n    def method(self):\n        pass\n"
    )
    (tmp_path / "b.py").write_text("x = 1\n")
    (tmp_path / "_c.py").write_text("x = 1\n")
    expected = {"room/a.py: silent", "room/a.py: Silent", "room/a.py: Silent.method", "b.py: module"}
    assert without_docstring(tmp_path) == expected


def test_planted_length_is_caught(tmp_path: Path) -> None:
    def function(lines: int) -> str:
        return "def f():\n" + "    x = 1\n" * (lines - 1)

    (tmp_path / "ops").mkdir()
    (tmp_path / "ops" / "kernel.py").write_text(function(MAX_FUNCTION + 1))
    (tmp_path / "fits.py").write_text(function(MAX_FUNCTION))
    (tmp_path / "long.py").write_text(
        "class A:\n    async " + function(MAX_FUNCTION + 1).replace("\n", "\n    ")
    )
    (tmp_path / "full.py").write_text("x = 1\n" * MAX_FILE)
    (tmp_path / "huge.py").write_text("x = 1\n" * (MAX_FILE + 1))
    expected = {f"long.py: f: {MAX_FUNCTION + 1} lines", f"huge.py: {MAX_FILE + 1} lines"}
    assert too_long(tmp_path) == expected
