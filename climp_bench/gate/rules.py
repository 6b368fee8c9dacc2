"""The schema of a gate's file, ``suites/gates/*.toml``. Unknown keys are errors."""

from __future__ import annotations

import difflib
import sys
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from climp_bench.errors import UsageError
from climp_bench.gate.measured import Measured, Where
from climp_bench.registry import unknown
from climp_bench.suite import loader

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

UNGATED = ("imagenet-o", "imagenet_o", "scenes-shape-o")
"""Tasks whose accuracy need not rise as a model gets better; gated only by a rule that names them."""
RELATIVE = ("tolerance", "tolerance_se", "flips", "ratio", "significance")
Text = Annotated[str, Field(min_length=1)]
AtLeast0 = Annotated[float, Field(ge=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Require(_Strict):
    """Results that must be there, besides those of the baseline: every metric, of every task, of every model.

    Attributes:
        suite: name.
        tasks, metrics, models: names.
    """

    suite: Text
    tasks: tuple[Text, ...] = Field(min_length=1)
    metrics: tuple[Text, ...] = Field(min_length=1)
    models: tuple[Text, ...] = Field(min_length=1)

    def places(self) -> list[Where]:
        """Each place that must hold a score."""
        return [(self.suite, t, m, who) for t in self.tasks for m in self.metrics for who in self.models]


class Rule(_Strict):
    """What scores must keep. Patterns are shell globs; the criteria given must all hold.

    Attributes:
        name: for messages.
        suite, task, metric, model: patterns; ``exclude`` lists patterns of tasks left out.
        direction: ``higher`` or ``lower`` is better; ``same`` forbids a change either way.
        tolerance: how far a score may fall behind the baseline, in points.
        tolerance_se: the same in standard errors of the difference (of pairs, where there are outcomes).
        significance: a fall beyond the tolerance (0 unless given) fails only if the one-sided exact paired
            test says so at this level, corrected by Holm over all scores of the rule.
        flips: how many samples may change their outcome, either way.
        ratio: how many times the baseline's value may be exceeded (``lower``) or undercut (``higher``).
        against: take another model of the same run as the baseline.
        floor, ceiling: fixed limits: percent for shares, else the metric's unit.
        across: conditions that may differ from the baseline's, such as ``dtype``.
        report: show, never fail; not even for a missing score.
    """

    name: Text
    suite: Text = "*"
    task: Text = "*"
    metric: Text
    model: Text = "*"
    exclude: tuple[Text, ...] = ()
    direction: Literal["higher", "lower", "same"] = "higher"
    tolerance: AtLeast0 | None = None
    tolerance_se: AtLeast0 | None = None
    significance: Annotated[float, Field(gt=0, lt=1)] | None = None
    flips: Annotated[int, Field(ge=0)] | None = None
    ratio: Annotated[float, Field(ge=1)] | None = None
    against: Text | None = None
    floor: float | None = None
    ceiling: float | None = None
    across: tuple[Literal["dtype", "resolution", "host"], ...] = ()
    report: bool = False

    @model_validator(mode="after")
    def _asks_for_something(self) -> Rule:
        given = [name for name in (*RELATIVE, "floor", "ceiling") if getattr(self, name) is not None]
        if not given and not self.report:
            raise ValueError(f"needs a criterion ({', '.join((*RELATIVE, 'floor', 'ceiling'))}) or report")
        if self.tolerance is not None and self.tolerance_se is not None:
            raise ValueError("give tolerance in points or in standard errors, not both")
        if self.ratio is not None and self.direction == "same":
            raise ValueError("a ratio needs a direction, higher or lower")
        if self.significance is not None and self.direction == "same":
            raise ValueError("significance needs a direction, higher or lower")
        if self.against is not None and not self.is_relative:
            raise ValueError("against needs a criterion to compare by, such as ratio")
        return self

    @property
    def is_relative(self) -> bool:
        """Whether something to compare with is needed."""
        return self.report or any(getattr(self, name) is not None for name in RELATIVE)

    def covers(self, where: Where, *, any_metric: bool = False) -> bool:
        """Whether a score is this rule's business.

        Args:
            where: suite, task, metric, model.
            any_metric: whatever the metric, for an evaluation that failed before it had one.
        """
        suite, task, metric, model = where
        return (
            fnmatchcase(suite, self.suite)
            and fnmatchcase(task, self.task)
            and (any_metric or fnmatchcase(metric, self.metric))
            and fnmatchcase(model, self.model)
            and not any(fnmatchcase(task, pattern) for pattern in self.exclude)
        )

    def only_reports(self, task: str) -> bool:
        """Whether a score of a task is shown and cannot fail."""
        return self.report or (task in UNGATED and self.task != task)


class Gate(_Strict):
    """A gate's file.

    Attributes:
        version: of this schema (1).
        name: the gate's name.
        description: one sentence.
        baseline: path of the baseline, from the folder of this file; ``--baseline`` overrides it.
        require: results that must be there without a baseline.
        rules: in the order of the report.
    """

    version: Literal[1] = Field(alias="schema")
    name: Text
    description: str = ""
    baseline: Text | None = None
    require: tuple[Require, ...] = ()
    rules: tuple[Rule, ...] = Field(alias="rule", min_length=1)

    def covers(self, score: Measured) -> bool:
        """Whether a rule covers a score, or the evaluation that failed before there was one."""
        broken = score.metric == "any" and score.status == "failed"
        return any(rule.covers(score.where, any_metric=broken) for rule in self.rules)

    @model_validator(mode="after")
    def _names_are_unique(self) -> Gate:
        names = [rule.name for rule in self.rules]
        if len(set(names)) < len(names):
            raise ValueError("two rules have one name")
        return self


def available() -> dict[str, Path]:
    """Shipped gates by name."""
    return {path.stem: path for path in sorted((loader.shipped_dir() / "gates").glob("*.toml"))}


def load_gate(name_or_path: str) -> tuple[Gate, Path]:
    """A gate by shipped name or by path, and its file.

    Raises:
        UsageError: no such gate (with near matches), unreadable TOML, or keys and values that the schema does
            not know (with their places and near matches).
    """
    path = available().get(name_or_path) or Path(name_or_path).expanduser()
    if not path.is_file():
        if path.suffix == ".toml":
            raise UsageError("no such file of rules", where=str(path), remedy="Check the path.")
        raise unknown("gate", name_or_path, available())
    try:
        return Gate.model_validate(tomllib.loads(path.read_text(encoding="utf-8"))), path
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot be read ({error})", where=str(path), remedy="Check the file.") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"not valid TOML ({error})", where=str(path), remedy="Mend that line.") from error
    except ValidationError as error:
        faults = "; ".join(_explain(fault) for fault in error.errors())
        remedy = "README.md tells of every key; suites/gates/embedded.toml is an example."
        raise UsageError(f"not a valid gate: {faults}", where=str(path), remedy=remedy) from error


def _explain(fault: Any) -> str:
    place = ".".join(str(part) for part in fault["loc"]) or "file"
    if fault["type"] != "extra_forbidden":
        return f"{place}: {fault['msg']}"
    schemas: dict[str, type[BaseModel]] = {"rule": Rule, "require": Require}
    schema = schemas.get(str(fault["loc"][0]), Gate) if len(fault["loc"]) > 1 else Gate
    known = [field.alias or name for name, field in schema.model_fields.items()]
    near = difflib.get_close_matches(str(fault["loc"][-1]), known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else "known: " + ", ".join(known)
    return f"unknown key {place!r} ({hint})"
