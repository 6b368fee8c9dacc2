"""The model card that is stored beside weights: what they are, how they came about, what they score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from climp_bench.models.spec import ModelSpec

SECTIONS = ("data", "budget", "optimiser", "seed", "commit", "scores")


def render_card(spec: ModelSpec, card: Mapping[str, Any]) -> str:
    """A model card in Markdown.

    Args:
        spec: the model.
        card: facts by section. A section is a scalar, a mapping (one row a key) or a sequence of mappings
            (one row each, such as scores). Sections of ``SECTIONS`` that are missing are said to be
            "not recorded"; others follow them.
    """
    lines = [f"# {spec.name}", "", f"{spec.description}. Architecture: {spec.source or 'our own'}.", ""]
    for section in (*SECTIONS, *(key for key in card if key not in SECTIONS)):
        lines += [f"## {section.capitalize()}", "", *_body(card.get(section)), ""]
    return "\n".join(lines)


def _body(value: Any) -> list[str]:
    if value is None or (isinstance(value, Mapping | Sequence) and not value):
        return ["not recorded"]
    if isinstance(value, Mapping):
        return _table(("what", "value"), [(key, entry) for key, entry in value.items()])
    if isinstance(value, Sequence) and not isinstance(value, str):
        columns = tuple(dict.fromkeys(key for row in value for key in row))
        return _table(columns, [tuple(row.get(key, "") for key in columns) for row in value])
    return [_cell(value)]


def _table(columns: Sequence[Any], rows: Sequence[Sequence[Any]]) -> list[str]:
    head = [_row(columns), _row(["---"] * len(columns))]
    return head + [_row(row) for row in rows]


def _row(cells: Sequence[Any]) -> str:
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
