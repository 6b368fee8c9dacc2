"""Rephrase captions with a language model: resumable, every answer kept, the usable ones made a data set.

::

    FOLDER/manifest.json     what was asked of which model, written first; another run must agree with it
    FOLDER/captions.jsonl    one line an answer, appended as it comes
    FOLDER/images/...        the images, and
    FOLDER/metadata.jsonl    a row an image whose captions are all answered: a table of images
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, Protocol

from filelock import FileLock, Timeout

from climp_bench import __version__
from climp_bench.data.answers import Answer, Ledger, Line, judge
from climp_bench.data.caption_table import Captioned
from climp_bench.data.textfiles import read_text
from climp_bench.errors import DataError, UsageError
from climp_bench.files import write_atomic, write_text
from climp_bench.registry import unknown

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MANIFEST, LINES, METADATA, IMAGES = "manifest.json", "captions.jsonl", "metadata.jsonl", "images"
_HOPELESS = 20
"""So many answers, none of them usable, end a run."""


class Rephraser(Protocol):
    """A language model."""

    @property
    def facts(self) -> dict[str, Any]:
        """Which model, and how it decodes: all that shapes its answers; plain values."""

    @property
    def batch(self) -> int:
        """Prompts that it takes at a time."""

    def answer(self, prompts: Sequence[tuple[str, str]]) -> list[Answer]:
        """One answer a prompt, which is what the system says and what the user says."""


@dataclass(frozen=True)
class Prompt:
    """What the model is asked.

    Attributes:
        name, version: of the text.
        system, user: the two messages; ``user`` has ``{caption}``, or ``{captions}`` for all of an image.
    """

    name: str
    version: int
    system: str
    user: str

    @property
    def whole_images(self) -> bool:
        """Whether one caption is made of all captions of an image."""
        return "{captions}" in self.user

    def of(self, text: str) -> tuple[str, str]:
        """Both messages for one caption, or for the captions of one image, one a line."""
        return self.system, self.user.replace("{captions}", text).replace("{caption}", text).strip()

    def facts(self) -> dict[str, Any]:
        """Name, version and the digest of the texts."""
        digest = hashlib.sha256(json.dumps([self.system, self.user]).encode()).hexdigest()
        return {"name": self.name, "version": self.version, "sha256": digest}


def read_prompt(name: str) -> Prompt:
    """A prompt that comes along (``caption``, ``image``), or of a TOML file of your own: ``FILE.toml:NAME``.

    Raises:
        UsageError: there is none of that name.
        DataError: the file cannot be read, or has no place for captions.
    """
    file, _, own = name.rpartition(":")
    path = Path(file) if file else Path(__file__).with_name("rephrase_prompts.toml")
    try:
        table = tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"not valid TOML ({error})", where=str(path)) from error
    if own not in table:
        raise unknown("prompt", own, table)
    try:
        prompt = Prompt(own, int(table[own]["version"]), str(table[own]["system"]), str(table[own]["user"]))
    except (KeyError, TypeError, ValueError) as error:
        remedy = "It needs version (a number), system and user."
        raise DataError(f"not a prompt ({error})", where=f"{path}, {own}", remedy=remedy) from error
    if ("{caption}" in prompt.user) == prompt.whole_images:
        remedy = "Write {caption}, or {captions} for all of an image, where they belong."
        raise DataError("its user text has no place for captions", where=f"{path}, {own}", remedy=remedy)
    return prompt


@dataclass(frozen=True)
class Job:
    """One caption to be made."""

    image: int
    caption: int
    id: str
    source: str


class Rephrasing:
    """The captions of a source, rephrased into a folder.

    Args:
        source: what to call the source in the manifest.
        images: its images with their captions.
        prompt: what to ask.
        facts: of the model; None leaves it open, to look and not to run.
        folder: of the results; a run that was begun there goes on if it is the same.
        min_words: shorter answers are not usable.

    Raises:
        UsageError: the folder holds captions that were made otherwise.
        DataError: what lies in it cannot be read.
    """

    def __init__(
        self,
        source: str,
        images: Sequence[Captioned],
        prompt: Prompt,
        facts: dict[str, Any] | None,
        folder: Path,
        min_words: int,
    ) -> None:
        self.images, self.prompt, self.folder, self.min_words = images, prompt, folder, min_words
        self.jobs = list(_jobs(images, prompt))
        listed = [[image.id, image.captions] for image in images]
        self.manifest = {
            "schema": 1,
            "climp_bench": __version__,
            "source": source,
            "images": len(images),
            "captions": len(self.jobs),
            "source_sha256": hashlib.sha256(json.dumps(listed).encode()).hexdigest(),
            "prompt": prompt.facts(),
            "model": facts,
            "min_words": min_words,
        }
        self._check_manifest()
        self.ledger = Ledger(folder / LINES)

    def left(self, limit: int | None = None, *, retry: bool = False) -> list[Job]:
        """The captions of the first ``limit`` that have no answer yet, or with ``retry`` no usable one."""
        known = self.ledger.lines
        return [
            job
            for job in self.jobs[:limit]
            if (line := known.get((job.image, job.caption))) is None or (retry and line.status != "ok")
        ]

    def run(self, model: Rephraser, jobs: Sequence[Job], progress: Callable[[Line], None]) -> None:
        """Ask for captions and keep every answer.

        Raises:
            DataError: none of the first answers is usable, or the model cannot be asked any more; what came
                before is kept. Or another process is at work in the folder.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.folder / ".lock", timeout=0):
                self._run(model, jobs, progress)
        except Timeout as error:
            remedy = "Wait for it, or choose another --out."
            raise DataError(
                "another process is at work here", where=str(self.folder), remedy=remedy
            ) from error

    def _run(self, model: Rephraser, jobs: Sequence[Job], progress: Callable[[Line], None]) -> None:
        write_text(self.folder / MANIFEST, json.dumps(self.manifest, indent=1) + "\n", DataError)
        seen: list[Line] = []
        for start in range(0, len(jobs), model.batch):
            batch = jobs[start : start + model.batch]
            answers = model.answer([self.prompt.of(job.source) for job in batch])
            lines = [self._line(job, answer) for job, answer in zip(batch, answers, strict=True)]
            self.ledger.append(lines)
            for line in lines:
                progress(line)
            if start < _HOPELESS:
                seen += lines
                if len(seen) >= _HOPELESS and all(line.status != "ok" for line in seen):
                    what = f"none of the first {len(seen)} answers is usable ({seen[-1].reason})"
                    remedy = f"Look at {self.folder / LINES}, then try another model or prompt."
                    raise DataError(what, where=str(self.folder), remedy=remedy)

    def write_dataset(self) -> tuple[int, int]:
        """Write images and their usable captions as a table of images; needs images in the source.

        Only images whose captions are all answered are in it, and only those with a usable one.

        Returns:
            How many images it has, and how many of those answered were left out for want of a usable caption.
        """
        wanted: dict[int, list[Line | None]] = {}
        for job in self.jobs:
            wanted.setdefault(job.image, []).append(self.ledger.lines.get((job.image, job.caption)))
        rows, lost = [], 0
        (self.folder / IMAGES).mkdir(parents=True, exist_ok=True)
        for index, lines in wanted.items():
            picture = self.images[index].picture
            if None in lines or picture is None:
                continue
            captions = [line.text for line in lines if line is not None and line.status == "ok"]
            if not captions:
                lost += 1
                continue
            stem = self.folder / IMAGES / f"{index:06d}"
            there = next(iter(sorted(stem.parent.glob(f"{stem.name}.*"))), None)
            if there is None:
                suffix, content = picture()
                there = stem.with_suffix(suffix)
                write_atomic(there, partial(_put, content), DataError)
            row = {
                "file_name": f"{IMAGES}/{there.name}",
                "image_id": self.images[index].id,
                "captions": captions,
            }
            rows.append(json.dumps(row, ensure_ascii=False))
        if rows:
            write_text(self.folder / METADATA, "\n".join(rows) + "\n", DataError)
        return len(rows), lost

    def _line(self, job: Job, answer: Answer) -> Line:
        text, status, reason = judge(answer, self.min_words)
        return Line(
            job.image, job.caption, job.id, job.source, text, status, reason, answer.cut, answer.attempts
        )

    def _check_manifest(self) -> None:
        path = self.folder / MANIFEST
        if not path.is_file():
            return
        try:
            there = json.loads(read_text(path))
            known = _flat(there)
            fixed = {name: value for name, value in _flat(self.manifest).items() if name != "climp_bench"}
            differing = [name for name, value in fixed.items() if known.get(name) != value]
        except (ValueError, AttributeError) as error:
            raise DataError(
                f"not a manifest ({error})", where=str(path), remedy="Choose another --out."
            ) from error
        if differing:
            told = ", ".join(f"{name} was {_short(known.get(name))}" for name in differing)
            raise UsageError(
                f"captions that were made otherwise are here: {told}",
                where=str(self.folder),
                remedy="Choose another --out, or repeat the command that began it.",
            )


def _flat(manifest: dict[str, Any]) -> dict[str, Any]:
    """A manifest with ``model.name`` and the like in place of what is nested; what is None left out."""
    flat: dict[str, Any] = {}
    for name, value in manifest.items():
        if isinstance(value, dict):
            flat |= {f"{name}.{inner}": one for inner, one in value.items()}
        elif value is not None:
            flat[name] = value
    return flat


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:12]}..."


def _put(content: bytes, handle: IO[bytes]) -> None:
    handle.write(content)


def _jobs(images: Sequence[Captioned], prompt: Prompt) -> Iterator[Job]:
    for index, image in enumerate(images):
        if prompt.whole_images:
            yield Job(index, 0, image.id, "\n".join(image.captions))
        else:
            for k, caption in enumerate(image.captions):
                yield Job(index, k, image.id, caption)
