"""The gates as functions, so that each can be run on the project and on a planted violation."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = ROOT / "pyproject.toml"
CONFIG = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))
HEAVY = {"torch", "torchvision", "timm", "transformers", "open_clip", "matplotlib", "pandas", "sklearn"}


def run(*words: str | Path, cwd: Path = ROOT, path: Path | None = None, text: str = "") -> tuple[int, str]:
    """Exit code and output of a command; ``path`` goes first on the import path."""
    environment = dict(os.environ) | ({"PYTHONPATH": str(path)} if path else {})
    done = subprocess.run(
        [str(w) for w in words],
        cwd=cwd,
        env=environment,
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def lint_imports(root: Path) -> tuple[int, str]:
    """The import contracts of ``root/pyproject.toml`` on the package in ``root``."""
    start = "from importlinter.cli import lint_imports_command as main; main()"
    return run(sys.executable, "-c", start, "--no-cache", "--no-logo", cwd=root, path=root)


def heavy_imports(module: str, root: Path) -> set[str]:
    """Which heavy packages importing ``module`` (found below ``root``) loads."""
    code = f"import sys, {module}; print('loaded', *sorted({HEAVY!r} & set(sys.modules)))"
    status, output = run(sys.executable, "-c", code, cwd=root, path=root)
    assert status == 0, output
    return set(output.splitlines()[-1].split()[1:])


def imported_packages(package: Path) -> Iterator[tuple[Path, str]]:
    """Every absolute import of a package's files: the file, and the first part of the name."""
    for file in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from ((file, alias.name.split(".")[0]) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield file, node.module.split(".")[0]


def undeclared_imports(package: Path, requirements: list[str]) -> set[str]:
    """Third-party imports, ``file: name``, that no requirement declares."""
    owners = metadata.packages_distributions()
    declared = {_canonical(Requirement(line).name) for line in requirements}
    return {
        f"{file.relative_to(package)}: {name}"
        for file, name in imported_packages(package)
        if name != package.name
        and name not in sys.stdlib_module_names
        and not declared & {_canonical(d) for d in owners.get(name, [name])}
    }


def wheel_names(root: Path, folder: Path) -> set[str]:
    """Build the wheel of ``root`` into ``folder`` and list its files."""
    (built,) = WheelBuilder(str(root)).build(directory=str(folder), versions=["standard"])
    with zipfile.ZipFile(built) as wheel:
        return set(wheel.namelist())


def _canonical(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")
