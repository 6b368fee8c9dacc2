"""Carry out a plan: embed, score, record; one broken task or model never stops the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Protocol

from climp_bench import __version__
from climp_bench.data.catalogue import DATASETS, open_dataset
from climp_bench.data.dataset import Dataset, check_count
from climp_bench.embed.extract import Embedded, embed_images, embed_texts
from climp_bench.embed.sets import Annotations, EmbeddingSet, annotate
from climp_bench.errors import ClimpError, StoreError, UsageError
from climp_bench.eval.geometry import describe
from climp_bench.eval.retrieval import retrieve
from climp_bench.eval.scores import Score
from climp_bench.eval.zeroshot import classify, tag
from climp_bench.models.adapters import Encoder
from climp_bench.results import UNKNOWN_KIND, DatasetRef, ModelRef, Problem, ResultStore, RunRecord, collect
from climp_bench.run.plan import Job, Plan, Settings, task_fingerprint


class Watcher(Protocol):
    """Told what happens, so that a command can show it."""

    def job(self, label: str, images: int) -> None:
        """A job starts that will encode ``images`` (image, model) pairs."""

    def advance(self, images: int) -> None:
        """So many pairs are done."""

    def failed(self, label: str, model: str, problem: Problem) -> None:
        """One model failed on one task; the run goes on."""


@dataclass
class Outcome:
    """What a run produced: records in the plan's order; how many evaluations failed or were reused."""

    records: list[RunRecord] = field(default_factory=list)
    done: int = 0
    failed: int = 0
    reused: int = 0


def execute(plan: Plan, settings: Settings, watcher: Watcher) -> Outcome:
    """Run every job. Each evaluation is written to the store as soon as it is scored.

    Raises:
        StoreError: the results cannot be written. Any other failure becomes a record of status ``failed``
            (with ``settings.debug`` unexpected exceptions are raised instead).
    """
    store = ResultStore(settings.out / "records")
    known = [] if settings.fresh else store.read()
    outcome = Outcome()
    for job in plan.jobs:
        before = len(outcome.records)
        _JobRun(job, plan.encoders, settings, watcher, store, known, outcome).run()
        place = {encoder.name: k for k, encoder in enumerate(plan.encoders)}
        outcome.records[before:] = sorted(outcome.records[before:], key=lambda r: place[r.model.name])
    return outcome


