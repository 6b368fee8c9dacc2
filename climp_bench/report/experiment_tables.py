"""Tables of experiments over trained models, each number with the records of all its seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import inf

from climp_bench.metrics.seeds import t_interval
from climp_bench.report.bias import DRAWINGS
from climp_bench.report.document import Row, Shown, Table
from climp_bench.report.experiment import CUT, SMALL, Key, Run, cell, change, keys, with_budget
from climp_bench.report.scaling import Curve, curves
from climp_bench.report.tables import Line
from climp_bench.results import RunRecord
from climp_bench.results.experiments import LOSS, Bias, BiasRun, TrialRun, Trials

POINT = {"scaling-data": "training pairs", "scaling-model": "image parameters"}
"""What varies beside the model."""
_N = "n: samples of the test x seeds."
_PAIRED = (
    "Differences between runs of one seed; 95% t intervals over seeds, none with one seed or with all alike."
)
_ONE_SEED = "There is one seed: the interval of an accuracy is of its test images, a loss has none."
_BOOTSTRAP = "Intervals: 95%, by a bootstrap over runs. n: runs."
_FITTED = "error = factor x N^exponent, the error being 1 - score and N the number of {}."


@dataclass(frozen=True)
class Named:
    """An experiment with the start of its tables' titles and keys."""

    content: Trials | Bias
    title: str
    key: str

    @property
    def warning(self) -> tuple[str, ...]:
        """What must stand beside every number of toys."""
        if not self.content.small:
            return ()
        return (DRAWINGS if isinstance(self.content, Bias) else SMALL,)

    @property
    def notes(self) -> tuple[str, ...]:
        """All that a reader must know."""
        content, facts, trials = self.content, dict(self.content.facts), isinstance(self.content, Trials)
        if isinstance(content, Trials):
            facts = with_budget(facts, [run.plain for run in content.runs])
        settings = "; ".join(f"{name}: {fact}" for name, fact in facts.items())
        return (*self.warning, *content.remarks, *[CUT] * trials, _N, f"Settings: {settings}.")


def ablation_tables(found: Named, runs: Sequence[TrialRun]) -> Iterator[Table]:
    """Scores by text and image tower, what the image tower changes, and what was trained."""
    images, texts = (list(dict.fromkeys(getattr(run, side) for run in runs)) for side in ("image", "text"))
    plain = [run.plain for run in runs]
    heads = ("task", "metric", "text tower")
    rows = [
        _row((*words(key), text), key, [
            [run for run in runs if (run.image, run.text) == (image, text)] for image in images
        ])
        for key in keys(plain) for text in texts
    ]  # fmt: skip
    yield _table(found, "scores", "", heads, tuple(images), rows, "percent", found.notes)
    rows = [row for key in keys(plain) for text in texts if (row := _changed(runs, plain, text, key))]
    if rows:
        column = (f"{images[0]} - {images[1]}",)
        notes = (*found.warning, _PAIRED, _N)
        yield _table(
            found, "differences", "what the image tower changes", heads, column, rows, "points", notes
        )
    yield _trained(found, runs)


def scaling_tables(found: Named, runs: Sequence[TrialRun]) -> Iterator[Table]:
    """Scores by size, the fitted laws, and what was trained."""
    label = POINT[found.content.name]
    plain = [run.plain for run in runs]
    families = list(dict.fromkeys(run.family for run in runs))
    places = {family: sorted({run.point for run in runs if run.family == family}) for family in families}
    shared = places[families[0]] if len(set(map(tuple, places.values()))) == 1 else None
    rows = []
    for key in keys(plain):
        for family in families:
            own = [[run for run in runs if (run.family, run.point) == (family, n)] for n in places[family]]
            lines = [((), own)] if shared else [((f"{group[0].point:,}",), [group]) for group in own]
            rows += [_row((*words(key), family, *place), key, groups) for place, groups in lines]
    heads = ("task", "metric", "model", *[label] * (shared is None))
    columns = tuple(f"{n:,} {label}" for n in shared) if shared else ("score",)
    yield _table(found, "scores", "", heads, columns, rows, "percent", found.notes)
    rows = [_law(curve, runs) for curve in curves(plain)]
    notes = (*found.warning, _FITTED.format(label), _BOOTSTRAP)
    columns = ("exponent", "factor", "remark")
    yield _table(found, "laws", "law of the error", heads[:3], columns, rows, "", notes)
    yield _trained(found, runs)


