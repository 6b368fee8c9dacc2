"""Tables of long captions, geometry, efficiency, backends, and of kinds that have no table of their own."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from climp_bench.report.document import NOT_TESTED, Row, Shown, Table
from climp_bench.report.efficiency_tables import QUANTITIES, Cells, Quantity, digits, tower_of
from climp_bench.report.geometry import MEANING
from climp_bench.report.kernels import check_rows, memory_rows, speed_rows
from climp_bench.report.pool import PERCENT, PLAIN, TOKENS, Pool, by_suite
from climp_bench.report.score_tables import scored
from climp_bench.results import RunRecord
from climp_bench.results.kernels import KernelRun

RECALL = re.compile(r"(image|text)_retrieval_recall(?:_(truncated|whole)|_([0-9]+)_tokens)?@([0-9]+)")
_CAPTIONS = {None: "all", "truncated": "truncated", "whole": "not truncated"}
_STATISTICS = ("min", "median", "p95", "max")
_EXACT = "n: images. A value without an interval is exact on the set."
KNOWN = ("ood", "dense", "geometry", "efficiency")


def dense_tables(records: Sequence[RunRecord]) -> Iterator[Table]:
    """Lengths of captions, recall, and recall with captions cut; a table of each a suite."""
    for suite, protocol, group in by_suite([r for r in records if r.kind == "dense"]):
        pool = Pool(group)
        notes = (f"Protocol {protocol}; n: queries.",)
        if rows := tuple(_lengths(pool)):
            columns = (*_STATISTICS, "cut, percent")
            told = ("Tokens of each model's own tokenizer before anything is cut. No limit: nothing is cut.",)
            yield Table(
                f"dense-{suite}-lengths", f"Long captions: {suite}, lengths", ("task", "model", "cut at"),
                columns, rows, "tokens", told, ranked=False,
            )  # fmt: skip
        if rows := tuple(_recalls(pool)):
            heads = ("task", "metric", "captions")
            title = f"Long captions: {suite}, recall"
            yield Table(f"dense-{suite}", title, heads, pool.columns, rows, "percent", notes)
        if rows := tuple(_cut(pool)):
            heads, title = ("task", "metric", "tokens"), f"Long captions: {suite}, cut to so many tokens"
            untested = (*notes, NOT_TESTED)
            yield Table(
                f"dense-{suite}-cut", title, heads, pool.columns, rows, "percent", untested,
                ranked=False, main=False,
            )  # fmt: skip


def _lengths(pool: Pool) -> Iterator[Row]:
    for task in pool.tasks:
        for column in pool.columns:
            share = pool.at(task, "truncated_share", column)
            if share is None:
                continue
            found = [TOKENS.show(pool.at(task, f"tokens_{name}", column)) for name in _STATISTICS]
            limit = str(share.extra.get("context_length") or "no limit") if share.value is not None else "-"
            n = f"{share.n_evaluated:,}" if share.value is not None else ""
            yield Row((task, column, limit), (*found, PERCENT.show(share)), n)


def _recalls(pool: Pool) -> Iterator[Row]:
    for task in pool.tasks:
        found = {m: match for m in pool.metrics(task) if (match := RECALL.fullmatch(m)) and not match[3]}
        cut = any("_truncated@" in r.metric and r.value is not None for r in pool.of_task(task))
        if not found:
            yield pool.row((task, "any", ""), task, "any")
        for metric, match in sorted(found.items(), key=lambda item: _place(item[1])):
            if cut or not match[2]:
                row = pool.row((task, f"{match[1]} R@{match[4]}", _CAPTIONS[match[2]]), task, metric)
                yield Row(row.labels, tuple(map(_stratum, row.cells)), row.n, row.chance)


def _stratum(cell: Shown) -> Shown:
    """``-`` where a model cuts all captions, or none."""
    empty = cell.text == "skipped" and all(not r.n_evaluated for r in cell.records)
    return Shown(records=cell.records) if empty else cell


def _cut(pool: Pool) -> Iterator[Row]:
    for task in pool.tasks:
        found = {m: match for m in pool.metrics(task) if (match := RECALL.fullmatch(m)) and not match[2]}
        if any(match[3] for match in found.values()):
            for metric, match in sorted(found.items(), key=lambda item: _place(item[1])):
                yield pool.row((task, f"{match[1]} R@{match[4]}", match[3] or "all"), task, metric)


def _place(match: re.Match[str]) -> tuple[str, int, int, float]:
    return match[1], int(match[4]), list(_CAPTIONS).index(match[2]), float(match[3] or "inf")


def geometry_tables(records: Sequence[RunRecord]) -> Iterator[Table]:
    """A table a captioned set: what is measured, a column a model."""
    for suite, _, group in by_suite([r for r in records if r.kind == "geometry"]):
        pool = Pool(group)
        for task in pool.tasks:
            measured = set(pool.metrics(task))
            rows = tuple(
                pool.row((words, meaning), task, metric, PLAIN)
                for metric, (words, meaning) in MEANING.items()
                if metric in measured
            ) or (pool.row(("any", ""), task, "any", PLAIN),)
            yield Table(
                f"geometry-{suite}-{task}", f"Geometry: {suite}, {task}", ("measure", "meaning"),
                pool.columns, rows, "", (_EXACT, NOT_TESTED),
                ranked=False,
            )  # fmt: skip


def efficiency_tables(records: Sequence[RunRecord]) -> Iterator[Table]:
    """A table a quantity, kind of tower and device: a row a model, a column a size."""
    for suite, _, group in _by_device(records):
        for tower in ("image", "text"):
            cells = Cells(group, tower)
            size = "px" if tower == "image" else "tokens"
            for quantity in (Quantity("parameters", "parameters, M", 1e6), *QUANTITIES):
                if cells.measured(quantity.metric):
                    rows = tuple(
                        Row(
                            (m,), tuple(_cost(cells.at(m, s, quantity.metric), quantity) for s in cells.sizes)
                        )
                        for m in cells.models
                    )
                    columns = tuple(f"{s} {size}" for s in cells.sizes)
                    yield Table(
                        f"{suite}-{tower}-{quantity.metric.replace('_', '-')}",
                        f"Efficiency: {suite}, {tower} tower, {quantity.label}", (f"{tower} tower",), columns,
                        rows, "", (_claim(group),), ranked=False, main=quantity.ratio,
                    )  # fmt: skip


def _by_device(records: Sequence[RunRecord]) -> Iterator[tuple[str, str, list[RunRecord]]]:
    groups: dict[str, list[RunRecord]] = {}
    for r in records:
        if r.kind == "efficiency":
            groups.setdefault(r.suite, []).append(r)
    for suite, group in groups.items():
        yield suite, "", [r for r in group if tower_of(r) in ("image", "text")]


def _claim(records: Sequence[RunRecord]) -> str:
    run = records[0].provenance
    return f"Times and memory are of {run.gpu or run.cpu}; counts follow from shapes alone."


def _cost(record: RunRecord | None, quantity: Quantity) -> Shown:
    if record is None:
        return Shown()
    if record.value is None:
        return Shown(record.status, records=(record,))
    value, around = record.value / quantity.unit, record.interval
    low, high = (around.low / quantity.unit, around.high / quantity.unit) if around else (None, None)
    bounds = f"[{digits(low)}, {digits(high)}]" if low is not None and high is not None else ""
    note = f"(n {record.n_evaluated})" if quantity.metric.startswith("latency") else ""
    if quantity.metric.startswith("throughput"):
        note = f"(batch {record.extra.get('batch')})"
    return Shown(digits(value), value, low, high, bounds, note, (record,))


def kernel_tables(runs: Sequence[KernelRun]) -> Iterator[Table]:
    """What ``bench-kernels`` found: correct, how fast, how much memory; of each device."""
    for run in runs:
        device = run.provenance.gpu or "CPU"
        slug = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
        parts = (
            ("checks", "correct", check_rows(run), 2),
            ("speed", "speed over the torch backend", speed_rows(run), 3),
            ("memory", "peak memory, MiB", memory_rows(run), 3),
        )
        note = f"{device}; {run.dtype} activations, sizes {run.sizes}, seed {run.seed}."
        for key, title, (head, *lines), words in parts:
            if lines:
                rows = tuple(
                    Row(tuple(line[:words]), tuple(Shown(cell or "-") for cell in line[words:]))
                    for line in lines
                )
                yield Table(
                    f"kernels-{slug}-{key}", f"Operators on {device}: {title}", tuple(head[:words]),
                    tuple(head[words:]), rows, "", (note,), ranked=False,
                )  # fmt: skip


def remaining_tables(records: Sequence[RunRecord]) -> Iterator[Table]:
    """A plain table a suite for every kind of measurement that has none of its own."""
    told = {id(r) for r in scored(records)}
    rest = [r for r in records if id(r) not in told and r.kind not in KNOWN]
    for kind in sorted({r.kind for r in rest}):
        for suite, protocol, group in by_suite([r for r in rest if r.kind == kind]):
            pool = Pool(group)
            rows = tuple(
                pool.row((task, metric), task, metric, PLAIN)
                for task in pool.tasks
                for metric in pool.metrics(task)
            )
            heads, notes = ("task", "metric"), (f"Protocol {protocol}; values as they are stored.",)
            yield Table(f"{kind}-{suite}", f"{kind}: {suite}", heads, pool.columns, rows, "", notes)
