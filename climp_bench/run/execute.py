"""Carry out a plan: embed, score, record; one broken task or model never stops the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Protocol

from climp_bench.data.catalogue import DATASETS
from climp_bench.data.dataset import Dataset
from climp_bench.embed.beside import TextsOf, texts_beside
from climp_bench.embed.extract import Embedded, embed_images
from climp_bench.embed.sets import Annotations, EmbeddingSet, annotate
from climp_bench.errors import ClimpError, RankError, StoreError, UsageError
from climp_bench.eval.geometry import describe
from climp_bench.eval.protocol import check_model
from climp_bench.eval.retrieval import retrieve
from climp_bench.eval.scores import Score
from climp_bench.eval.zeroshot import classify, tag
from climp_bench.models.adapters import Encoder
from climp_bench.results import UNKNOWN_KIND, DatasetRef, ModelRef, Problem, ResultStore, RunRecord, collect
from climp_bench.results.outcomes import Hits, Outcomes, digest, encode
from climp_bench.run.additions import Addition, addition_to
from climp_bench.run.averages import averages
from climp_bench.run.opening import left_out, open_task
from climp_bench.run.picturing import pictures_of
from climp_bench.run.plan import BESIDE_TASKS, Job, Plan, Settings, task_fingerprint
from climp_bench.run.reuse import earlier
from climp_bench.suite.protocols import captions_used, rules


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
        StoreError: the results cannot be written.
        RankError: another rank is lost. Any other failure becomes a record of status ``failed``
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
    means = averages(plan, outcome.records)
    store.write(means)
    outcome.records += means
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
        self.addition: Addition | None = None

    def run(self) -> None:
        task = self.job.task
        waiting = list(self.encoders)
        try:
            self.dataset = open_task(task, self.settings)
            if task.kind is not None and task.kind != self.dataset.kind:
                remedy = "Correct `kind` in the suite, or dataset_type.txt in the data set."
                what = f"the suite says {task.kind}, the data set is {self.dataset.kind}"
                raise UsageError(what, where=self.job.label, remedy=remedy)
            self.fingerprint = task_fingerprint(self.dataset, task, self.job.suite.protocol)
            self.addition = addition_to(self.job, self.settings)
            waiting = [e for e in self._admitted() if not self._reuse(e)]
            self.watcher.job(self.job.label, len(waiting) * len(self.dataset))
            if not waiting:
                return
            first = captions_used(self.job.suite.protocol, task.dataset, task.captions) == "first"
            notes = annotate(self.dataset, task.templates, first_caption=first)
        except (StoreError, RankError):
            raise
        except Exception as error:
            for encoder in waiting:
                self._fail(encoder, error)
            return
        self._evaluate(waiting, notes)

    def _admitted(self) -> list[Encoder]:
        """The models that get their images as the protocol prescribes; the others fail with that reason."""
        admitted = []
        for encoder in self.encoders:
            try:
                check_model(rules(self.job.suite.protocol), encoder)
                admitted.append(encoder)
            except UsageError as error:
                self._fail(encoder, error)
        return admitted

    def _reuse(self, encoder: Encoder) -> bool:
        """Take over the records of an earlier run of exactly this evaluation by this version."""
        facts = self.addition.facts if self.addition else {}
        found = earlier(self.known, self.store, self.job, encoder, self.settings, self.fingerprint, facts)
        if not found:
            return False
        self.outcome.records.extend(found)
        self.outcome.reused += 1
        self.outcome.done += 1
        return True

    def _evaluate(self, encoders: Sequence[Encoder], notes: Annotations) -> None:
        """Embed for all encoders together; if that fails, one by one, so that only the broken one fails."""
        settings = self.settings
        with texts_beside(notes.texts, encoders, settings.cache, team=settings.team) as texts_of:
            try:
                images = self._images(encoders)
            except (StoreError, RankError):
                raise
            except Exception as error:
                problem = error
            else:
                for encoder in encoders:
                    self._score_one(encoder, images[encoder.name], texts_of, notes)
                return
        if len(encoders) == 1:
            self._fail(encoders[0], problem)
            return
        for encoder in encoders:
            self._evaluate([encoder], notes)

    def _score_one(self, encoder: Encoder, images: Embedded, texts_of: TextsOf, notes: Annotations) -> None:
        try:
            texts = texts_of(encoder)
            embeddings = EmbeddingSet(images.rows, texts.rows, notes)
            scores = self._score(embeddings, encoder)
            if self.addition:
                scores += self.addition.scores(encoder, embeddings, scores)
            self._record(encoder, scores, embeddings, images.cached and texts.cached)
        except (StoreError, RankError):
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
            team=self.settings.team,
        )

    def _score(self, embeddings: EmbeddingSet, encoder: Encoder) -> list[Score]:
        suite, task, seed, dtype = self.job.suite, self.job.task, self.settings.seed, encoder.dtype
        if self.job.measure == "geometry":
            return describe(embeddings, sample=self.settings.sample, seed=seed)
        if embeddings.notes.kind == "retrieval":
            return retrieve(embeddings, task.ks, seed, device=encoder.device)
        if embeddings.notes.kind == "multilabel":
            return tag(embeddings, suite.protocol, seed, dtype=dtype)
        return classify(embeddings, seed, protocol=suite.protocol, dtype=dtype)

    def _record(
        self, encoder: Encoder, scores: Sequence[Score], embeddings: EmbeddingSet, cached: bool
    ) -> None:
        assert self.dataset is not None
        content = self._outcomes(scores, embeddings.notes)
        bound = digest(content) if content is not None else None
        records = [
            self._one(encoder, score, cached, bound if score.outcomes is not None else None)
            for score in scores
        ]
        facts = (self.job, self.dataset, embeddings, scores, encoder, self.fingerprint, self.settings.seed)
        self.store.write(records, content, pictures_of(*facts))
        self.outcome.records.extend(records)
        self.outcome.done += 1

    def _outcomes(self, scores: Sequence[Score], notes: Annotations) -> bytes | None:
        """The file of per-sample outcomes, or None if no score has any."""
        assert self.dataset is not None
        hits = {s.metric: Hits(s.outcomes, s.over) for s in scores if s.outcomes is not None}
        if not hits:
            return None
        ids = tuple(self.dataset.item_id(i) for i in range(len(self.dataset)))
        return encode(Outcomes(ids, hits, notes.owner if notes.kind == "retrieval" else None))

    def _one(self, encoder: Encoder, score: Score, cached: bool | None, outcomes: str | None) -> RunRecord:
        undefined = score.value is None
        extra = {**(self.addition.facts if self.addition else {}), **score.extra}
        if self.job.task.chance is not None:
            extra["chance"] = self.job.task.chance
        elif score.metric == "acc1" and self.dataset is not None:
            extra["chance"] = 1 / len(self.dataset.classes)
        lost = left_out(self.dataset) if self.dataset is not None else None
        count = len(self.dataset.skipped_items) if self.dataset is not None else 0
        whole = score.n + count if self.dataset is not None and score.n == len(self.dataset) else None
        if lost is not None:
            extra["left_out_images"] = count
        return self._base(
            encoder,
            metric=score.metric,
            value=score.value,
            interval=score.interval,
            no_interval_reason=score.reason if score.value is not None and score.interval is None else None,
            n_expected=whole if lost else score.n,
            n_evaluated=score.n,
            n_failed=count,
            status="skipped" if undefined else "partial" if lost else "ok",
            error=Problem(what=score.reason) if undefined else lost,
            outcomes_digest=outcomes,
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
        entry = DATASETS.get(task.dataset) if task.dataset in DATASETS else None
        revision = data.revision if data else None
        if entry is not None and entry.published is None:
            revision = entry.revision
        kind: str = data.kind if data else task.kind or UNKNOWN_KIND
        if self.job.measure in BESIDE_TASKS:
            kind = self.job.measure
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