def bias_tables(found: Named, runs: Sequence[BiasRun]) -> Iterator[Table]:
    """Accuracy, loss, and what the order of patches costs."""
    towers, orders = (list(dict.fromkeys(getattr(run, side) for run in runs)) for side in ("tower", "order"))

    def grid(metric: str, scale: float, digits: int) -> list[Row]:
        found = []
        for tower in towers:
            own = [[run for run in runs if (run.tower, run.order) == (tower, order)] for order in orders]
            records = [[_of(run.records, metric) for run in group] for group in own]
            n = f"{records[0][0].n_evaluated:,} x {len(records[0])}"
            found.append(Row((tower,), tuple(_mean(group, scale, digits) for group in records), n))
        return found

    heads, columns = ("tower",), tuple(f"{order} patches" for order in orders)
    accuracy, loss = grid("acc1", 100, 1), grid(LOSS, 1, 3)
    notes = (*found.notes, *[_ONE_SEED] * (len({run.seed for run in runs}) == 1))
    yield _table(found, "accuracy", "test accuracy", heads, columns, accuracy, "percent", notes)
    few = (*found.warning, "n: training images of an epoch x seeds.")
    yield _table(found, "loss", "training loss of the last epoch", heads, columns, loss, "nats", few)
    rows = [_cost(tower, [run for run in runs if run.tower == tower]) for tower in towers]
    columns = ("test accuracy, points", "training loss, nats")
    title, notes = "natural - permuted", (*found.warning, _PAIRED, "n: seeds.")
    yield _table(found, "differences", title, heads, columns, rows, "", notes)
    sizes = {run.tower: _count(run.parameters, run.records) for run in runs}
    rows = [Row((tower,), (size,)) for tower, size in sizes.items()]
    yield _table(found, "towers", "what was trained", heads, ("parameters",), rows, "", (), main=False)


def words(key: Key) -> tuple[str, str]:
    """A task and the words for its metric."""
    return key[0], Line("", key[1], None, ()).label


def _table(
    found: Named, key: str, title: str, heads: tuple[str, ...], columns: tuple[str, ...],
    rows: Sequence[Row], unit: str, notes: tuple[str, ...], *, main: bool = True,
) -> Table:  # fmt: skip
    whole = ", ".join(part for part in (found.title, title) if part)
    return Table(
        f"{found.key}-{key}", whole, heads, columns, tuple(rows), unit, notes, ranked=False, main=main
    )


def _row(labels: tuple[str, ...], key: Key, groups: Sequence[Sequence[TrialRun]]) -> Row:
    """A row of a score: a cell a group of runs that differ by seed alone."""
    cells: list[Shown] = []
    counts: dict[str, None] = {}
    chance: float | None = None
    for runs in groups:
        found = cell([run.plain for run in runs], key)
        if found is None:
            cells.append(Shown())
            continue
        counts[f"{found.n:,} x {found.seeds}"] = None
        records = tuple(record for run in runs for record in run.records if _is(record, key))
        chance = next((s.chance for s in runs[0].scores if (s.task, s.metric) == key), None)
        cells.append(_shown(found.mean, found.low, found.high, records, 100, _plain(1)))
    n = ", ".join(counts)
    return Row(labels, tuple(cells), n, None if chance is None else 100 * chance)


def _changed(runs: Sequence[TrialRun], plain: Sequence[Run], text: str, key: Key) -> Row | None:
    found = change(plain, text, key)
    if found is None:
        return None
    own = [run for run in runs if run.text == text and run.seed in found.seeds]
    records = tuple(record for run in own for record in run.records if _is(record, key))
    shown = _shown(found.mean, found.low, found.high, records, 100, _signed(1))
    return Row((*words(key), text), (shown,), f"{found.n:,} x {len(found.seeds)}")


