"""A baseline: the scores a run is held against, in one file that is read in reviews.

Sorted, one line a score, without time, host or command line: the same results give the same bytes, and a diff
shows what moved. Per-sample outcomes are in it as packed bits, so that tests are paired.
"""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from climp_bench import __version__
from climp_bench.errors import StoreError
from climp_bench.gate.measured import Measured

BASELINE_SUFFIX = ".baseline.json"
BASELINE_SCHEMA = 1
_REMEDY = "`climp-bench gate update` writes a new one."


def encode_baseline(scores: Sequence[Measured]) -> str:
    """The scores as the text of a baseline; what is undefined (skipped) is left out.

    Raises:
        StoreError: a score failed or is partial, two claim one place, or outcomes are missing.
    """
    kept = sorted((s for s in scores if s.status != "skipped"), key=_order)
    for score in kept:
        if score.status != "ok" or score.value is None:
            what = f"{score.status}: {score.reason or 'no reason given'}"
            remedy = "A baseline takes a whole run: mend that, evaluate again, then update."
            raise StoreError(what, where="/".join(score.where), remedy=remedy)
    for one, other in itertools.pairwise(kept):
        if one.where == other.where and one.condition == other.condition:
            remedy = "Update from one results directory."
            raise StoreError("two results of the same measurement", where="/".join(one.where), remedy=remedy)
    groups = [_evaluation(list(group)) for _, group in itertools.groupby(kept, key=_evaluation_key)]
    head = {"schema_version": BASELINE_SCHEMA, "climp_bench": __version__}
    lines = [json.dumps(head)[:-1] + ', "evaluations": [', ",\n".join(groups), "]}"]
    return "\n".join(lines) + "\n"


def read_baseline(path: Path) -> list[Measured]:
    """The scores of a baseline file.

    Raises:
        StoreError: it cannot be read, is of a newer schema, or is no baseline.
    """
    try:
        return parse_baseline(path.read_text(encoding="utf-8"), path)
    except OSError as error:
        what = f"the baseline cannot be read ({error.strerror})"
        raise StoreError(what, where=str(path), remedy=_REMEDY) from error
    except UnicodeDecodeError as error:
        raise StoreError("not a baseline (no text)", where=str(path), remedy=_REMEDY) from error


def parse_baseline(text: str, path: Path) -> list[Measured]:
    """The scores in the text of a baseline. Raises as :func:`read_baseline`, naming ``path``."""
    try:
        content = json.loads(text)
        version = content["schema_version"]
        if version != BASELINE_SCHEMA:
            raise ValueError(f"schema {version}, this climp-bench reads {BASELINE_SCHEMA}")
        return [score for group in content["evaluations"] for score in _scores(group, path)]
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise StoreError(
            f"not a baseline ({place}: {first['msg']})", where=str(path), remedy=_REMEDY
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        what = f"not a baseline ({type(error).__name__}: {error})"
        raise StoreError(what, where=str(path), remedy=_REMEDY) from error


@dataclass(frozen=True)
class Change:
    """One line of what an update changes: the old and the new score (None: was or is not there)."""

    old: Measured | None
    new: Measured | None

    @property
    def text(self) -> str:
        """``embedded/scenes-shape acc1 climp-m1@micro: 75.24 -> 73.08``, with what else is different."""
        one = self.new or self.old
        assert one is not None
        place = f"{one.suite}/{one.task} {one.metric} {one.model}"
        if self.old is None or self.new is None:
            return f"{'-' if self.new is None else '+'} {place}: {_shown(one)}"
        facts = self.old.condition.differences(self.new.condition)
        if self.old.right != self.new.right and self.old.value == self.new.value:
            facts.append("the same score from other samples")
        if self.old.weights != self.new.weights:
            facts.append("other weights")
        also = f" ({'; '.join(facts)})" if facts else ""
        return f"~ {place}: {_shown(self.old)} -> {_shown(self.new)}{also}"


def changes(old: Iterable[Measured], new: Iterable[Measured]) -> list[Change]:
    """What differs between two baselines, in order of place."""
    before = {_order(score): score for score in old}
    after = {_order(score): score for score in new}
    found = []
    for key in sorted(before.keys() | after.keys()):
        change = Change(before.get(key), after.get(key))
        if change.old is None or change.new is None or _content(change.old) != _content(change.new):
            found.append(change)
    return found


def _order(score: Measured) -> tuple[Any, ...]:
    size = score.condition.resolution or (0, 0)
    return score.suite, score.task, score.model, size, score.condition.dtype, score.metric


def _content(score: Measured) -> tuple[Any, ...]:
    return score.value, score.condition, score.right, score.weights


def _evaluation_key(score: Measured) -> str:
    shared = score.condition.model_dump(exclude={"n"})
    return json.dumps([score.suite, score.task, score.model, score.weights, shared])


def _evaluation(scores: Sequence[Measured]) -> str:
    first = scores[0]
    head: dict[str, Any] = {
        "suite": first.suite,
        "task": first.task,
        "model": first.model,
        "weights": first.weights,
        "condition": first.condition.model_dump(mode="json", exclude={"n"}, exclude_none=True),
    }
    lines = [f"  {json.dumps(score.metric)}: {json.dumps(_score(score))}" for score in scores]
    return json.dumps(head, ensure_ascii=False)[:-1] + ', "scores": {\n' + ",\n".join(lines) + "}}"


def _score(score: Measured) -> dict[str, Any]:
    facts: dict[str, Any] = {"n": score.condition.n, "value": score.value}
    if score.low is not None:
        facts |= {"low": score.low, "high": score.high, "level": score.level}
    if score.has_outcomes:
        trial = score.trial()
        bits = base64.b64encode(np.packbits(trial.right).tobytes()).decode()
        facts |= {"samples": trial.samples, "over": trial.over, "right": bits}
    return facts


def _scores(group: dict[str, Any], path: Path) -> list[Measured]:
    place = {key: group[key] for key in ("suite", "task", "model", "weights")}
    return [
        Measured.model_validate(
            {
                **place,
                "metric": metric,
                "condition": {**group["condition"], "n": facts.pop("n")},
                "source": path,
                **facts,
            }
        )
        for metric, facts in group["scores"].items()
    ]


def _shown(score: Measured) -> str:
    if score.value is None:
        return score.status
    return f"{100 * score.value:.2f}" if score.is_share else f"{score.value:.6g}"
