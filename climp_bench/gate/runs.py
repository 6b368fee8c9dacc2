"""Open what is compared: a results directory, one of its files, or a baseline file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from climp_bench.errors import UsageError
from climp_bench.gate.baseline import BASELINE_SUFFIX, read_baseline
from climp_bench.gate.measured import Measured, measured
from climp_bench.registry import unknown
from climp_bench.results import ResultStore
from climp_bench.results.store import SUFFIX, outcomes_beside, read_file


@dataclass(frozen=True)
class Run:
    """The scores of a run, and the name it goes by in tables."""

    name: str
    scores: tuple[Measured, ...]

    @property
    def models(self) -> tuple[str, ...]:
        """The models, in the order they come."""
        return tuple(dict.fromkeys(score.model for score in self.scores))

    def of_model(self, name: str) -> Run:
        """The scores of one model, by its full name or by its family where that is one model.

        Raises:
            UsageError: no such model (with near matches), or several.
        """
        found = [m for m in self.models if name in (m, m.partition("@")[0])]
        exact = [m for m in found if m == name]
        if not found:
            raise unknown("model", name, self.models)
        if len(found) > 1 and not exact:
            remedy = "Name one: " + ", ".join(found) + "."
            raise UsageError(f"{name!r} is several models", where=self.name, remedy=remedy)
        (model,) = exact or found
        return Run(model, tuple(score for score in self.scores if score.model == model))


def open_run(path: Path) -> Run:
    """Read a results directory (``--out`` of a command, or its ``records``), a results or a baseline file.

    Raises:
        UsageError: there is no such place, or no result in it.
        StoreError: a file is corrupt, or of a newer schema.
    """
    if path.is_file() and path.name.endswith(BASELINE_SUFFIX):
        return Run(str(path), tuple(read_baseline(path)))
    if path.is_file() and path.name.endswith(SUFFIX):
        return Run(str(path), tuple(_scores([path])))
    if not path.is_dir():
        remedy = f"Give a results directory, a *{SUFFIX} or a *{BASELINE_SUFFIX} file."
        what = "not a file of results" if path.is_file() else "no such results directory or file"
        raise UsageError(what, where=str(path), remedy=remedy)
    root = path / "records" if (path / "records").is_dir() else path
    found = _scores(sorted(ResultStore(root).root.rglob("*" + SUFFIX)))
    if not found:
        remedy = "Fill it first: `climp-bench zeroshot --out DIR`."
        raise UsageError("no results are there", where=str(path), remedy=remedy)
    return Run(str(path), tuple(found))


def open_named(word: str) -> Run:
    """``PATH`` or ``PATH:MODEL``. Raises as :func:`open_run` and :meth:`Run.of_model`."""
    path, colon, model = word.partition(":")
    if colon and not Path(word).exists() and Path(path).exists():
        run = open_run(Path(path)).of_model(model)
        return Run(f"{path}:{run.name}", run.scores)
    return open_run(Path(word))


def _scores(paths: Sequence[Path]) -> list[Measured]:
    return [measured(record, outcomes_beside(path)) for path in paths for record in read_file(path)]
