"""The errors climp-bench raises on purpose: each says what went wrong, where, and what to do.

A ``ClimpError`` is for the user; anything else that reaches the command line is a defect of ours.
"""

from __future__ import annotations


class ClimpError(Exception):
    """A failure explained to the user.

    Args:
        what: what is wrong, one sentence without a trailing full stop.
        where: the item it concerns (a file, a member of a tar, a suite key, a model).
        remedy: what the user can do about it.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        self.what, self.where, self.remedy = what, where, remedy
        super().__init__(what, where, remedy)

    def __reduce__(self) -> tuple[object, tuple[type[ClimpError], str, str, str]]:
        return _rebuild, (type(self), self.what, self.where, self.remedy)

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}. {self.remedy}" if self.remedy else text


def _rebuild(kind: type[ClimpError], what: str, where: str, remedy: str) -> ClimpError:
    """Errors cross process boundaries: a decoding worker's failure reaches the user whole."""
    return kind(what, where=where, remedy=remedy)


class UsageError(ClimpError):
    """The command line, a suite file or an argument asks for something that does not exist."""

    exit_code = 2


class DataError(ClimpError):
    """A data set, shard, image, caption or label is missing, corrupt or not what it claims to be."""


class WeightsError(ClimpError):
    """A checkpoint is missing, corrupt, of another model, or not the one its digest names."""


class CacheError(ClimpError):
    """The embedding cache cannot be read or written."""


class BackendError(ClimpError):
    """A requested compute backend cannot run here."""


class StoreError(ClimpError):
    """Results cannot be read or written."""


class MetricError(ClimpError):
    """The inputs of a metric lie outside its domain (empty, NaN, misshapen)."""


class TrainingError(ClimpError):
    """Training cannot start or go on."""


class RankError(ClimpError):
    """Another process of the same run (``torchrun``) is lost; nothing can be finished without it."""
