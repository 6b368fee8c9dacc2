"""A results store in one zip, with a digest of every file: to hand on, to keep, to read elsewhere."""

from __future__ import annotations

import hashlib
import json
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from climp_bench import __version__
from climp_bench.errors import StoreError
from climp_bench.files import write_atomic
from climp_bench.results.schema import SCHEMA_VERSION, RunRecord
from climp_bench.results.store import OUTCOMES_SUFFIX, SUFFIX, ResultStore, outcomes_beside, read_file

MANIFEST = "bundle.json"
FORMAT = 1


@dataclass(frozen=True)
class Imported:
    """What became of the evaluations of a bundle, by file name in the store.

    Attributes:
        new: written.
        equal: there already, the same bytes.
        kept: there already with other content, which stays.
        replaced: there before with other content, which is gone.
    """

    new: tuple[str, ...] = ()
    equal: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()


def write_bundle(store: ResultStore, records: Sequence[RunRecord], path: Path) -> int:
    """Zip the files of ``store`` that hold ``records`` (whole evaluations), outcomes included.

    Returns:
        How many evaluations it holds.

    Raises:
        StoreError: a file cannot be read, or ``path`` not be written.
    """
    files = sorted({store.path_of(record) for record in records})
    files = [file for file in files if file.is_file()]
    contents: dict[str, bytes] = {}
    try:
        for file in files:
            for each in (file, outcomes_beside(file)):
                if each.is_file():
                    contents[each.relative_to(store.root).as_posix()] = each.read_bytes()
    except OSError as error:
        raise StoreError(f"cannot be read ({error.strerror})", where=str(error.filename)) from error
    manifest = {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "climp_bench": __version__,
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()},
    }

    def write(handle: IO[bytes]) -> None:
        with zipfile.ZipFile(handle, "w") as archive:
            for name, content in {MANIFEST: _json(manifest), **contents}.items():
                archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)

    write_atomic(path, write, StoreError)
    return len(files)


def read_bundle(path: Path, store: ResultStore, *, replace: bool = False) -> Imported:
    """Check a bundle whole (digests, schema of every record), then write its evaluations into ``store``.

    Args:
        replace: whether an evaluation that the store has with other content gives way.

    Raises:
        StoreError: it is no bundle, is damaged, or is of a newer schema; nothing is written then.
    """
    contents = _checked(path)
    said: dict[str, list[str]] = {"new": [], "equal": [], "kept": [], "replaced": []}
    for name in sorted(name for name in contents if name.endswith(SUFFIX)):
        target = store.root / name
        beside = outcomes_beside(Path(name)).as_posix()
        group = {n: contents[n] for n in (beside, name) if n in contents}
        state = "new"
        if target.is_file():
            equal = all(
                (store.root / n).is_file() and (store.root / n).read_bytes() == c for n, c in group.items()
            )
            state = "equal" if equal else "replaced" if replace else "kept"
        said[state].append(name)
        if state in ("new", "replaced"):
            for each, content in group.items():
                _put(store.root / each, content)
            if beside not in group:
                (store.root / beside).unlink(missing_ok=True)
    return Imported(**{state: tuple(names) for state, names in said.items()})


def _put(path: Path, content: bytes) -> None:
    write_atomic(path, lambda handle: handle.write(content), StoreError)


def _checked(path: Path) -> dict[str, bytes]:
    """Every file of a bundle by name, once digests and schemas are found to be right."""
    remedy = "Make it again with `climp-bench results export --format bundle`."
    try:
        with zipfile.ZipFile(path) as archive:
            manifest = json.loads(archive.read(MANIFEST))
            if manifest["format"] != FORMAT:
                raise ValueError(f"bundle format {manifest['format']!r}, this climp-bench reads {FORMAT}")
            digests: dict[str, str] = dict(manifest["files"])
            contents = {name: archive.read(name) for name in digests}
        for name, content in contents.items():
            if hashlib.sha256(content).hexdigest() != digests[name]:
                raise ValueError(f"{name} does not match its digest")
            if not _harmless(name):
                raise ValueError(f"{name!r} is no file name of a results store")
    except OSError as error:
        raise StoreError(f"cannot be read ({error.strerror or error})", where=str(path)) from error
    except (zipfile.BadZipFile, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"is not a whole bundle ({error})", where=str(path), remedy=remedy) from error
    with tempfile.TemporaryDirectory(prefix="climp-bench-") as folder:
        for name, content in contents.items():
            if name.endswith(SUFFIX):
                file = Path(folder) / PurePosixPath(name).name
                file.write_bytes(content)
                try:
                    read_file(file)
                except StoreError as error:
                    raise StoreError(error.what, where=f"{path}: {name}", remedy=error.remedy) from error
    return contents


def _harmless(name: str) -> bool:
    """Whether a name stays inside the store: SUITE/TASK/FILE, nothing hidden, no way up."""
    parts = PurePosixPath(name).parts
    inside = len(parts) == 3 and not any(part.startswith((".", "/")) or "\\" in part for part in parts)
    return inside and name.endswith((SUFFIX, OUTCOMES_SUFFIX))


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()
