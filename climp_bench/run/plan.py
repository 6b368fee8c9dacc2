"""What will be measured: every model on every task of every suite."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from climp_bench.data.dataset import Dataset, digest_texts
from climp_bench.download import Announce, silent
from climp_bench.models.adapters import Encoder
from climp_bench.ranks import DEFAULT_TIMEOUT, Team
from climp_bench.suite.protocols import captions_used
from climp_bench.suite.schema import Suite, TaskDef

Measure = Literal["task", "geometry", "ood", "dense"]
"""What is made of the embeddings: the task's own scores, with what a shift or the length of captions does to
them (``ood``, ``dense``), or the geometry of the space."""

BESIDE_TASKS = ("geometry", "ood", "dense")
"""The measures whose records are of a kind of their own, beside those of the tasks they are measured on."""


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

    @property
    def reference(self) -> TaskDef | None:
        """The in-distribution task that this one is compared with, if the suite names one."""
        name = self.task.shifted_from or self.task.ood_reference
        return next((task for task in self.suite.tasks if task.name == name), None)


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
        max_tokens: lengths that captions are also cut to (``dense``).
        skip_corrupt: leave out images that do not decode, counted in every record, instead of failing.
        offline: never fetch a data set that is not here.
        announce: told what is fetched and its size, before it is.
        team: the ranks that share the encoding, or None.
        rank_timeout: seconds of silence after which one of them counts as lost.
        debug: let unexpected errors through with their traceback.
    """

    out: Path
    cache: Path
    data_roots: tuple[Path, ...] = ()
    fresh: bool = False
    workers: int = 0
    seed: int = 0
    sample: int | None = None
    max_tokens: tuple[int, ...] = ()
    skip_corrupt: bool = False
    offline: bool = True
    announce: Announce = field(default=silent, compare=False)
    team: Team | None = field(default=None, compare=False, repr=False)
    rank_timeout: float = DEFAULT_TIMEOUT
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


def task_fingerprint(dataset: Dataset, task: TaskDef, protocol: str = "corrected") -> str:
    """Digest of all that defines the task: images, labels or captions, classes, prompts, cut-offs."""
    parts = [dataset.fingerprint(), digest_texts(task.templates or dataset.templates), str(task.ks)]
    if captions_used(protocol, task.dataset, task.captions) == "first":
        parts.append("first caption")
    return hashlib.sha256("|".join(parts).encode()).hexdigest()
