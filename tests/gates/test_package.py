"""Start-up stays light, every import is declared, and the wheel holds what the program reads."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.gates.checks import CONFIG, PYPROJECT, ROOT, heavy_imports, undeclared_imports, wheel_names

DATA_SUFFIXES = {".json", ".safetensors", ".md", ".toml", ".txt", ".csv"}


def test_starting_the_command_line_loads_nothing_heavy() -> None:
    assert heavy_imports("climp_bench.cli.main", ROOT) == set()


@pytest.mark.parametrize("line", ["import torch", "from planted import deeper"])
def test_a_planted_heavy_import_is_caught(tmp_path: Path, line: str) -> None:
    package = tmp_path / "planted"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "main.py").write_text(line + "\n")
    (package / "deeper.py").write_text("import torch.nn\n")
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("")
    (tmp_path / "torch" / "nn.py").write_text("")
    assert heavy_imports("planted.main", tmp_path) == {"torch"}
    (package / "main.py").write_text("def later():\n    import torch\n")
    assert heavy_imports("planted.main", tmp_path) == set()


def test_every_import_is_a_declared_dependency() -> None:
    assert undeclared_imports(ROOT / "climp_bench", CONFIG["project"]["dependencies"]) == set()


def test_an_undeclared_import_is_caught(tmp_path: Path) -> None:
    package = tmp_path / "planted"
    package.mkdir()
    (package / "a.py").write_text(
        "import json\nimport numpy\nfrom PIL import Image\n\n\ndef f():\n    import pytest\n"
    )
    assert undeclared_imports(package, ["numpy>=1", "Pillow"]) == {"a.py: pytest"}
    assert undeclared_imports(package, ["pytest"]) == {"a.py: PIL", "a.py: numpy"}


def test_the_wheel_holds_code_data_and_suites(tmp_path: Path) -> None:
    names = wheel_names(ROOT, tmp_path)
    sources = {p for p in (ROOT / "climp_bench").rglob("*") if p.suffix in {".py", ".typed"} | DATA_SUFFIXES}
    suites = {p for p in (ROOT / "suites").rglob("*") if p.suffix in DATA_SUFFIXES}
    expected = {str(p.relative_to(ROOT)) for p in sources}
    expected |= {str("climp_bench/_suites" / p.relative_to(ROOT / "suites")) for p in suites}
    assert suites and expected - names == set()
    assert {name.split("/")[0] for name in names} == {"climp_bench", _dist_info(names)}
    assert f"{_dist_info(names)}/licenses/LICENSE" in names


def test_a_wheel_without_suites_is_caught(tmp_path: Path) -> None:
    config = PYPROJECT.read_text(encoding="utf-8")
    rule = '[tool.hatch.build.targets.wheel.force-include]\n"suites" = "climp_bench/_suites"\n'
    assert rule in config
    for name in ("README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "pyproject.toml").write_text(config.replace(rule, ""))
    (tmp_path / "climp_bench").mkdir()
    shutil.copy(ROOT / "climp_bench" / "__init__.py", tmp_path / "climp_bench")
    names = wheel_names(tmp_path, tmp_path / "dist")
    assert "climp_bench/__init__.py" in names
    assert not any(name.startswith("climp_bench/_suites/") for name in names)


def _dist_info(names: set[str]) -> str:
    (folder,) = {name.split("/")[0] for name in names if ".dist-info/" in name}
    return folder
