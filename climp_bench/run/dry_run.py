"""What a run would take: its jobs, what must be fetched, what cache and store already have.

No model is read and no image decoded. A data set that is here is opened and digested, as the run itself does
first; for one that is not, the catalogue speaks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from climp_bench.data.catalogue import DATASETS, is_here
from climp_bench.data.dataset import Dataset
from climp_bench.data.published import Published, not_here
from climp_bench.embed.cache import CacheEntry
from climp_bench.embed.extract import PART_IMAGES, image_key
from climp_bench.errors import ClimpError
from climp_bench.eval.protocol import check_model
from climp_bench.models.adapters import Encoder
from climp_bench.results import ResultStore, RunRecord
from climp_bench.run.additions import addition_to
from climp_bench.run.opening import open_task
from climp_bench.run.plan import Job, Settings, task_fingerprint
from climp_bench.run.reuse import earlier
from climp_bench.suite.protocols import rules

State = Literal["recorded", "embedded", "encode", "cannot"]
Place = Literal["here", "fetch", "missing"]


@dataclass(frozen=True)
class Unready:
    """A model that could not run now, and what the run would do about it or what is to be done.

    Attributes:
        name: as asked for.
        why: in words.
        blocked: the run would fail; otherwise it would get the weights first.
    """

    name: str
    why: str
    blocked: bool


@dataclass(frozen=True)
class Data:
    """The data of a task.

    Attributes:
        place: ``here``; ``fetch``, published and not here; ``missing``, neither or not whole.
        n: images, by the suite or the catalogue where the data is not here; None if nobody knows.
        bytes: to fetch; None if unknown.
        note: what is wrong, or where it would come from.
    """

    place: Place
    n: int | None
    bytes: int | None = 0
    note: str = ""


@dataclass(frozen=True)
class Forecast:
    """One evaluation: a model on a task at a size.

    Attributes:
        state: ``recorded``, in the results store already; ``embedded``, its images are in the cache, or will
            be by an earlier evaluation; ``encode``, there is work; ``cannot``, it would fail, with ``note``.
        images: still to be encoded, None if nobody knows.
        size: height and width in pixels, None where the model is not ready to tell.
    """

    suite: str
    task: str
    dataset: str
    kind: str | None
    model: str
    size: tuple[int, int] | None
    data: Data
    state: State
    images: int | None
    note: str = ""


def forecast(
    jobs: Sequence[Job],
    encoders: Sequence[Encoder],
    unready: Sequence[Unready],
    settings: Settings,
    sizes: Sequence[int] | None = None,
) -> list[Forecast]:
    """Every evaluation of a run, in the order of the run.

    Args:
        jobs: of the plan.
        encoders: models that are ready; their weights are not read.
        unready: models that are not.
        settings: as for the run.
        sizes: sides of the input in pixels; None is each model's own.

    Raises:
        StoreError: the results store cannot be read.
    """
    store = ResultStore(settings.out / "records")
    known = [] if settings.fresh else store.read()
    found: list[Forecast] = []
    planned: set[Path] = set()
    rounds: Sequence[int | None] = sizes or [None]
    for job in jobs:
        dataset, data = _look(job, settings)
        for size in rounds:
            found += [_one(job, e, size, dataset, data, settings, store, known, planned) for e in encoders]
            found += [_unready(job, model, size, data) for model in unready]
    return found


def _look(job: Job, settings: Settings) -> tuple[Dataset | None, Data]:
    task = job.task
    entry = DATASETS.get(task.dataset) if task.dataset in DATASETS else None
    published = entry.published if entry else None
    n = task.n or (entry.n if entry else None)
    if published is not None and not is_here(published, settings.data_roots):
        return None, _to_fetch(published, n, settings.offline)
    try:
        dataset = open_task(task, replace(settings, offline=True, skip_corrupt=False))
    except ClimpError as error:
        return None, Data("missing", n, note=_told(error))
    return dataset, Data("here", len(dataset))


def _to_fetch(published: Published, n: int | None, offline: bool) -> Data:
    if offline or not published.repo:
        return Data("missing", n, note=_told(not_here(published, ())))
    return Data("fetch", n, published.bytes, published.revision)


def _told(error: ClimpError) -> str:
    return f"{error.what}. {error.remedy}" if error.remedy else error.what


def _one(
    job: Job,
    encoder: Encoder,
    size: int | None,
    dataset: Dataset | None,
    data: Data,
    settings: Settings,
    store: ResultStore,
    known: Sequence[RunRecord],
    planned: set[Path],
) -> Forecast:
    try:
        encoder = encoder if size is None else encoder.at((size, size))
        check_model(rules(job.suite.protocol), encoder)
    except ClimpError as error:
        pixels = encoder.preprocess.size if size is None else (size, size)
        return _made(job, encoder.name, pixels, data, "cannot", None, _told(error))
    pixels = encoder.preprocess.size
    if data.place == "missing":
        return _made(job, encoder.name, pixels, data, "cannot", None, data.note)
    if dataset is None:
        return _made(job, encoder.name, pixels, data, "encode", data.n)
    fingerprint = task_fingerprint(dataset, job.task, job.suite.protocol)
    addition = addition_to(job, settings)
    facts = addition.facts if addition else {}
    if earlier(known, store, job, encoder, settings, fingerprint, facts):
        return _made(job, encoder.name, pixels, data, "recorded", 0)
    left = _left(dataset, encoder, settings.cache, planned)
    return _made(job, encoder.name, pixels, data, "encode" if left else "embedded", left)


def _left(dataset: Dataset, encoder: Encoder, cache: Path, planned: set[Path]) -> int:
    """Images without an embedding in the cache. Parts are counted, not read.

    What an earlier evaluation of this run encodes anyway, ``planned``, is there when its turn comes.
    """
    entry = CacheEntry(cache, image_key(dataset, encoder))
    if entry.complete() or entry.folder in planned:
        return 0
    planned.add(entry.folder)
    n = len(dataset)
    parts = range(0, n, PART_IMAGES)
    done = {path.stem for path in entry.folder.glob("part-*.sha256")}
    return sum(min(PART_IMAGES, n - start) for k, start in enumerate(parts) if f"part-{k:05d}" not in done)


def _unready(job: Job, model: Unready, size: int | None, data: Data) -> Forecast:
    pixels = None if size is None else (size, size)
    if model.blocked or data.place == "missing":
        note = model.why if model.blocked else data.note
        return _made(job, model.name, pixels, data, "cannot", None, note)
    return _made(job, model.name, pixels, data, "encode", data.n, model.why)


def _made(
    job: Job,
    model: str,
    size: tuple[int, int] | None,
    data: Data,
    state: State,
    images: int | None,
    note: str = "",
) -> Forecast:
    task = job.task
    kind = task.kind or (DATASETS.get(task.dataset).kind if task.dataset in DATASETS else None)
    return Forecast(job.suite.name, task.name, task.dataset, kind, model, size, data, state, images, note)


@dataclass(frozen=True)
class Totals:
    """What a run would take in all.

    Attributes:
        evaluations: number of them, ``recorded``, ``embedded`` and ``cannot`` among them.
        images: (image, model, size) triples to encode.
        bytes: to fetch, of the data sets whose size is known.
        unsized: data sets to fetch whose size is not known.
    """

    evaluations: int
    recorded: int
    embedded: int
    cannot: int
    images: int
    bytes: int
    unsized: int


def totals(found: Sequence[Forecast]) -> Totals:
    """Sums over forecasts; a data set counts once however many tasks read it."""
    states = [one.state for one in found]
    fetched = {one.dataset: one.data.bytes for one in found if one.data.place == "fetch"}
    sized = [size for size in fetched.values() if size is not None]
    return Totals(
        evaluations=len(found),
        recorded=states.count("recorded"),
        embedded=states.count("embedded"),
        cannot=states.count("cannot"),
        images=sum(one.images or 0 for one in found),
        bytes=sum(sized),
        unsized=len(fetched) - len(sized),
    )


def in_words(size: int | None) -> str:
    """A number of bytes: ``1.4 GB``, ``146 MB``, ``?``."""
    if size is None:
        return "?"
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def rows(found: Sequence[Forecast], *, by_size: bool) -> list[list[str]]:
    """A row a task (and size, of a sweep over sizes), models counted by state; its first row is the head."""
    table = [["suite", "task", "size", "n", "data", "recorded", "embedded", "encode", "cannot", "images"]]
    groups: dict[tuple[str, str, str], list[Forecast]] = {}
    for one in found:
        size = str(max(one.size)) if by_size and one.size is not None else "own"
        groups.setdefault((one.suite, one.task, size), []).append(one)
    for (suite, task, size), group in groups.items():
        data = group[0].data
        where = {"here": "here", "missing": "missing"}.get(data.place) or f"fetch {in_words(data.bytes)}"
        states = [one.state for one in group]
        counts = [str(states.count(state)) for state in ("recorded", "embedded", "encode", "cannot")]
        n = "?" if data.n is None else f"{data.n:,}"
        images = sum(one.images or 0 for one in group)
        table.append([suite, task, size, n, where, *counts, f"{images:,}"])
    return table


def problems(found: Sequence[Forecast]) -> list[str]:
    """Each distinct note once, with the models or tasks it is about."""
    about: dict[str, dict[str, None]] = {}
    for one in found:
        if one.note:
            about.setdefault(one.note, {})[one.model if one.data.note != one.note else one.task] = None
    return [f"{', '.join(names)}: {note}" for note, names in about.items()]


def as_rows(found: Sequence[Forecast]) -> list[dict[str, object]]:
    """Plain values, for JSON."""
    return [
        {
            **{key: value for key, value in vars(one).items() if key != "data"},
            "data": dict(vars(one.data)),
        }
        for one in found
    ]
