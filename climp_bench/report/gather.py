"""From a results store to a report: which records and experiments make which tables, charts and examples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import get_args

from climp_bench.report.charts import cost_chart, dot_chart, length_chart, size_chart
from climp_bench.report.document import Chart, Judge, Report, Section, Shots, Table, judged
from climp_bench.report.experiment_sections import experiment_sections
from climp_bench.report.formats import slug
from climp_bench.report.other_tables import (
    dense_tables,
    efficiency_tables,
    geometry_tables,
    kernel_tables,
    remaining_tables,
)
from climp_bench.report.paper import commands, paper_rows
from climp_bench.report.score_tables import ood_tables, resolution_tables, zeroshot_tables
from climp_bench.report.space_charts import space_charts
from climp_bench.results import ResultStore, RunRecord
from climp_bench.results.experiments import Stored
from climp_bench.results.kernels import KernelRun
from climp_bench.results.pictures import read_pictures
from climp_bench.specs import TaskKind

TITLE = "climp-bench report"


def gather(
    store: ResultStore,
    judge: Judge,
    kernels: Sequence[KernelRun] = (),
    experiments: Sequence[Stored] = (),
    *,
    pictures: bool = True,
    title: str = TITLE,
) -> Report:
    """Everything that a store holds.

    Args:
        store: its records, and the pictures beside them.
        judge: says which scores of a row are better than the others.
        kernels: runs of ``bench-kernels``.
        experiments: what ``ablation``, ``scaling`` and ``bias`` left.
        pictures: whether examples with thumbnails are shown.
        title: of the report.

    Raises:
        StoreError: a file of the store is corrupt or of a newer schema.
    """
    records = store.read()
    sections = (
        _scores(records),
        _shifts(records),
        _sizes(records),
        _dense(records),
        _geometry(records, store),
        _efficiency(records),
        *experiment_sections(experiments),
        _kernels(kernels),
        _others(records),
    )
    kept = [s for s in sections if s.command or s.tables]
    ranked = tuple(replace(s, tables=tuple(judged(t, judge) for t in s.tables)) for s in kept)
    shots = tuple(_shots(records, store)) if pictures else ()
    trained = [r for one in experiments for run in one.content.runs for r in run.records]
    beside, wanted = paper_rows(records, experiments), tuple(commands(records, experiments))
    return Report(title, _named_apart(ranked), (*records, *trained), shots, beside, wanted)


def _scores(records: Sequence[RunRecord]) -> Section:
    tables = tuple(zeroshot_tables(records))
    charts = tuple(dot_chart(table) for table in tables if table.main)
    command = "climp-bench zeroshot"
    return Section("zeroshot", "Zero-shot", "Tables 1, 9, 10", command, tables, charts)


def _shifts(records: Sequence[RunRecord]) -> Section:
    tables = tuple(ood_tables(records))
    charts = tuple(dot_chart(table) for table in tables if table.key.endswith("-accuracy"))
    return Section("ood", "Shifts", "Table 2", "climp-bench ood", tables, charts)


def _sizes(records: Sequence[RunRecord]) -> Section:
    tables = tuple(resolution_tables(records))
    charts = tuple(size_chart(table) for table in tables)
    command = "climp-bench resolution"
    return Section("resolution", "Size of the input", "Tables 3, 4, 11", command, tables, charts)


def _dense(records: Sequence[RunRecord]) -> Section:
    tables = tuple(dense_tables(records))
    charts = tuple(length_chart(table) for table in tables if table.key.endswith("-cut"))
    if tables and not charts:
        absent = (
            "It needs captions cut to several lengths: climp-bench dense --max-tokens 16 --max-tokens 64."
        )
        charts = (Chart("dense-curves", "Recall against length", absent=absent),)
    return Section("dense", "Long captions", "Tables 5, 12, 13", "climp-bench dense", tables, charts)


def _geometry(records: Sequence[RunRecord], store: ResultStore) -> Section:
    tables = tuple(geometry_tables(records))
    charts: list[Chart] = []
    own = [r for r in records if r.kind == "geometry"]
    for suite, task in dict.fromkeys((r.suite, r.task) for r in own):
        here = [r for r in own if (r.suite, r.task) == (suite, task)]
        sketches = {}
        for record in here:
            if record.value is not None and record.model.name not in sketches:
                found = read_pictures(store.pictures_path(record), record)
                if found is not None and found.sketch is not None:
                    sketches[record.model.name] = found.sketch
        charts += space_charts(f"geometry-{suite}-{task}", task, sketches, here)
    return Section("geometry", "Geometry", "Table 6", "climp-bench geometry", tables, tuple(charts))


def _efficiency(records: Sequence[RunRecord]) -> Section:
    tables = tuple(efficiency_tables(records))
    charts = []
    for suite in dict.fromkeys(r.suite for r in records if r.kind == "efficiency"):
        for tower in ("image", "text"):
            drawn = [
                t for t in tables if t.main and t.key.startswith(f"{suite}-{tower}-") and len(t.columns) > 1
            ]
            if drawn:
                charts.append(cost_chart(drawn, f"{suite}-{tower}", f"{suite}: {tower} towers"))
    if tables and not charts:
        absent = "Curves need several sizes: climp-bench efficiency --res 224..896."
        charts = [Chart("efficiency-curves", "Cost against size", absent=absent)]
    command = "climp-bench efficiency"
    return Section("efficiency", "Efficiency", "Figure 3", command, tables, tuple(charts))


def _kernels(runs: Sequence[KernelRun]) -> Section:
    return Section("kernels", "Operators", "", "climp-bench bench-kernels", tuple(kernel_tables(runs)))


def _others(records: Sequence[RunRecord]) -> Section:
    return Section("others", "Other measurements", "", "", tuple(remaining_tables(records)))


def _named_apart(sections: Iterable[Section]) -> tuple[Section, ...]:
    """Keys as file names, no two alike."""
    taken: set[str] = set()

    def apart(key: str) -> str:
        base = name = slug(key)
        k = 1
        while name in taken:
            k += 1
            name = f"{base}-{k}"
        taken.add(name)
        return name

    found = []
    for s in sections:
        tables: list[Table] = [replace(t, key=apart(t.key)) for t in s.tables]
        charts = [replace(c, key=apart(c.key)) for c in s.charts]
        found.append(replace(s, tables=tuple(tables), charts=tuple(charts)))
    return tuple(found)


def _shots(records: Sequence[RunRecord], store: ResultStore) -> Iterable[Shots]:
    """Examples of every data set and model once, from a task's own evaluation where there is one."""
    own = [r for r in records if r.kind in get_args(TaskKind)]
    rest = [r for r in records if r.kind in ("ood", "dense")]
    seen: set[tuple[str, str]] = set()
    for record in (*own, *rest):
        of = (record.dataset.name, record.model.name)
        if record.value is None or of in seen:
            continue
        found = read_pictures(store.pictures_path(record), record)
        if found is not None and (found.examples or found.problem):
            seen.add(of)
            yield Shots(record.suite, record.task, record.model.name, found)
