"""What will be measured: every model on every task of every suite."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from climp_bench.data.dataset import Dataset, digest_texts
from climp_bench.models.adapters import Encoder
from climp_bench.suite.schema import Suite, TaskDef

Measure = Literal["task", "geometry"]
"""What is made of the embeddings: the task's own scores, or the geometry of the space."""


@dataclass(frozen=True)
class Job:
    """One task of one suite, for all models: its images are decoded once for all of them."""

    suite: Suite
    task: TaskDef
    measure: Measure = "task"

    @property
    def label(self) -> str:
        """``suite/task`` for messages."""
        return f"{self.suite.name}/{self.task.name}"


@dataclass(frozen=True)
class Settings:
    """How a run is carried out.

    Attributes:
        out: folder of records and tables.
        cache: folder of embeddings.
        data_roots: folders searched for data sets, first match wins.
        fresh: measure again what the store already has.
        workers: processes that decode images.
        seed: of every bootstrap and sample.
        sample: images in each sample that geometry is estimated on; None is exact, on all of them.
        debug: let unexpected errors through with their traceback.
    """

    out: Path
    cache: Path
    data_roots: tuple[Path, ...] = ()
    fresh: bool = False
    workers: int = 0
    seed: int = 0
    sample: int | None = None
    debug: bool = False


@dataclass(frozen=True)
class Plan:
    """Encoders and jobs, in the order of the report."""

    encoders: tuple[Encoder, ...]
    jobs: tuple[Job, ...]


def make_plan(encoders: Sequence[Encoder], suites: Sequence[Suite], measure: Measure = "task") -> Plan:
    """Every task of every suite, for all encoders."""
    jobs = tuple(Job(suite, task, measure) for suite in suites for task in suite.tasks)
    return Plan(tuple(encoders), jobs)


def task_fingerprint(dataset: Dataset, task: TaskDef) -> str:
    """Digest of all that defines the task: images, labels or captions, classes, prompts, cut-offs."""
    parts = [dataset.fingerprint(), digest_texts(task.templates or dataset.templates), str(task.ks)]
    return hashlib.sha256("|".join(parts).encode()).hexdigest()
