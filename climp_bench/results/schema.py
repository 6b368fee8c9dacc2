"""The only result schema: one :class:`RunRecord` is one score, with its interval, counts, status, provenance.

A missing score is a status with a reason, never a number: NaN and infinity are refused everywhere.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from datetime import timezone
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    model_validator,
)

from climp_bench.errors import ClimpError
from climp_bench.specs import Interval, TaskKind

SCHEMA_VERSION = 2
"""1: the first. 2: ``outcomes_digest``. Older records are read through :func:`upgrade`."""
UNKNOWN_KIND = "unknown"
"""The kind of a failed record whose data could not even be opened."""

Status = Literal["ok", "failed", "partial", "skipped"]
Text = Annotated[str, Field(min_length=1)]
UtcTime = Annotated[AwareDatetime, AfterValidator(lambda moment: moment.astimezone(timezone.utc))]
Pixels = Annotated[int, Field(gt=0)]
Scalar = float | int | str | None


class Part(BaseModel):
    """Base of everything that is stored: fixed, without unknown keys, its numbers finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Problem(Part):
    """Why a score is missing or incomplete, in the three parts of a :class:`ClimpError`."""

    what: Text
    where: str = ""
    remedy: str = ""

    @classmethod
    def of(cls, error: BaseException) -> Problem:
        """A problem from an exception; one that is not ours keeps its type's name."""
        if isinstance(error, ClimpError):
            return cls(what=error.what, where=error.where, remedy=error.remedy)
        return cls(what=f"{type(error).__name__}: {error}")


class ModelRef(Part):
    """The model that was scored.

    Attributes:
        name: ``family@scale``, or the foreign model's own name.
        weights_digest: digest of the weights that ran; None only where no weights could be loaded.
        weights_source: where they came from (``shipped``, ``store``, a repository with its revision).
    """

    name: Text
    family: Text
    scale: str | None = None
    weights_digest: str | None = None
    weights_source: str | None = None


class DatasetRef(Part):
    """The data that was scored: a pinned revision, or the fingerprint of the samples, or both."""

    name: Text
    split: Text
    revision: str | None = None
    fingerprint: str | None = None


class Provenance(Part):
    """How, where and by what code a score was made.

    Attributes:
        climp_bench: version of this package.
        git_commit, git_dirty: of the checkout that the code ran from; None outside a checkout.
        python, platform, cpu: versions and names of the host.
        packages: installed version of each package that can shape a score.
        gpu: name of the accelerator; required when ``device`` is one.
        device, dtype: where and in which precision the encoders ran.
        backends: the backend that actually ran, by op.
        seed: of everything random in the evaluation.
        started_at: UTC.
        argv: the command line; the program's name without its folder.
        cache_hit: whether embeddings came from the cache; None where there was none to ask.
    """

    climp_bench: Text
    git_commit: str | None = None
    git_dirty: bool | None = None
    python: Text
    packages: dict[str, str]
    platform: Text
    cpu: Text
    gpu: str | None = None
    device: Text
    dtype: Text
    backends: dict[str, str] = Field(default_factory=dict)
    seed: int
    started_at: UtcTime
    argv: tuple[str, ...] = ()
    cache_hit: bool | None = None

    @model_validator(mode="after")
    def _accelerators_are_named(self) -> Provenance:
        if not self.device.startswith("cpu") and not self.gpu:
            raise ValueError(f"device {self.device!r} needs the accelerator's name in 'gpu'")
        return self


