"""From a folder of results to the files of a report."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError

from climp_bench.errors import StoreError, UsageError
from climp_bench.report.document import Report
from climp_bench.report.gather import TITLE, gather
from climp_bench.results import ResultStore
from climp_bench.results.experiments import find_experiments
from climp_bench.results.kernels import KernelRun
from climp_bench.run.standings import judge_of


def make_report(folder: Path, *, pictures: bool = True, title: str = TITLE) -> Report:
    """The report of a folder of results: ``--out`` of the commands, or its ``records``.

    Args:
        folder: of records, with ``kernels-*.json`` beside them, and experiments there or one folder below.
        pictures: whether examples are shown.
        title: of the report.

    Raises:
        UsageError: there is no such folder, or nothing in it.
        StoreError: a file is corrupt or of a newer schema.
    """
    if not folder.is_dir():
        remedy = "Fill one first: `climp-bench zeroshot --out DIR`, then `climp-bench report --results DIR`."
        raise UsageError("no such folder of results", where=str(folder), remedy=remedy)
    experiments = find_experiments(folder)
    below = folder / "records"
    store = ResultStore(below if experiments or below.is_dir() else folder)  # experiments have records inside
    report = gather(store, judge_of(store), _kernels(folder), experiments, pictures=pictures, title=title)
    if not any(section.tables for section in report.sections):
        remedy = "Fill it first: `climp-bench zeroshot --out DIR`."
        raise UsageError("no results are there", where=str(folder), remedy=remedy)
    return report


def _kernels(folder: Path) -> list[KernelRun]:
    found = []
    for path in sorted(folder.glob("kernels-*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            content.pop("milliseconds_of", None)
            found.append(KernelRun.model_validate(content))
        except (OSError, ValueError, AttributeError, ValidationError) as error:
            remedy = "Run `climp-bench bench-kernels` again, or move the file away."
            raise StoreError(
                f"is no run of bench-kernels ({error})", where=str(path), remedy=remedy
            ) from error
    return found
