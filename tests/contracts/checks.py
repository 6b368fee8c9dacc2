"""Contracts of sources and cards as functions, to be run on the project and on planted faults."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

MAX_FILE = 400
MAX_FUNCTION = 60
KERNELS = "ops"
"""The one room whose functions may be longer: a kernel is read in one piece."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def sources(package: Path) -> Iterator[tuple[str, str]]:
    """Every source file of ``package``: its path from there, and its text."""
    for file in sorted(package.rglob("*.py")):
        yield file.relative_to(package).as_posix(), file.read_text(encoding="utf-8")


def without_docstring(package: Path) -> set[str]:
    """Public modules, functions, classes and methods that say nothing, as ``file: name``.

    A method of a class with bases may be an override, which its base explains; it is asked of others only.
    """
    silent = set()
    for name, text in sources(package):
        tree = ast.parse(text)
        named = [("module", tree)] if _public(Path(name).stem) else []
        named += [(node.name, node) for node in _public_definitions(tree)]
        for owner in _public_definitions(tree):
            if isinstance(owner, ast.ClassDef) and not owner.bases:
                named += [(f"{owner.name}.{node.name}", node) for node in _public_definitions(owner)]
        silent |= {f"{name}: {what}" for what, node in named if not ast.get_docstring(node)}
    return silent


def _public_definitions(owner: ast.Module | ast.ClassDef) -> Iterator[Function | ast.ClassDef]:
    for node in owner.body:
        if isinstance(node, Function | ast.ClassDef) and _public(node.name):
            yield node


def _public(name: str) -> bool:
    return not name.startswith("_")


def too_long(package: Path) -> set[str]:
    """Files and functions above their limits, as ``file: N lines`` or ``file: name: N lines``."""
    long = set()
    for name, text in sources(package):
        if (lines := len(text.splitlines())) > MAX_FILE:
            long.add(f"{name}: {lines} lines")
        if name.startswith(f"{KERNELS}/"):
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, Function):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MAX_FUNCTION:
                    long.add(f"{name}: {node.name}: {lines} lines")
    return long


def card_sections(text: str) -> dict[str, str]:
    """The sections of a model card: lower-case heading to text."""
    parts = text.split("\n## ")[1:]
    return {part.partition("\n")[0].lower(): part.partition("\n")[2].strip() for part in parts}


def card_fact(section: str, key: str) -> str:
    """The value of the row ``| key | value |`` of a section, or nothing."""
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if cells[0] == key:
            return cells[1]
    return ""
