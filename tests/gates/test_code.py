"""Ruff and mypy run under the project's configuration and catch planted violations."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from tests.gates.checks import CONFIG, PYPROJECT, run

PLANTED = {
    "E": "x = 1\nif x == None:\n    x = 2\n",
    "F": "import os\n",
    "I": "import sys\nimport os\n\nprint(os, sys)\n",
    "UP": "from typing import List\n\nx: List[int] = []\n",
    "B": "def f(x: list[int] = []) -> None:\n    x.append(1)\n",
    "SIM": "def f(x: int) -> bool:\n    if x:\n        return True\n    else:\n        return False\n",
    "C4": "x = list([i for i in range(3)])\n",
    "RUF": "x = [1] + list(range(3))\ny = [*x, 2]  # noqa: E999\n",
}


def ruff(source: str) -> set[str]:
    words = ("check", "--no-cache", "--config", PYPROJECT, "--output-format", "json", "-")
    _, output = run(sys.executable, "-m", "ruff", *words, text=source)
    return {finding["code"] for finding in json.loads(output)}


def test_every_selected_rule_family_has_a_planted_violation() -> None:
    assert set(PLANTED) == set(CONFIG["tool"]["ruff"]["lint"]["select"])


@pytest.mark.parametrize("family", PLANTED)
def test_ruff_catches(family: str) -> None:
    assert any(re.fullmatch(family + r"\d+", code) for code in ruff(PLANTED[family]))


def test_ruff_passes_clean_code_and_knows_the_line_length() -> None:
    assert ruff('"""Clean."""\n\nx = 1\n') == set()
    assert ruff(f"x = {'1' * 106}\n") == set()
    assert ruff(f"x = {'1' * 107}\n") == {"E501"}


def test_mypy_is_strict(tmp_path: Path) -> None:
    (tmp_path / "clean.py").write_text("def f(x: list[int]) -> int:\n    return x[0]\n")
    planted = {
        "no-untyped-def": "def f(x):\n    return x\n",
        "type-arg": "def f(x: list) -> None: ...\n",
        "return-value": "def f() -> int:\n    return 'a'\n",
        "no-any-return": "import json\n\n\ndef f() -> int:\n    return json.loads('1')\n",
        "unused-ignore": "x = 1  # type: ignore[assignment]\n",
    }
    for code, source in planted.items():
        (tmp_path / f"{code.replace('-', '_')}.py").write_text(source)
    words = ("--config-file", PYPROJECT, "--cache-dir", tmp_path / "cache", tmp_path)
    status, output = run(sys.executable, "-m", "mypy", *words, cwd=tmp_path)
    assert status == 1
    assert "clean.py" not in output
    for code in planted:
        assert any(
            f"{code.replace('-', '_')}.py" in line and f"[{code}]" in line for line in output.splitlines()
        )
