"""One generic registry: named entries, no duplicates, near matches in the error."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Generic, TypeVar

from climp_bench.errors import UsageError

T = TypeVar("T")


class Registry(Generic[T]):
    """A mapping from name to entry that explains itself when a name is unknown.

    Args:
        kind: what an entry is, in the words of the error message (``"model"``, ``"dataset"``).
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def add(self, name: str, entry: T) -> T:
        """Register ``entry`` and return it. Raises ``ValueError`` if the name is taken."""
        if name in self._entries:
            raise ValueError(f"{self.kind} {name!r} is registered twice")
        self._entries[name] = entry
        return entry

    def get(self, name: str) -> T:
        """The entry called ``name``. Raises ``UsageError`` with near matches if there is none."""
        try:
            return self._entries[name]
        except KeyError:
            raise unknown(self.kind, name, self._entries) from None

    def names(self) -> tuple[str, ...]:
        """All names, in order of registration."""
        return tuple(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[T]:
        return iter(self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)


def unknown(kind: str, name: str, choices: object) -> UsageError:
    """The error for an unknown name: near matches first, else every choice."""
    known = sorted(str(c) for c in choices)  # type: ignore[attr-defined]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if near:
        remedy = "Did you mean " + " or ".join(repr(n) for n in near) + "?"
    else:
        remedy = f"Known {kind}s: " + (", ".join(known) or "none") + "."
    return UsageError(f"unknown {kind} {name!r}", remedy=remedy)