class RunRecord(Part):
    """One score of one model on one task, or the reason why there is none.

    Attributes:
        suite, task: as in the suite file.
        protocol: name and version of how the score is made.
        kind: ``classification``, ``multilabel``, ``retrieval``, or what else was measured (``efficiency``);
            ``UNKNOWN_KIND`` where the data failed before it could tell.
        metric, value: the score; shares lie in [0, 1], other units stand in the metric's name.
        interval: confidence interval of ``value``; without one, ``no_interval_reason`` says why.
        n_expected: samples the task has by its manifest (None where nobody knows), or the limit asked for.
        n_evaluated, n_failed: samples that entered the score, and samples that broke.
        status: ``ok`` complete; ``partial`` a score on fewer samples than expected; ``failed`` no score;
            ``skipped`` not attempted.
        error: required when ``failed`` or ``skipped``; allowed when ``partial``.
        resolution: height and width in pixels, where the input size is fixed.
        outcomes_digest: sha256 of the file of per-sample outcomes that lies beside this one; None where the
            score is no mean over samples, or was stored before outcomes were (schema 1).
        extra: side facts by name, such as group accuracies and tie counts.
    """

    model: ModelRef
    suite: Text
    task: Text
    dataset: DatasetRef
    protocol: Text
    kind: Text
    metric: Text
    value: float | None
    interval: Interval | None = None
    no_interval_reason: str | None = None
    n_expected: NonNegativeInt | None = None
    n_evaluated: NonNegativeInt
    n_failed: NonNegativeInt = 0
    status: Status
    error: Problem | None = None
    resolution: tuple[Pixels, Pixels] | None = None
    outcomes_digest: Text | None = None
    extra: dict[str, Scalar] = Field(default_factory=dict)
    provenance: Provenance

    @model_validator(mode="after")
    def _status_tells_the_truth(self) -> RunRecord:
        if self.status in ("failed", "skipped"):
            if self.value is not None or self.interval is not None:
                raise ValueError(f"a {self.status} record cannot have a value or an interval")
            if self.error is None:
                raise ValueError(f"a {self.status} record needs 'error', its reason")
            if self.outcomes_digest is not None:
                raise ValueError(f"a {self.status} record cannot have outcomes")
            return self
        if self.value is None:
            raise ValueError(f"status {self.status!r} needs a value")
        if (self.interval is None) == (not self.no_interval_reason):
            raise ValueError("needs either an interval or 'no_interval_reason', not both and not neither")
        if self.n_evaluated == 0:
            raise ValueError("a value on no sample is not a score")
        if self.status == "ok":
            self._is_complete()
        return self

    @model_validator(mode="after")
    def _interval_is_an_interval(self) -> RunRecord:
        if self.interval is not None:
            low, high, level = self.interval.low, self.interval.high, self.interval.level
            if not (math.isfinite(low) and math.isfinite(high) and low <= high and 0 < level < 1):
                raise ValueError(f"not a confidence interval: {self.interval}")
        return self

    def _is_complete(self) -> None:
        if self.error is not None or self.n_failed:
            raise ValueError("an 'ok' record has no error and no failed sample; 'partial' may")
        if self.n_expected is not None and self.n_evaluated != self.n_expected:
            raise ValueError(
                f"'partial', not 'ok': {self.n_evaluated} of {self.n_expected} samples evaluated"
            )

    @property
    def key(self) -> str:
        """:func:`record_key` of this record."""
        return record_key(self)


def upgrade(record: dict[str, Any], version: int) -> dict[str, Any]:
    """A stored record of an earlier schema as one of the present schema.

    Raises:
        KeyError: no schema of that version is known.
    """
    for step in range(version, SCHEMA_VERSION):
        record = _STEPS[step](record)
    return record


_STEPS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {
    1: lambda record: {**record, "outcomes_digest": None},
}


def slot_key(record: RunRecord) -> str:
    """The place of an evaluation, known before it runs: what a newer run of the same replaces.

    It leaves out the metric and whatever only a successful run knows (weights digest, split, fingerprint and
    kind of the data), so that a success replaces an earlier failure. Other kinds of measurement on the same
    task (efficiency, geometry) have slots of their own.
    """
    of_the_data = record.kind in (*get_args(TaskKind), UNKNOWN_KIND)
    resolution = list(record.resolution) if record.resolution else None
    return _digest(
        record.model.name,
        record.suite,
        record.task,
        record.dataset.name,
        record.protocol,
        "task" if of_the_data else record.kind,
        resolution,
        record.provenance.dtype,
    )


def record_key(record: RunRecord) -> str:
    """The identity of a score: 32 hex digits, equal exactly where two runs measured the same thing.

    Built from model name and weights digest, suite, task, data set (name, split, revision, fingerprint),
    protocol, kind, metric, resolution and dtype; never from the value, the host or the time.
    """
    data = record.dataset
    what = (record.kind, record.metric, record.model.weights_digest)
    return _digest(slot_key(record), *what, data.split, data.revision, data.fingerprint)


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, ensure_ascii=True).encode()).hexdigest()[:32]
