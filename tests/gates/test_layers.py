"""The import contracts hold here and catch planted violations."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.gates.checks import PYPROJECT, ROOT, lint_imports


@pytest.fixture
def skeleton(tmp_path: Path) -> Path:
    """The project's rooms, empty, under the project's own contracts."""
    package = tmp_path / "climp_bench"
    for module in (ROOT / "climp_bench").iterdir():
        if module.suffix == ".py":
            _file(package / module.name)
        elif (module / "__init__.py").is_file():
            _file(package / module.name / "__init__.py")
    shutil.copy(PYPROJECT, tmp_path)
    return tmp_path


def _file(path: Path, text: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    (path.parent / "__init__.py").touch()
    path.write_text(text)


def test_the_project_keeps_its_contracts() -> None:
    status, output = lint_imports(ROOT)
    assert status == 0, output


def test_empty_rooms_pass(skeleton: Path) -> None:
    status, output = lint_imports(skeleton)
    assert status == 0, output


@pytest.mark.parametrize(
    ("module", "line", "broken"),
    [
        ("metrics/planted.py", "import climp_bench.eval", "climp_bench.metrics is not allowed to import"),
        ("data/planted.py", "import climp_bench.models", "climp_bench.data is not allowed to import"),
        ("train/planted.py", "import climp_bench.eval", "climp_bench.train is not allowed to import"),
        (
            "run/planted.py",
            "def f():\n    import climp_bench.cli",
            "climp_bench.run is not allowed to import",
        ),
        ("errors.py", "import climp_bench.registry", "climp_bench.errors is not allowed to import"),
        ("results/planted.py", "import torch", "climp_bench.results is not allowed to import torch"),
        ("metrics/planted.py", "from torch import nn", "climp_bench.metrics is not allowed to import torch"),
        ("attic/__init__.py", "", "attic"),
    ],
)
def test_planted_violations_are_caught(skeleton: Path, module: str, line: str, broken: str) -> None:
    _file(skeleton / "climp_bench" / module, line + "\n")
    status, output = lint_imports(skeleton)
    assert status != 0
    assert broken in " ".join(output.split())
