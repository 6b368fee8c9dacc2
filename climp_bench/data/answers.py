"""Answers of a language model that was asked for a caption: which are usable, and the file that keeps all."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from climp_bench.errors import DataError

Status = Literal["ok", "empty", "refused", "short", "malformed"]
_REFUSAL = re.compile(
    r"(i'?m |i am )?(very |so )?(sorry|unable|afraid)\b|as an? (ai|language|large)\b|unfortunately,? i\b"
    r"|i (cannot|can't|can not|won't|do not|don't) ",
    re.IGNORECASE,
)
_QUOTES = {'"': '"', "“": "”", "'": "'"}


@dataclass(frozen=True)
class Answer:
    """What a model said, or why that is no answer.

    Attributes:
        text: what it said; empty if nothing.
        cut: it was stopped at the longest length allowed.
        fault: why what came is no answer at all, in words.
        refused: the service refused to have it answered.
        attempts: how often it was asked before this came.
    """

    text: str
    cut: bool = False
    fault: str = ""
    refused: bool = False
    attempts: int = 1


@dataclass(frozen=True)
class Line:
    """One caption of the file: the answer and what was made of it.

    Attributes:
        image: number of the image in the source, from 0.
        caption: number of the caption of that image, from 0.
        id: what the source calls the image.
        source: the text or texts that were to be rephrased.
        text: the answer, white space and quotation marks around it removed.
        status: ``ok``, or what is wrong with it.
        reason: in words, where it is not ``ok``.
        cut: the model was stopped at the longest length allowed.
        attempts: requests it took.
    """

    image: int
    caption: int
    id: str
    source: str
    text: str
    status: Status
    reason: str = ""
    cut: bool = False
    attempts: int = 1


def judge(answer: Answer, min_words: int) -> tuple[str, Status, str]:
    """The text of an answer, whether it is a caption, and if not, why."""
    text = " ".join(answer.text.split())
    if len(text) > 1 and _QUOTES.get(text[0]) == text[-1]:
        text = text[1:-1].strip()
    if answer.fault:
        return text, "refused" if answer.refused else "malformed", answer.fault
    if not text:
        return text, "empty", "the model said nothing"
    if _REFUSAL.match(text.replace("\u2019", "'")):
        return text, "refused", "it begins as a refusal does"
    words = len(text.split())
    if words < min_words:
        return text, "short", f"{words} words, fewer than {min_words}"
    return text, "ok", ""


class Ledger:
    """A JSONL file that only grows: one ``Line`` an answer, the last one of a caption counts.

    Args:
        path: the file; made by the first line. Half a line, which a killed run left, is cut off then.

    Raises:
        DataError: a whole line is not one of ours.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: dict[tuple[int, int], Line] = {}
        self._half, self._whole = False, 0
        if not path.is_file():
            return
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        for number, raw in enumerate(whole.splitlines(), start=1):
            try:
                line = Line(**json.loads(raw))
                if line.status not in get_args(Status):
                    raise ValueError(f"status {line.status!r}")
            except (ValueError, TypeError) as error:
                remedy = "Remove that line, or start in another folder."
                where = f"{path}, line {number}"
                raise DataError(f"not a line of this file ({error})", where=where, remedy=remedy) from error
            self.lines[line.image, line.caption] = line
        self._half, self._whole = whole != content, len(whole)

    def append(self, lines: Iterable[Line]) -> None:
        """Write lines through to the disk."""
        try:
            if self._half:
                os.truncate(self.path, self._whole)
                self._half = False
            with self.path.open("a", encoding="utf-8") as file:
                for line in lines:
                    file.write(json.dumps(asdict(line), ensure_ascii=False) + "\n")
                    self.lines[line.image, line.caption] = line
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            remedy = "Free some space or choose another --out; what was written before is kept."
            raise DataError(
                f"cannot be written ({error.strerror})", where=str(self.path), remedy=remedy
            ) from error
