"""What compare and gate know of a score, be it from a results store or from a baseline file."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from climp_bench.errors import StoreError
from climp_bench.results import RunRecord
from climp_bench.results.outcomes import Outcomes, read_outcomes
from climp_bench.results.store import has_outcomes
from climp_bench.specs import Interval, TaskKind

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Where = tuple[str, str, str, str]
"""Suite, task, metric, model."""
SHARES: tuple[TaskKind, ...] = ("classification", "multilabel", "retrieval")
"""Kinds of which every score is a share, shown in percent and compared in points."""

COUNTED = ("parameters", "macs", "flops", "positional_state_bytes")
"""Efficiency that is counted from a model's shapes: the same on every host."""


@dataclass(frozen=True)
class Trial:
    """Per-sample outcomes: right or wrong, (n,); digest of the samples; the image of each if known."""

    right: Bools
    samples: str
    clusters: Ints | None
    over: str


class Condition(BaseModel):
    """Under which conditions a score was made: two scores are comparable only where these are equal.

    Attributes:
        protocol, kind: of the score.
        dataset, split, revision, fingerprint: the very samples, labels and prompts.
        n: samples behind the score; None for efficiency, whose repetitions are not samples.
        resolution, dtype: of the encoders.
        host: processor and accelerator; None where the score does not depend on them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    protocol: str
    kind: str
    dataset: str
    split: str
    revision: str | None = None
    fingerprint: str | None = None
    n: int | None = None
    resolution: tuple[int, int] | None = None
    dtype: str
    host: str | None = None

    def differences(self, other: Condition, allowed: Sequence[str] = ()) -> list[str]:
        """What differs, in words: ``protocol: corrected, other``."""
        names = [n for n in type(self).model_fields if n not in allowed]
        pairs = [(n, getattr(self, n), getattr(other, n)) for n in names]
        return [f"{name}: {_short(a)}, {_short(b)}" for name, a, b in pairs if a != b]


class Measured(BaseModel):
    """One score, or why there is none.

    Attributes:
        value, low, high: the score and its interval; None if missing.
        status: as in the record.
        reason: why there is no score, or an incomplete one.
        weights: digest of the weights.
        source: the file it stands in.
        outcomes_digest: see the record; None in a baseline, which has ``right`` instead.
        right, samples, over: packed outcomes as base64 and digest of the samples (baselines only).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    suite: str
    task: str
    metric: str
    model: str
    condition: Condition
    value: float | None
    low: float | None = None
    high: float | None = None
    level: float = Field(0.95, gt=0, lt=1)
    status: str = "ok"
    reason: str = ""
    weights: str | None = None
    source: Path | None = None
    outcomes_digest: str | None = None
    right: Annotated[str, Field(pattern=r"^[A-Za-z0-9+/=]*$")] | None = None
    samples: str | None = None
    over: str = "images"

    @property
    def where(self) -> Where:
        """Suite, task, metric, model."""
        return self.suite, self.task, self.metric, self.model

    @property
    def is_share(self) -> bool:
        """Whether the value is a share, told in percent."""
        of_share = "recall" in self.metric or self.metric.startswith("acc") or self.metric.endswith("_share")
        return self.condition.kind in SHARES or of_share

    @property
    def has_outcomes(self) -> bool:
        """Whether per-sample outcomes are stored with it."""
        return self.outcomes_digest is not None or self.right is not None

    @property
    def no_outcomes(self) -> str:
        """Why there are none."""
        if has_outcomes(self.metric):
            return "stored without per-sample outcomes; evaluate again with --fresh"
        return "no mean over samples"

    def interval(self) -> Interval | None:
        """The interval of the score itself."""
        if self.low is None or self.high is None:
            return None
        return Interval(self.low, self.high, self.level, "")

    def trial(self) -> Trial:
        """The per-sample outcomes.

        Raises:
            StoreError: there are none, or their file is missing or another one.
        """
        if self.right is not None:
            n = self.condition.n or 0
            bits = np.frombuffer(base64.b64decode(self.right), np.uint8)
            if 8 * len(bits) < n:
                what = f"{8 * len(bits)} outcomes for {n} samples"
                raise StoreError(what, where=f"{self.source}: {'/'.join(self.where)}")
            return Trial(np.unpackbits(bits, count=n).astype(np.bool_), self.samples or "", None, self.over)
        if self.outcomes_digest is None or self.source is None:
            raise StoreError(self.no_outcomes, where="/".join(self.where))
        outcomes = _outcomes(self.source, self.outcomes_digest)
        hits = outcomes.hits.get(self.metric)
        if hits is None:
            raise StoreError(f"has no outcomes of {self.metric}", where=str(self.source))
        return Trial(hits.right, outcomes.samples(self.metric), outcomes.clusters(self.metric), hits.over)


@lru_cache(maxsize=32)
def _outcomes(path: Path, digest: str) -> Outcomes:
    return read_outcomes(path, digest)


def measured(record: RunRecord, outcomes_path: Path) -> Measured:
    """The score of a record whose outcomes lie at ``outcomes_path``."""
    data, run, efficiency = record.dataset, record.provenance, record.kind == "efficiency"
    of_host = efficiency and record.metric not in COUNTED
    return Measured(
        suite=record.suite,
        task=record.task,
        metric=record.metric,
        model=record.model.name,
        condition=Condition(
            protocol=record.protocol,
            kind=record.kind,
            dataset=data.name,
            split=data.split,
            revision=data.revision,
            fingerprint=data.fingerprint,
            n=None if efficiency else record.n_evaluated,
            resolution=record.resolution,
            dtype=run.dtype,
            host=f"{run.cpu}, {run.gpu or run.device}" if of_host else None,
        ),
        value=record.value,
        low=record.interval.low if record.interval else None,
        high=record.interval.high if record.interval else None,
        level=record.interval.level if record.interval else 0.95,
        status=record.status,
        reason=_reason(record),
        weights=record.model.weights_digest,
        source=outcomes_path,
        outcomes_digest=record.outcomes_digest,
    )


def by_place(scores: Sequence[Measured]) -> dict[Where, list[Measured]]:
    """Scores by suite, task, metric and model; several where they differ in resolution, dtype or protocol."""
    places: dict[Where, list[Measured]] = {}
    for score in scores:
        places.setdefault(score.where, []).append(score)
    return places


def matched(a: Sequence[Measured], b: Sequence[Measured]) -> Iterator[tuple[Measured, Measured | None]]:
    """For each score of A the one of B at the same place: the one made alike, else the most alike."""
    for one in a:
        near = sorted(b, key=lambda other: len(one.condition.differences(other.condition)))
        yield one, near[0] if near else None


def _reason(record: RunRecord) -> str:
    if record.error is None:
        return ""
    place = f" ({record.error.where})" if record.error.where else ""
    return f"{record.error.what}{place}"


def _short(value: object) -> str:
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    text = "none" if value is None else str(value)
    return text[:12] if len(text) == 64 else text
