"""Backends as a user asks for them: one name for every op, or names by op."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from climp_bench.errors import UsageError
from climp_bench.ops.dispatch import ops
from climp_bench.registry import unknown

REMEDY = "Give one name, such as torch, or names by op: ss2d=torch,selective_scan=numba."


@dataclass(frozen=True)
class WantedBackends:
    """What ``--backend`` says.

    Attributes:
        every: the backend of ops that ``by_op`` leaves out.
        by_op: backend by op.
    """

    every: str = "auto"
    by_op: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> WantedBackends:
        """``auto``, ``torch``, ``ss2d=torch,selective_scan=numba``, or ``torch,ss2d=numba``.

        Raises:
            UsageError: the text is none of these, or there is no such op. Backends are not looked up here.
        """
        every: list[str] = []
        by_op: dict[str, str] = {}
        for part in text.split(","):
            op, by_name, backend = (word.strip() for word in part.partition("="))
            if not op or (by_name and not backend) or op in by_op:
                raise UsageError(f"{text!r} is not a choice of backends", where="--backend", remedy=REMEDY)
            if not by_name:
                every.append(op)
            elif op in ops():
                by_op[op] = backend
            else:
                raise unknown("op", op, ops())
        if len(every) > 1:
            raise UsageError(f"{text!r} names two backends", where="--backend", remedy=REMEDY)
        return cls(every[0] if every else "auto", by_op)

    def of(self, own: Iterable[str]) -> dict[str, str]:
        """Backend by op, for a model that has the ops ``own``."""
        return {op: self.by_op.get(op, self.every) for op in own}

    def check_used(self, own: Iterable[str]) -> None:
        """Make sure that the choice concerns at least one of the ops that all models together have.

        Raises:
            UsageError: it says something about ops that none of the models has.
        """
        own = set(own)
        idle = sorted(set(self.by_op) - own)
        if idle:
            what = f"no model that was named has {' or '.join(idle)}"
        elif self.every != "auto" and not own:
            what = "no model that was named has a state-space operator"
        else:
            return
        raise UsageError(
            what, where="--backend", remedy="Leave it out; `climp-bench models show NAME` tells the towers."
        )