class _JobRun:
    """One job, for all its models."""

    def __init__(
        self,
        job: Job,
        encoders: Sequence[Encoder],
        settings: Settings,
        watcher: Watcher,
        store: ResultStore,
        known: Sequence[RunRecord],
        outcome: Outcome,
    ) -> None:
        self.job, self.settings, self.watcher, self.store = job, settings, watcher, store
        self.encoders, self.known, self.outcome = encoders, known, outcome
        self.started = datetime.now(timezone.utc)
        self.dataset: Dataset | None = None
        self.fingerprint: str | None = None

    def run(self) -> None:
        task = self.job.task
        waiting = list(self.encoders)
        try:
            self.dataset = open_dataset(task.dataset, self.settings.data_roots, task.n)
            check_count(self.dataset, task.n)
            if task.kind is not None and task.kind != self.dataset.kind:
                remedy = "Correct `kind` in the suite, or dataset_type.txt in the data set."
                what = f"the suite says {task.kind}, the data set is {self.dataset.kind}"
                raise UsageError(what, where=self.job.label, remedy=remedy)
            self.fingerprint = task_fingerprint(self.dataset, task)
            waiting = [encoder for encoder in self.encoders if not self._reuse(encoder)]
            self.watcher.job(self.job.label, len(waiting) * len(self.dataset))
            if not waiting:
                return
            notes = annotate(self.dataset, task.templates)
        except StoreError:
            raise
        except Exception as error:
            for encoder in waiting:
                self._fail(encoder, error)
            return
        self._evaluate(waiting, notes)

    def _reuse(self, encoder: Encoder) -> bool:
        """Take over the records of an earlier run of exactly this evaluation by this version."""
        found = [
            record
            for record in self.known
            if record.suite == self.job.suite.name
            and record.task == self.job.task.name
            and (record.kind == "geometry") == (self.job.measure == "geometry")
            and record.extra.get("sampled_images") == self.settings.sample
            and record.protocol == self.job.suite.protocol
            and record.model.name == encoder.name
            and record.model.weights_digest == encoder.weights_digest
            and record.dataset.fingerprint == self.fingerprint
            and record.resolution == encoder.preprocess.size
            and record.provenance.dtype == encoder.dtype
            and record.provenance.device == encoder.device
            and record.provenance.backends == encoder.backends
            and record.provenance.seed == self.settings.seed
            and record.provenance.climp_bench == __version__
        ]
        if not found or any(record.status == "failed" for record in found):
            return False
        self.outcome.records.extend(found)
        self.outcome.reused += 1
        self.outcome.done += 1
        return True

    def _evaluate(self, encoders: Sequence[Encoder], notes: Annotations) -> None:
        """Embed for all encoders together; if that fails, one by one, so that only the broken one fails."""
        assert self.dataset is not None
        try:
            images = self._images(encoders)
        except StoreError:
            raise
        except Exception as error:
            if len(encoders) == 1:
                self._fail(encoders[0], error)
                return
            for encoder in encoders:
                self._evaluate([encoder], notes)
            return
        for encoder in encoders:
            try:
                texts = embed_texts(notes.texts, encoder, self.settings.cache)
                embedded = images[encoder.name]
                scores = self._score(EmbeddingSet(embedded.rows, texts.rows, notes))
                self._record(encoder, scores, embedded.cached and texts.cached)
            except StoreError:
                raise
            except Exception as error:
                self._fail(encoder, error)

    def _images(self, encoders: Sequence[Encoder]) -> dict[str, Embedded]:
        assert self.dataset is not None
        return embed_images(
            self.dataset,
            encoders,
            self.settings.cache,
            workers=self.settings.workers,
            progress=self.watcher.advance,
        )

    def _score(self, embeddings: EmbeddingSet) -> list[Score]:
        suite, task, seed = self.job.suite, self.job.task, self.settings.seed
        if self.job.measure == "geometry":
            return describe(embeddings, sample=self.settings.sample, seed=seed)
        if embeddings.notes.kind == "retrieval":
            return retrieve(embeddings, task.ks, seed)
        if embeddings.notes.kind == "multilabel":
            return tag(embeddings, suite.protocol, seed)
        return classify(embeddings, seed)

    def _record(self, encoder: Encoder, scores: Sequence[Score], cached: bool) -> None:
        records = [self._one(encoder, score, cached) for score in scores]
        self.store.write(records)
        self.outcome.records.extend(records)
        self.outcome.done += 1

    def _one(self, encoder: Encoder, score: Score, cached: bool | None) -> RunRecord:
        undefined = score.value is None
        extra = dict(score.extra)
        if self.job.task.chance is not None:
            extra["chance"] = self.job.task.chance
        elif score.metric == "acc1" and self.dataset is not None:
            extra["chance"] = 1 / len(self.dataset.classes)
        return self._base(
            encoder,
            metric=score.metric,
            value=score.value,
            interval=score.interval,
            no_interval_reason=score.reason if score.value is not None and score.interval is None else None,
            n_expected=score.n,
            n_evaluated=score.n,
            status="skipped" if undefined else "ok",
            error=Problem(what=score.reason) if undefined else None,
            extra=extra,
            cached=cached,
        )

    def _fail(self, encoder: Encoder, error: Exception) -> None:
        if self.settings.debug and not isinstance(error, ClimpError):
            raise error
        problem = Problem.of(error)
        expected = self.job.task.n
        record = self._base(
            encoder,
            metric="any",
            value=None,
            interval=None,
            n_expected=expected,
            n_evaluated=0,
            status="failed",
            error=problem,
            extra={},
            cached=None,
        )
        self.store.write([record])
        self.outcome.records.append(record)
        self.outcome.failed += 1
        self.watcher.failed(self.job.label, encoder.name, problem)

    def _base(self, encoder: Encoder, *, cached: bool | None, **facts: object) -> RunRecord:
        task, data = self.job.task, self.dataset
        revision = DATASETS.get(task.dataset).revision if task.dataset in DATASETS else None
        kind: str = data.kind if data else task.kind or UNKNOWN_KIND
        if self.job.measure == "geometry":
            kind = "geometry"
        return RunRecord.model_validate(
            {
                "model": ModelRef(
                    name=encoder.name,
                    family=encoder.family,
                    scale=encoder.scale,
                    weights_digest=encoder.weights_digest,
                    weights_source=encoder.weights_source,
                ),
                "suite": self.job.suite.name,
                "task": task.name,
                "dataset": DatasetRef(
                    name=task.dataset,
                    split=data.split if data else "test",
                    revision=revision,
                    fingerprint=self.fingerprint,
                ),
                "protocol": self.job.suite.protocol,
                "kind": kind,
                "resolution": encoder.preprocess.size,
                "provenance": collect(
                    device=encoder.device,
                    dtype=encoder.dtype,
                    seed=self.settings.seed,
                    gpu=encoder.gpu,
                    backends=encoder.backends,
                    cache_hit=cached,
                    started_at=self.started,
                ),
                **facts,
            }
        )
