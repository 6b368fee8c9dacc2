"""Which column of a table holds what: images, labels or captions, names."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from climp_bench.errors import DataError
from climp_bench.registry import Registry


@dataclass(frozen=True)
class Columns:
    """Where a table keeps what a data set needs; one row is one image.

    A table with ``captions`` is a retrieval set, one with ``label`` classification (an integer a row) or
    multilabel (a list of integers a row).

    Attributes:
        image: bytes of the file, a path to it, or a struct ``{bytes, path}`` as ``datasets`` writes it.
        label: class index, or class name where ``classnames.txt`` lists the classes.
        captions: one column of a text or of a list of texts, or several of one text each, in order.
        id: a name for the row, unique.
        group: subgroup for worst-group accuracy.
        language: column by which rows are chosen when one language is asked for.
    """

    image: str = "image"
    label: str | None = None
    captions: tuple[str, ...] = ()
    id: str | None = None
    group: str | None = None
    language: str | None = None

    def __post_init__(self) -> None:
        if bool(self.captions) == (self.label is not None):
            raise ValueError("either captions or a label")

    @property
    def annotations(self) -> tuple[str, ...]:
        """Every column but the image's, each once."""
        named = (self.label, *self.captions, self.id, self.group, self.language)
        return tuple(dict.fromkeys(name for name in named if name is not None))


LAYOUTS: Registry[Columns] = Registry("column layout")
"""How published copies name their columns. Sources: the cards of the repositories named beside each."""

# HuggingFaceM4/NoCaps and lmms-lab/NoCaps, split validation: ten captions an image
LAYOUTS.add("nocaps", Columns(captions=("annotations_captions",), id="image_id"))
# floschne/xm3600: a split is a language; whether the first caption counts or all is the protocol's business
LAYOUTS.add("xm3600", Columns(captions=("captions",), id="image_id"))
# google/docci and not-lain/docci, split test: one description an image
LAYOUTS.add("docci", Columns(captions=("description",), id="example_id"))
# jxie/flickr8k, split test
LAYOUTS.add("flickr8k", Columns(captions=tuple(f"caption_{k}" for k in range(5))))
LAYOUTS.add("flickr8k/list", Columns(captions=("captions",)))
# lmms-lab/flickr30k
LAYOUTS.add("flickr30k", Columns(captions=("caption",), id="filename"))
LAYOUTS.add("classification", Columns(label="label"))
# uoft-cs/cifar10
LAYOUTS.add("cifar10", Columns(image="img", label="label"))

_IMAGES = ("image", "img", "jpg", "png", "webp", "file_name", "image_path", "image_file")
_CAPTIONS = (
    "annotations_captions", "captions", "caption", "description", "sentences", "texts", "text",
)  # fmt: skip
_LABELS = ("label", "labels", "fine_label", "class", "cls")
_IDS = ("example_id", "image_id", "img_id", "filename", "file_name", "id")
_NUMBERED = re.compile(r"(captions?_)(\d+)")


def recognise(names: Sequence[str], where: str) -> Columns:
    """The columns of a table that nobody described, by their usual names.

    Args:
        names: of all columns.
        where: the table, for the error.

    Raises:
        DataError: no image column, neither or both of captions and labels; lists the columns.
    """
    image = _first(_IMAGES, names)
    captions = _captions(names)
    label = _first(_LABELS, names)
    found = f"its columns are {', '.join(names) or 'none'}"
    if image is None:
        remedy = f"Call it one of {', '.join(_IMAGES)}."
        raise DataError(f"no column of images; {found}", where=where, remedy=remedy)
    if bool(captions) == (label is not None):
        what = "both captions and labels" if captions else "no column of captions or labels"
        remedy = f"Keep one of {', '.join((*_CAPTIONS, *_LABELS))}."
        raise DataError(f"{what}; {found}", where=where, remedy=remedy)
    own = next((name for name in _IDS if name in names and name != image), None)
    group = "group" if "group" in names else None
    return Columns(image=image, label=label, captions=captions, id=own, group=group)


def _first(known: Sequence[str], names: Collection[str]) -> str | None:
    return next((name for name in known if name in names), None)


def _captions(names: Sequence[str]) -> tuple[str, ...]:
    numbered = sorted((int(m[2]), name) for name in names if (m := _NUMBERED.fullmatch(name)))
    if numbered:
        return tuple(name for _, name in numbered)
    name = _first(_CAPTIONS, names)
    return (name,) if name else ()


def check_columns(columns: Columns, names: Sequence[str], where: str) -> None:
    """Raise ``DataError`` for columns that the table lacks, with near matches."""
    missing = [name for name in (columns.image, *columns.annotations) if name not in names]
    if not missing:
        return
    near = {name: difflib.get_close_matches(name, names, n=2, cutoff=0.5) for name in missing}
    hints = [f"{name!r} may be {' or '.join(map(repr, found))}" for name, found in near.items() if found]
    hint = f"{'; '.join(hints)}. " if hints else ""
    raise DataError(
        f"no column {', '.join(map(repr, missing))}; it has {', '.join(names) or 'none'}",
        where=where,
        remedy=f"{hint}Rename the columns, or fetch the copy that the catalogue names.",
    )
