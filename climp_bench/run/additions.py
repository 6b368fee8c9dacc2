"""What ``ood`` and ``dense`` measure beside a task's own scores."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial
from typing import Protocol

import numpy as np
import numpy.typing as npt

from climp_bench.data.dataset import Dataset
from climp_bench.embed.extract import embed_images, embed_texts
from climp_bench.embed.sets import Annotations, EmbeddingSet, annotate
from climp_bench.errors import ClimpError, DataError, RankError
from climp_bench.eval.dense import lengths_and_recall
from climp_bench.eval.ood import DETECTION, DROPS, detect, drops
from climp_bench.eval.scores import Score
from climp_bench.eval.zeroshot import classify
from climp_bench.models.adapters import Encoder
from climp_bench.run.opening import open_task
from climp_bench.run.plan import Job, Settings, task_fingerprint

Facts = dict[str, float | int | str | None]


class Addition(Protocol):
    """Scores on top of a task's own.

    Attributes:
        facts: what they depend on beside the task; stored with every score, and equal where one is reused.
    """

    facts: Facts

    def scores(self, encoder: Encoder, embeddings: EmbeddingSet, own: Sequence[Score]) -> list[Score]:
        """The scores of one model.

        Args:
            encoder: the model.
            embeddings: of the task.
            own: the task's own scores.
        """


def addition_to(job: Job, settings: Settings) -> Addition | None:
    """What the job measures on top of its task's scores; None where it is only the task."""
    if job.measure == "ood":
        return _Shift(job, settings)
    return _Lengths(job, settings) if job.measure == "dense" else None


class _Shift:
    """A shifted set against its reference, which is read from the same cache as its own task reads it from.

    A reference that cannot be used leaves the set's own accuracy alone: what needs it is skipped with the
    reason, and measured as soon as the reference is there.
    """

    def __init__(self, job: Job, settings: Settings) -> None:
        self.job, self.settings = job, settings
        self.problem: ClimpError | None = None
        self.facts: Facts = {"reference": None}
        if (task := job.reference) is not None:
            self.facts = {"reference": task.name, "reference_fingerprint": self._fingerprint()}
            if job.task.ood_reference:
                self.facts["ood_classes"] = job.task.ood_classes

    def scores(self, encoder: Encoder, embeddings: EmbeddingSet, own: Sequence[Score]) -> list[Score]:
        task = self.job.task
        if self.job.reference is None:
            return []
        try:
            if self.problem is not None:
                raise self.problem
            reference = self._reference(encoder)
            if task.ood_reference:
                shared = task.ood_classes == "shared"
                scale = encoder.logit_scale()
                return detect(embeddings, reference, scale, shared=shared, seed=self.settings.seed)
            judge = partial(
                classify,
                seed=self.settings.seed,
                protocol=self.job.suite.protocol,
                dtype=encoder.dtype,
            )
            return drops(own, embeddings.notes.classes, reference, judge)
        except RankError:
            raise
        except ClimpError as error:
            reason = f"the reference {self.facts['reference']} cannot be used: {error}"
            names = DETECTION if task.ood_reference else DROPS
            extra = {"reference_fingerprint": None}
            return [Score(name, None, None, 0, reason=reason, extra=extra) for name in names]

    def _fingerprint(self) -> str | None:
        task = self.job.reference
        assert task is not None
        try:
            return task_fingerprint(self._dataset, task, self.job.suite.protocol)
        except ClimpError as error:
            self.problem = error
            return None

    @cached_property
    def _dataset(self) -> Dataset:
        task = self.job.reference
        assert task is not None
        dataset = open_task(task, self.settings)
        if dataset.kind != "classification":
            raise DataError(f"it is a {dataset.kind} task", where=task.name, remedy="Name one with classes.")
        return dataset

    @cached_property
    def _notes(self) -> Annotations:
        assert self.job.reference is not None
        return annotate(self._dataset, self.job.reference.templates)

    def _reference(self, encoder: Encoder) -> EmbeddingSet:
        cache, workers, team = self.settings.cache, self.settings.workers, self.settings.team
        images = embed_images(self._dataset, [encoder], cache, workers=workers, team=team)
        texts = embed_texts(self._notes.texts, encoder, cache, team=team)
        return EmbeddingSet(images[encoder.name].rows, texts.rows, self._notes)


class _Lengths:
    """How long captions are in the model's tokens, and what is found when they are cut shorter."""

    def __init__(self, job: Job, settings: Settings) -> None:
        self.job, self.settings = job, settings
        self.facts: Facts = {"lengths": ",".join(map(str, settings.max_tokens))}

    def scores(self, encoder: Encoder, embeddings: EmbeddingSet, own: Sequence[Score]) -> list[Score]:
        notes, task, settings = embeddings.notes, self.job.task, self.settings

        def embed(cut: Encoder, longer_M: npt.NDArray[np.bool_]) -> EmbeddingSet:
            texts = embeddings.texts.copy()
            longer = np.flatnonzero(longer_M)
            if longer.size:
                chosen = [notes.texts[i] for i in longer]
                texts[longer] = embed_texts(chosen, cut, settings.cache, team=settings.team).rows
            return EmbeddingSet(embeddings.images, texts, notes)

        return lengths_and_recall(notes, encoder, own, settings.max_tokens, embed, task.ks, settings.seed)
