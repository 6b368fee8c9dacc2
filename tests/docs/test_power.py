"""The power tables of the documentation are those that the code gives."""

from __future__ import annotations

from tests.docs.power import END, START, power, render
from tests.gates.checks import ROOT


def test_the_tables_are_what_the_code_gives() -> None:
    text = (ROOT / "docs" / "comparing.md").read_text(encoding="utf-8")
    shown = text.partition(START)[2].partition(END)[0].lstrip("\n")
    assert shown == render(), "paste what `python -m tests.docs.power` prints"


def test_power_is_the_level_without_a_difference_and_grows() -> None:
    curve = [power(1000, 0.2, d) for d in (0.0, 0.02, 0.04, 0.06)]
    assert 0.03 <= curve[0] <= 0.05 and curve == sorted(curve) and curve[-1] > 0.95
