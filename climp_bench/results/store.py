"""The result store: one strict JSON file per evaluation, written whole or not at all."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import IO, Any

from pydantic import ValidationError

from climp_bench.errors import StoreError
from climp_bench.files import sha256_file, write_atomic, write_text
from climp_bench.results.schema import SCHEMA_VERSION, RunRecord, slot_key, upgrade

SUFFIX = ".results.json"
OUTCOMES_SUFFIX = ".outcomes.npz"
PICTURES_SUFFIX = ".pictures.json"
_MEANS = re.compile(r"acc[0-9]+|(image|text)_retrieval_recall@[0-9]+")


def has_outcomes(metric: str) -> bool:
    """Whether a score is a mean over samples, each right or wrong, whose outcomes are stored with it."""
    return _MEANS.fullmatch(metric) is not None


class ResultStore:
    """Records below a directory, as ``SUITE/TASK/MODEL-SLOT.results.json``.

    A file holds every metric of one evaluation: one model on one task of one suite, at one protocol,
    resolution and dtype. Evaluating the same again replaces the file, so a success replaces an old failure.
    Writers in several processes cannot corrupt a file: the last one wins. Per-sample outcomes lie beside it
    as ``MODEL-SLOT.outcomes.npz``, are written first, and are bound to the records by their digest. What only
    reports look at lies in ``MODEL-SLOT.pictures.json``, where there is any.

    Args:
        root: the directory; created by the first write.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def write(
        self, records: Iterable[RunRecord], outcomes: bytes | None = None, pictures: bytes | None = None
    ) -> list[Path]:
        """Write the records and return the files they are in. Each file appears atomically.

        Args:
            records: of any evaluations.
            outcomes: of one evaluation, as :func:`climp_bench.results.outcomes.encode` makes them; then all
                records are of that evaluation.
            pictures: of one evaluation, as :meth:`climp_bench.results.pictures.Pictures.encode` makes them.

        Raises:
            StoreError: two records claim the same score, or the file system refuses.
        """
        files: dict[Path, list[RunRecord]] = {}
        for record in records:
            files.setdefault(self.path_of(record), []).append(record)
        for group in files.values():
            twice = [metric for metric, n in Counter(r.metric for r in group).items() if n > 1]
            if twice:
                raise StoreError(
                    f"metric {twice[0]!r} occurs twice in one evaluation",
                    where=f"{group[0].model.name} on {group[0].suite}/{group[0].task}",
                    remedy="Give each score of an evaluation its own metric name.",
                )
        if (outcomes is not None or pictures is not None) and len(files) != 1:
            raise ValueError(f"outcomes or pictures of one evaluation with records of {len(files)}")
        for path, group in files.items():
            beside = {outcomes_beside(path): outcomes, pictures_beside(path): pictures}
            for place, content in beside.items():
                if content is not None:
                    write_atomic(place, partial(_put, content), StoreError)
            write_text(path, _encode(group), StoreError)
            for place, content in beside.items():
                if content is None:
                    place.unlink(missing_ok=True)
        return list(files)

    def is_whole(self, record: RunRecord) -> bool:
        """Whether the outcomes of a record that must have some are there, and are those it was made from."""
        if record.value is None or not has_outcomes(record.metric):
            return True
        path = self.outcomes_path(record)
        return path.is_file() and sha256_file(path) == record.outcomes_digest

    def outcomes_path(self, record: RunRecord) -> Path:
        """The file of the per-sample outcomes of the evaluation that ``record`` belongs to."""
        return outcomes_beside(self.path_of(record))

    def pictures_path(self, record: RunRecord) -> Path:
        """The file of the pictures of the evaluation that ``record`` belongs to."""
        return pictures_beside(self.path_of(record))

    def read(self) -> list[RunRecord]:
        """All records, in the order of their files' names; none if the directory does not exist.

        Raises:
            StoreError: a file is unreadable, corrupt, or of a newer schema; the message names it.
        """
        return [record for path in sorted(self.root.rglob("*" + SUFFIX)) for record in read_file(path)]

    def find(
        self,
        *,
        model: str | None = None,
        suite: str | None = None,
        task: str | None = None,
        metric: str | None = None,
        status: str | None = None,
        key: str | None = None,
    ) -> list[RunRecord]:
        """The records that equal every argument given; ``model`` is the model's name. Raises as ``read``."""
        return [
            r
            for r in self.read()
            if model in (None, r.model.name)
            and suite in (None, r.suite)
            and task in (None, r.task)
            and metric in (None, r.metric)
            and status in (None, r.status)
            and key in (None, r.key)
        ]

    def path_of(self, record: RunRecord) -> Path:
        """The file that holds ``record``; :func:`~climp_bench.results.schema.slot_key` keeps it unique."""
        folder = self.root / _safe(record.suite) / _safe(record.task)
        return folder / f"{_safe(record.model.name)}-{slot_key(record)[:12]}{SUFFIX}"


def outcomes_beside(path: Path) -> Path:
    """The file of outcomes that goes with a file of records."""
    return path.with_name(path.name.removesuffix(SUFFIX) + OUTCOMES_SUFFIX)


def pictures_beside(path: Path) -> Path:
    """The file of pictures that goes with a file of records."""
    return path.with_name(path.name.removesuffix(SUFFIX) + PICTURES_SUFFIX)


def read_file(path: Path) -> list[RunRecord]:
    """The records of one file. Raises ``StoreError`` as :meth:`ResultStore.read` does."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
        version = content["schema_version"]
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise StoreError(
                f"is of result schema {version}, this climp-bench reads up to {SCHEMA_VERSION}",
                where=str(path),
                remedy="Upgrade climp-bench, or read another results directory.",
            )
        if version not in range(1, SCHEMA_VERSION + 1):
            raise ValueError(f"unknown schema version {version!r}")
        return [RunRecord.model_validate(upgrade(record, version)) for record in content["records"]]
    except OSError as error:
        remedy = "Check that the file exists and that you may read it."
        raise StoreError(f"cannot be read ({error.strerror})", where=str(path), remedy=remedy) from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "record"
        raise _corrupt(path, f"{place}: {first['msg']}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise _corrupt(path, f"{type(error).__name__}: {error}") from error


def _encode(records: list[RunRecord]) -> str:
    content = {
        "schema_version": SCHEMA_VERSION,
        "records": [r.model_dump(mode="json") for r in sorted(records, key=lambda r: r.metric)],
    }
    return json.dumps(content, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"


def _put(content: bytes, handle: IO[bytes]) -> None:
    handle.write(content)


def _corrupt(path: Path, reason: str) -> StoreError:
    remedy = "Delete the file and evaluate again; climp-bench itself never leaves half a file."
    return StoreError(f"is not a valid result file ({reason})", where=str(path), remedy=remedy)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not strict JSON")


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._@+-]", "_", name).lstrip(".")[:80] or "_"
