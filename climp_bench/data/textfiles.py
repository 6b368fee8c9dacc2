"""Small text files beside the images: class names, prompt templates, counts."""

from __future__ import annotations

from pathlib import Path

from climp_bench.errors import DataError

CLASSNAMES = "classnames.txt"
TEMPLATES = ("zeroshot_classification_templates.txt", "templates.txt")


def read_text(path: Path) -> str:
    """A UTF-8 file. Raises ``DataError`` if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read ({error})", where=str(path), remedy="Save it as UTF-8.") from error


def read_lines(path: Path) -> tuple[str, ...]:
    """The lines of a file, stripped; blank ones count (CLEVR-distance has a class without a name)."""
    text = read_text(path)
    return tuple(line.strip() for line in (text.removesuffix("\n").split("\n") if text else []))


def read_classnames(folder: Path) -> tuple[str, ...] | None:
    """``classnames.txt`` of a folder, one class a line, or None if there is none."""
    path = folder / CLASSNAMES
    return read_lines(path) if path.is_file() else None


def read_templates(folder: Path) -> tuple[str, ...]:
    """Prompt templates of a folder, one a line; nothing if there are none."""
    return next((read_lines(folder / name) for name in TEMPLATES if (folder / name).is_file()), ())
