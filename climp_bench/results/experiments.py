"""What ``ablation``, ``scaling`` and ``bias`` leave for reports: ``NAME.json``, with records of all."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, ValidationError, model_validator

from climp_bench.errors import StoreError
from climp_bench.results.schema import Part, RunRecord, Scalar, Text

EXPERIMENT_VERSION = 1
"""Files without a version are older: they have no records, and are made again by the same command."""
TRIALS = ("ablation", "scaling-data", "scaling-model")
NAMES = (*TRIALS, "bias")


class Score(Part):
    """One score of a trial, a share in [0, 1], with its own interval (over samples) if it has one."""

    task: Text
    kind: Text
    metric: Text
    value: float
    n: NonNegativeInt
    low: float | None = None
    high: float | None = None
    chance: float | None = None


class TrialRun(Part):
    """A model that was trained and scored.

    Attributes:
        family: the pair of towers, as the catalogue calls it; ``image`` and ``text`` are the towers' names.
        point: what the experiment varies beside it (pairs, or parameters of the image tower), or 0.
        seed: of the training.
        parameters, image_parameters: of the whole and of the image tower.
        pairs: seen in training, repeats counted.
        scores: all of them.
        recipe_sha256: digest of the resolved recipe.
        records: where each score comes from.
    """

    family: Text
    image: Text
    text: Text
    point: NonNegativeInt
    seed: int
    parameters: NonNegativeInt
    image_parameters: NonNegativeInt
    pairs: NonNegativeInt
    scores: tuple[Score, ...]
    recipe_sha256: Text
    records: tuple[RunRecord, ...]

    @property
    def name(self) -> tuple[object, ...]:
        """What tells it from the other runs."""
        return self.family, self.point, self.seed

    @property
    def plain(self) -> dict[str, Any]:
        """Everything but the records, as tables take it."""
        return self.model_dump(exclude={"records"})

    @model_validator(mode="after")
    def _scores_have_records(self) -> TrialRun:
        known = {(r.task, r.metric): r.value for r in self.records}
        for score in self.scores:
            if known.get((score.task, score.metric)) != score.value:
                raise ValueError(f"no record of {score.task}, {score.metric} = {score.value}")
        return self


class BiasRun(Part):
    """A small tower that was trained on images as they are or with their patches in another order.

    Attributes:
        tower, order, seed: which; ``order`` is that of the patches.
        parameters: of tower and classifier.
        losses: mean training loss of each epoch, in nats.
        correct, n, accuracy: test images that were right, of how many, their share.
        seconds: of training.
        records: of the last loss and of the accuracy, by the metrics ``LOSS`` and ``acc1``.
    """

    tower: Text
    order: Literal["natural", "permuted"]
    seed: int
    parameters: NonNegativeInt
    losses: Annotated[tuple[float, ...], Field(min_length=1)]
    correct: NonNegativeInt
    n: NonNegativeInt
    accuracy: float
    seconds: float
    records: tuple[RunRecord, ...]

    @property
    def name(self) -> tuple[object, ...]:
        """What tells it from the other runs."""
        return self.tower, self.order, self.seed

    @model_validator(mode="after")
    def _numbers_have_records(self) -> BiasRun:
        if {r.metric: r.value for r in self.records} != {LOSS: self.losses[-1], "acc1": self.accuracy}:
            raise ValueError("its records are not of its last loss and its accuracy")
        return self


LOSS = "train_loss_nats"
"""Metric of the mean training loss of the last epoch."""


class _Experiment(Part):
    """What every file has.

    Attributes:
        small: whether it says nothing about the paper, because towers or data are toys.
        facts: what the runs have in common.
        remarks: what a reader of the numbers must know.
    """

    schema_version: Literal[1]
    small: bool
    facts: dict[str, Scalar]
    remarks: tuple[str, ...] = ()


class Trials(_Experiment):
    """An ablation or a scaling."""

    name: Literal["ablation", "scaling-data", "scaling-model"]
    runs: Annotated[tuple[TrialRun, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _runs_differ(self) -> Trials:
        if len({run.name for run in self.runs}) < len(self.runs):
            raise ValueError("a run is there twice")
        if self.name != "ablation" and not all(run.point for run in self.runs):
            raise ValueError("a run of a scaling has no size")
        return self


class Bias(_Experiment):
    """An experiment on inductive bias: every tower with every seed on both orders."""

    name: Literal["bias"]
    runs: Annotated[tuple[BiasRun, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _orders_are_paired(self) -> Bias:
        names = {run.name for run in self.runs}
        pairs = {(run.tower, order, run.seed) for run in self.runs for order in ("natural", "permuted")}
        if len(names) < len(self.runs) or names != pairs:
            raise ValueError("not one run of each order for every tower and seed")
        return self


@dataclass(frozen=True)
class Stored:
    """An experiment, and the name of the folder that it lies in."""

    folder: str
    content: Trials | Bias


def find_experiments(folder: Path) -> list[Stored]:
    """The experiments that lie in a folder and in the folders directly in it, in the order of ``NAMES``.

    Raises:
        StoreError: a file cannot be read, is damaged, or is of another schema; the message names it.
    """
    paths = [
        path
        for name in NAMES
        for pattern in (f"{name}.json", f"*/{name}.json")
        for path in sorted(folder.glob(pattern))
    ]
    return [Stored(path.resolve().parent.name, read_experiment(path)) for path in paths]


def read_experiment(path: Path) -> Trials | Bias:
    """One file; its name says which experiment it is. Raises as :func:`find_experiments`."""
    command = f"`climp-bench {path.stem.replace('-', ' ')}`"
    again = f"Run {command} with the same --out again (finished runs are kept), or move the file away."
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content.get("schema_version")
        if version is None and "runs" in content:
            what = "was written by an earlier climp-bench, which kept no provenance"
            raise StoreError(what, where=str(path), remedy=again)
        if isinstance(version, int) and version > EXPERIMENT_VERSION:
            what = f"is of experiment schema {version}, this climp-bench reads {EXPERIMENT_VERSION}"
            raise StoreError(what, where=str(path), remedy="Upgrade climp-bench, or move the file away.")
        if content.get("name") != path.stem:
            raise ValueError(f"name: not {path.stem}")
        return (Bias if path.stem == "bias" else Trials).model_validate(content)
    except OSError as error:
        raise StoreError(f"cannot be read ({error.strerror})", where=str(path), remedy=again) from error
    except ValidationError as error:
        first = error.errors()[0]
        fault = f"{'.'.join(map(str, first['loc'])) or 'file'}: {first['msg']}"
        raise StoreError(f"is no experiment ({fault})", where=str(path), remedy=again) from error
    except (ValueError, AttributeError) as error:
        raise StoreError(f"is no experiment ({error})", where=str(path), remedy=again) from error