def _trained(found: Named, runs: Sequence[TrialRun]) -> Table:
    rows = []
    groups: dict[tuple[str, int], list[TrialRun]] = {}
    for run in runs:
        groups.setdefault((run.family, run.point), []).append(run)
    for (family, _), own in groups.items():
        one, records = own[0], tuple(record for run in own for record in run.records[:1])
        numbers = (one.parameters, one.image_parameters, one.pairs, len(own))
        cells = tuple(_count(number, records) for number in numbers)
        rows.append(Row((family, one.image, one.text), cells))
    heads, columns = (
        ("model", "image tower", "text tower"),
        ("parameters", "of the image tower", "pairs seen", "seeds"),
    )
    return _table(found, "models", "what was trained", heads, columns, rows, "", found.warning, main=False)


def _law(curve: Curve, runs: Sequence[TrialRun]) -> Row:
    own = [run for run in runs if run.family == curve.family]
    records = tuple(record for run in own for record in run.records if _is(record, curve.key))
    labels = (*words(curve.key), curve.family)
    if curve.law is None:
        return Row(labels, (Shown(), Shown(), Shown(f"not fitted: {curve.why}")), f"{len(records)}")
    around = curve.law.interval
    low, high = (around.low, around.high) if around else (None, None)
    exponent = _shown(curve.law.exponent, low, high, records, 1, _signed(3))
    factor = Shown(f"{curve.law.factor:.3g}", curve.law.factor, records=records)
    return Row(labels, (exponent, factor, Shown(curve.why or "fitted")), f"{len(records)}")


def _mean(records: Sequence[RunRecord], scale: float, digits: int) -> Shown:
    """Of one metric over seeds; where they tell nothing, with a score's own interval, if it has one.

    Intervals are cut at zero, and of what is shown in percent at one.
    """
    values = [record.value for record in records if record.value is not None]
    most = 1.0 if scale == 100 else inf
    around = t_interval(values, least=0.0, most=most) or records[0].interval
    low, high = (around.low, around.high) if around else (None, None)
    return _shown(sum(values) / len(values), low, high, tuple(records), scale, _plain(digits))


def _cost(tower: str, runs: Sequence[BiasRun]) -> Row:
    seeds = sorted({run.seed for run in runs})
    cells = []
    numbers: tuple[Callable[[BiasRun], float], ...] = (lambda run: run.accuracy, lambda run: run.losses[-1])
    by_seed = {(run.order, run.seed): run for run in runs}
    for metric, number, scale, digits in zip(("acc1", LOSS), numbers, (100, 1), (1, 3), strict=True):
        values = [number(by_seed["natural", s]) - number(by_seed["permuted", s]) for s in seeds]
        records = tuple(_of(run.records, metric) for run in runs)
        around = t_interval(values)
        low, high = (around.low, around.high) if around else (None, None)
        cells.append(_shown(sum(values) / len(values), low, high, records, scale, _signed(digits)))
    return Row((tower,), tuple(cells), f"{len(seeds)}")


def _shown(
    mean: float, low: float | None, high: float | None, records: tuple[RunRecord, ...], scale: float,
    form: Callable[[float], str],
) -> Shown:  # fmt: skip
    value = scale * mean
    if low is None or high is None:
        return Shown(form(value), value, records=records)
    low, high = scale * low, scale * high
    return Shown(form(value), value, low, high, f"[{form(low)}, {form(high)}]", records=records)


def _count(number: int, records: tuple[RunRecord, ...]) -> Shown:
    return Shown(f"{number:,}", float(number), records=records)


def _plain(digits: int) -> Callable[[float], str]:
    return lambda value: f"{round(value, digits) + 0.0:.{digits}f}"


def _signed(digits: int) -> Callable[[float], str]:
    return lambda value: f"{round(value, digits) + 0.0:+.{digits}f}"


def _is(record: RunRecord, key: Key) -> bool:
    return (record.task, record.metric) == key


def _of(records: Sequence[RunRecord], metric: str) -> RunRecord:
    return next(record for record in records if record.metric == metric)
