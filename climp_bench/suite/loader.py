"""Find and read suite files: shipped ones by name, a user's own by path."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from climp_bench.errors import UsageError
from climp_bench.registry import unknown
from climp_bench.suite.schema import Suite, TaskDef

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def shipped_dir() -> Path:
    """The folder of shipped suites: inside the wheel, or ``suites/`` of a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "_suites"
    return inside if inside.is_dir() else package.parent / "suites"


def available() -> dict[str, Path]:
    """Shipped suites by name."""
    return {path.stem: path for path in sorted(shipped_dir().glob("*.toml"))}


def load(name_or_path: str) -> Suite:
    """Read a suite by shipped name or by path.

    Raises:
        UsageError: no such suite (with near matches), unreadable TOML (with line), or a key or value
            that the schema does not know (with the key's place and near matches).
    """
    shipped = available()
    if name_or_path in shipped:
        return read(shipped[name_or_path])
    path = Path(name_or_path).expanduser()
    if path.suffix == ".toml" or path.is_file():
        if not path.is_file():
            raise UsageError("no such suite file", where=str(path), remedy="Check the path.")
        return read(path)
    raise unknown("suite", name_or_path, shipped)


def load_all(names_or_paths: Sequence[str]) -> list[Suite]:
    """Read several suites; one asked for twice counts once.

    Raises:
        UsageError: as ``load``, or two different suites have one name (their reports would mix).
    """
    suites: dict[str, Suite] = {}
    for word in names_or_paths:
        suite = load(word)
        if suites.setdefault(suite.name, suite) != suite:
            remedy = "Give one of them another `name`."
            raise UsageError(f"two different suites are called {suite.name!r}", where=word, remedy=remedy)
    return list(suites.values())


def of_dataset(name: str) -> Suite:
    """A suite of one task: a data set as it is. Raises ``UsageError`` if the name is no file name."""
    try:
        return Suite.model_validate(
            {"schema": 1, "name": name.replace("/", "-"), "task": [{"dataset": name}]}
        )
    except ValidationError as error:
        faults = "; ".join(_explain(fault) for fault in error.errors())
        raise UsageError(f"cannot be a data set's name: {faults}", where=repr(name)) from error


def read(path: Path) -> Suite:
    """Parse and check one suite file. Raises ``UsageError`` naming every fault."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot be read ({error})", where=str(path), remedy="Check the file.") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"not valid TOML ({error})", where=str(path), remedy="Mend that line.") from error
    try:
        return Suite.model_validate(raw)
    except ValidationError as error:
        faults = "; ".join(_explain(fault) for fault in _own_faults(error))
        remedy = "`climp-bench suites show embedded` prints a valid suite."
        raise UsageError(f"not a valid suite: {faults}", where=str(path), remedy=remedy) from error


def _own_faults(error: ValidationError) -> list[Any]:
    """Without the "too few tasks" that pydantic adds when a task that is there has a fault of its own."""
    faults = error.errors()
    inner = any(len(fault["loc"]) > 1 for fault in faults)
    return [
        fault for fault in faults if not (inner and fault["type"] == "too_short" and len(fault["loc"]) == 1)
    ]


def _explain(fault: Any) -> str:
    place = ".".join(str(part) for part in fault["loc"]) or "file"
    if fault["type"] == "extra_forbidden":
        key = str(fault["loc"][-1])
        model: type[BaseModel] = TaskDef if len(fault["loc"]) > 1 else Suite
        known = [field.alias or name for name, field in model.model_fields.items()]
        near = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "known: " + ", ".join(known)
        return f"unknown key {place!r} ({hint})"
    return f"{place}: {fault['msg']}"
