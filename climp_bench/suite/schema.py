"""The schema of a suite file. Unknown keys are errors."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from climp_bench.specs import TaskKind
from climp_bench.suite.protocols import PROTOCOLS as PROTOCOLS
from climp_bench.suite.protocols import Captions, Protocol

SCHEMA_VERSION = 1
Name = Annotated[str, Field(min_length=1)]
FileName = Annotated[str, Field(pattern=r"^[^./\\\x00-\x1f][^/\\\x00-\x1f]*$")]
"""Reports are files named after their suite: no folders, no leading dot."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TaskDef(_Strict):
    """One measurement: a data set, how it is scored, and what is expected of it.

    Attributes:
        dataset: a catalogue name, or the name of a folder under ``--data-root``.
        id: name in tables; the data set's name unless given.
        kind: ``classification``, ``multilabel`` or ``retrieval``; the data set's own kind unless given.
        n: number of images that must be there; a different count fails the task.
        ks: cut-offs of recall@k (retrieval).
        templates: prompt templates with ``{c}`` for the class name; the data set's own unless given.
        captions: ``all`` of an image, or the ``first`` only (retrieval); as the protocol says unless given.
        chance: score of a guess, shown beside the result (classification: 1 / classes unless given).
        shifted_from: the task of this suite that shows the same classes in distribution; ``ood`` reports how
            far accuracy drops from it, on the classes that this set has.
        ood_reference: the task of this suite whose classes this set's images do **not** show; ``ood`` reports
            how well they are told from its images.
        ood_classes: classes and images of the reference that take part: ``all``, or those ``shared`` by name
            with this set's own classes (ImageNet-O, whose 200 labels are the classes it is confused with).
    """

    dataset: Name
    id: Name | None = None
    kind: TaskKind | None = None
    n: Annotated[int, Field(gt=0)] | None = None
    ks: tuple[Annotated[int, Field(gt=0)], ...] = (1, 5, 10)
    templates: tuple[str, ...] | None = None
    captions: Captions | None = None
    chance: Annotated[float, Field(ge=0, le=1)] | None = None
    shifted_from: Name | None = None
    ood_reference: Name | None = None
    ood_classes: Literal["all", "shared"] = "all"

    @property
    def name(self) -> str:
        """The task's name in tables and records."""
        return self.id or self.dataset

    @model_validator(mode="after")
    def _templates_take_a_class(self) -> TaskDef:
        for template in self.templates or ():
            if "{c}" not in template:
                raise ValueError(f"template {template!r} has no {{c}} for the class name")
        return self


class Suite(_Strict):
    """A named list of tasks under one protocol.

    Attributes:
        version: version of this schema (1).
        name: the suite's name; its reports are files of that name.
        description: one sentence for ``suites list``.
        protocol: how scores are made, as ``climp_bench.suite.protocols`` describes.
        source: where the list comes from (a paper's table, say).
        twin: the suite that stands in for this one on embedded data, for a machine without its data sets.
        tasks: in the order of the report.
    """

    version: Literal[1] = Field(alias="schema")
    name: FileName
    description: str = ""
    protocol: Protocol = "corrected"
    source: str = ""
    twin: FileName | None = None
    tasks: tuple[TaskDef, ...] = Field(alias="task", min_length=1)

    @model_validator(mode="after")
    def _references_are_tasks(self) -> Suite:
        names = [task.name for task in self.tasks]
        for task in self.tasks:
            if task.shifted_from and task.ood_reference:
                raise ValueError(f"{task.name!r} is either shifted_from a task or out of distribution to it")
            if task.ood_classes != "all" and not task.ood_reference:
                raise ValueError(f"{task.name!r} has ood_classes but no ood_reference")
            for key in ("shifted_from", "ood_reference"):
                name = getattr(task, key)
                if name is not None and (name == task.name or name not in names):
                    raise ValueError(f"{key} of {task.name!r} is {name!r}, which is no other task here")
        return self

    @model_validator(mode="after")
    def _names_are_unique(self) -> Suite:
        seen: set[str] = set()
        for task in self.tasks:
            if task.name in seen:
                raise ValueError(f"two tasks are called {task.name!r}; give one of them an id")
            seen.add(task.name)
        return self
