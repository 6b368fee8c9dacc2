"""The whole paper as stages, each a command; what it would take here; and carrying it out, step by step."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from climp_bench.registry import unknown

Scale = Literal["embedded", "paper"]
State = Literal["recorded", "can run", "can run in part", "cannot run", "not built", "by hand"]
Launch = Callable[[Sequence[str], Path], int]
"""(words after ``climp-bench``, log file) -> exit code."""
PARTIAL = 3
"""Exit code of a command some of whose evaluations failed."""


@dataclass(frozen=True)
class Stage:
    """A part of the paper.

    Attributes:
        key: its name.
        paper: its tables and figures.
        title: what it is.
        twin: words of the command on embedded data, with the models at scale micro.
        full: words of the command on the paper's data, with the models at scale base.
        by_hand: what it needs that no plan can give, by scale; without an entry it runs by itself.
    """

    key: str
    paper: str
    title: str
    twin: tuple[str, ...]
    full: tuple[str, ...]
    by_hand: Mapping[Scale, str] = field(default_factory=dict)

    @property
    def names(self) -> set[str]:
        """What it may be called: its key, ``table-2``, ``figure-3``."""
        found = {self.key}
        for kind, numbers in re.findall(r"(Table|Figure)s? ([0-9]+(?:, [0-9]+)*)", self.paper):
            found |= {f"{kind.lower()}-{number}" for number in numbers.split(", ")}
        return found

    def words(self, scale: Scale) -> tuple[str, ...]:
        """The words of the command at one scale."""
        return self.twin if scale == "embedded" else self.full


_LENGTHS = tuple(word for n in (16, 32, 64, 128) for word in ("--max-tokens", str(n)))
_SMALL = ("--res", "64,96,128")
_ONE_IMAGE = "an image and a caption of yours: climp-bench similarity IMAGE CAPTION"
_TRAINING = "training data, and GPUs for days: climp-bench {} --set data.path=DIR"
STAGES = (
    Stage(
        "zeroshot", "Tables 1, 9, 10", "zero-shot", ("zeroshot",),
        ("zeroshot", "--suite", "clip-bench-31"),
    ),
    Stage("ood", "Table 2", "robustness to shifts", ("ood",), ("ood", "--suite", "imagenet-ood")),
    Stage(
        "resolution", "Table 3", "size of the input", ("resolution", *_SMALL),
        ("resolution", "--suite", "clip-bench-31", "--res", "224,320,384"),
    ),
    Stage(
        "highres", "Tables 4, 11", "retrieval at high resolution",
        ("resolution", "--suite", "highres-embedded", "--res", "64,96,128,192"),
        ("resolution", "--suite", "highres-retrieval", "--res", "224..896"),
    ),
    Stage(
        "dense", "Tables 5, 12, 13", "long captions", ("dense", *_LENGTHS),
        ("dense", "--suite", "dense-captions", *_LENGTHS),
    ),
    Stage("geometry", "Table 6", "geometry", ("geometry",), ("geometry", "nocaps")),
    Stage(
        "efficiency", "Figure 3", "efficiency", ("efficiency", *_SMALL, "--budget", "3"),
        ("efficiency", "--res", "224..896"),
    ),
    Stage(
        "scaling-model", "Table 7", "size of the image tower", ("scaling", "model"), ("scaling", "model"),
        {"paper": _TRAINING.format("scaling model --recipe climp-cc12m --scale small --scale base")},
    ),
    Stage(
        "scaling-data", "Figure 4", "number of training pairs", ("scaling", "data"), ("scaling", "data"),
        {"paper": _TRAINING.format("scaling data --recipe climp-cc12m --pairs N")},
    ),
    Stage(
        "ablation", "Table 8", "ablation of the pairs", ("ablation",), ("ablation",),
        {"paper": _TRAINING.format("ablation --recipe climp-cc12m")},
    ),
    Stage(
        "bias", "Table 14, Figure 6", "spatial bias", ("bias",), ("bias",),
        {"paper": "a folder of CIFAR-10: climp-bench bias --data DIR"},
    ),
    Stage(
        "similarity", "Figures 2, 5", "patch similarity", ("similarity",), ("similarity",),
        dict.fromkeys(("embedded", "paper"), _ONE_IMAGE),
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Look:
    """What a step would take.

    Attributes:
        evaluations: of all, ``recorded`` and ``cannot`` among them; 0 where the command keeps its own count.
        images: still to be encoded, each model and size counted.
        bytes: to fetch; ``unsized`` data sets more, of unknown size.
        seconds: roughly; None if nobody knows.
        why: what is missing, in words.
    """

    evaluations: int
    recorded: int = 0
    cannot: int = 0
    images: int = 0
    bytes: int = 0
    unsized: int = 0
    seconds: float | None = None
    why: tuple[str, ...] = ()


@dataclass(frozen=True)
class Step:
    """A stage at a scale, and what it would take here; ``look`` is None where nobody looked."""

    stage: Stage
    scale: Scale
    state: State
    look: Look | None = None

    @property
    def runs(self) -> bool:
        """Whether carrying out the plan runs it."""
        return self.state in ("can run", "can run in part")


@dataclass(frozen=True)
class Done:
    """How a step ended: ``code`` is the exit code of its command, None where it was recorded before."""

    step: Step
    code: int | None
    seconds: float = 0.0
    log: Path | None = None


def select(only: Sequence[str] | None) -> list[Stage]:
    """The stages of these names, all without; ``table-2``, ``Table 2`` and ``2`` are one name.

    Raises:
        UsageError: no stage has that name.
    """
    wanted: list[Stage] = []
    for word in only or [stage.key for stage in STAGES]:
        name = re.sub(r"[\s_]+", "-", word.strip().lower())
        name = f"table-{name}" if name.isdecimal() else name
        found = [stage for stage in STAGES if name in stage.names]
        if not found:
            raise unknown("part of the paper", word, sorted({n for stage in STAGES for n in stage.names}))
        wanted += [stage for stage in found if stage not in wanted]
    return [stage for stage in STAGES if stage in wanted]


def plan(
    stages: Sequence[Stage], scale: Scale, commands: Collection[str], look: Callable[[Stage], Look]
) -> list[Step]:
    """Every stage with its state.

    Args:
        stages: of the paper.
        scale: of models and data.
        commands: those that climp-bench has.
        look: finds out what a stage would take.
    """
    steps = []
    for stage in stages:
        if stage.words(scale)[0] not in commands:
            steps.append(Step(stage, scale, "not built"))
        elif stage.by_hand.get(scale):
            steps.append(Step(stage, scale, "by hand"))
        else:
            seen = look(stage)
            steps.append(Step(stage, scale, _state(seen), seen))
    return steps


def _state(look: Look) -> State:
    if look.evaluations and look.recorded == look.evaluations:
        return "recorded"
    if look.cannot:
        return "cannot run" if look.cannot + look.recorded == look.evaluations else "can run in part"
    return "can run"


def carry_out(
    steps: Sequence[Step],
    words: Callable[[Step], Sequence[str]],
    logs: Path,
    launch: Launch,
    tell: Callable[[Step, Done | None], None],
) -> list[Done]:
    """Run every step that can run; one that fails never stops the others.

    Args:
        steps: of the plan.
        words: the whole command of a step, without the program's name.
        logs: folder for what the commands print.
        launch: runs one.
        tell: told when a step starts (with None) and ends.
    """
    found = []
    for step in steps:
        if step.state == "recorded":
            found.append(Done(step, None))
        if not step.runs:
            continue
        tell(step, None)
        log, started = logs / f"{step.stage.key}-{step.scale}.log", time.monotonic()
        done = Done(step, launch(words(step), log), time.monotonic() - started, log)
        tell(step, done)
        found.append(done)
    return found


def exit_code(done: Sequence[Done]) -> int:
    """0 if every step that ran went well, 1 if none did, 3 between."""
    codes = [one.code for one in done]
    if all(code in (0, None) for code in codes):
        return 0
    return PARTIAL if any(code in (0, None, PARTIAL) for code in codes) else 1


def in_a_process(words: Sequence[str], log: Path) -> int:
    """Run ``climp-bench`` in a process of its own, what it prints into ``log``."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as out:
        command = [sys.executable, "-m", "climp_bench", *words]
        return subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, check=False).returncode


def last_error(log: Path) -> str:
    """The last error that a log tells, or its last line."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    told = [line for line in lines if line]
    errors = [line.removeprefix("Error: ") for line in told if line.startswith("Error: ")]
    return (errors or told or ["it said nothing"])[-1]
