"""The building blocks of scenes: backgrounds, objects and where they go."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from climp_bench.data.scenes.forms import BROAD, RIMMED, UNTILTED
from climp_bench.data.scenes.rng import Stream
from climp_bench.data.scenes.scene import (
    BACKGROUND_KINDS,
    COLOUR_RGB,
    COLOURS,
    FONTS,
    NUMBERS,
    POSITIONS,
    RGB,
    SIZES,
    TEXTURES,
    Background,
    Kind,
    SceneObject,
    distinct,
    held_out_pair,
)

#: Radii behind the size words, as fractions of the shorter side; wide gaps keep the words true.
RADII: dict[str, tuple[float, float]] = {
    "small": (0.085, 0.1),
    "medium": (0.12, 0.135),
    "large": (0.155, 0.166),
}
BIG = (0.26, 0.46)

_STROKES: dict[str, tuple[float, float]] = {
    "sans": (0.09, 0.14),
    "bold": (0.19, 0.24),
    "slanted": (0.09, 0.16),
    "slab": (0.08, 0.12),
    "angular": (0.09, 0.15),
    "handwritten": (0.06, 0.2),
}
_NEUTRAL = ("black", "white", "grey")
_TEXTURED = TEXTURES[1:]


def shade(s: Stream, colour: str) -> RGB:
    """A shade of a colour word, at most 12 levels off in each channel; black, white and grey stay neutral."""
    steps = [s.between(-12, 12) for _ in range(3)]
    if colour in _NEUTRAL:
        steps = [steps[0]] * 3
    r, g, b = (min(max(level + step, 0), 255) for level, step in zip(COLOUR_RGB[colour], steps, strict=True))
    return (r, g, b)


def toward(rgb: RGB, other: RGB, percent: int) -> RGB:
    """``rgb`` moved the given share of the way to ``other``, in whole levels."""
    r, g, b = (a + (c - a) * percent // 100 for a, c in zip(rgb, other, strict=True))
    return (r, g, b)


def make_background(s: Stream, colour: str, kind: str = "") -> Background:
    """A background of ``colour``; its kind is hashed unless given, plain in half of cases."""
    if not kind:
        kind = "plain" if s.chance(0.5) else s.choice(BACKGROUND_KINDS[1:])
    rgb = shade(s, colour)
    light = 2 * rgb[0] + 5 * rgb[1] + rgb[2] > 8 * 128
    extent = 30 if kind == "gradient" else 18
    other = toward(rgb, (0, 0, 0) if light else (255, 255, 255), extent)
    return Background(colour, kind, rgb, other, s.bits())


@cache
def palette(background: str, shape: str) -> tuple[str, ...]:
    """Colours that stand out from ``background``; for a shape, only those training may show it in."""
    return tuple(c for c in COLOURS if distinct(c, background) and not (shape and held_out_pair(c, shape)))


@cache
def backdrops(colour: str) -> tuple[str, ...]:
    """Backgrounds from which ``colour`` stands out."""
    return tuple(c for c in COLOURS if distinct(c, colour))


def position_words(row: int, column: int, grid: tuple[int, int]) -> str:
    """The name of a grid cell."""
    if grid == (3, 3):
        return POSITIONS[3 * row + column]
    return f"row {NUMBERS[row + 1]}, column {NUMBERS[column + 1]}"


def make_object(
    s: Stream,
    kind: Kind,
    name: str,
    background: str,
    cell: tuple[int, int],
    *,
    colour: str = "",
    texture: str = "",
    size: str = "",
    font: str = "",
    radius: float = 0.0,
    grid: tuple[int, int] = (3, 3),
) -> SceneObject:
    """An object in a grid cell; whatever is not given is hashed.

    Args:
        s: the scene's stream.
        kind, name: what it is.
        background: colour word it must stand out from.
        cell: row and column.
        colour, texture, size, font: words to use instead of hashed ones.
        radius: instead of one from the size word's range.
        grid: rows and columns of the layout.
    """
    glyph = kind != "shape"
    size = size or s.choice(SIZES)
    colour = colour or s.choice(palette(background, "" if glyph else name))
    if not texture:
        textured = not glyph and size != "small" and name in BROAD and s.chance(0.45)
        texture = s.choice(_TEXTURED) if textured else "plain"
        texture = "plain" if texture == "rimmed" and name not in RIMMED else texture
    radius = radius or s.uniform(*RADII[size])
    degrees = 0 if name in UNTILTED else _degrees(s)
    font = (font or s.choice(FONTS)) if glyph else ""
    row, column = cell
    slack_x, slack_y = (max(0.5 / n - radius, 0.0) * 0.7 for n in (grid[1], grid[0]))
    return SceneObject(
        kind=kind,
        name=name,
        colour=colour,
        texture=texture,
        size=size,
        position=position_words(row, column, grid),
        row=row,
        column=column,
        x=(column + 0.5) / grid[1] + s.uniform(-slack_x, slack_x),
        y=(row + 0.5) / grid[0] + s.uniform(-slack_y, slack_y),
        radius=radius,
        degrees=degrees,
        rgb=shade(s, colour),
        font=font,
        stroke=s.uniform(*_STROKES[font]) if glyph else 0.0,
        seed=s.bits(),
    )


def _degrees(s: Stream) -> int:
    """Upright (within 4 degrees) in 7 of 10 cases, else tilted by 12 to 18 degrees."""
    if s.chance(0.7):
        return s.between(-4, 4)
    return s.between(12, 18) * s.choice((-1, 1))


def big_object(
    s: Stream, kind: Kind, name: str, background: str, *, colour: str = "", texture: str = "", font: str = "",
    span: tuple[float, float] = BIG,
) -> SceneObject:  # fmt: skip
    """One large object in the center, its radius uniform in ``span``."""
    return make_object(
        s, kind, name, background, (1, 1),
        colour=colour, texture=texture, font=font, size="large", radius=s.uniform(*span),
    )  # fmt: skip


def make_objects(
    s: Stream, cast: Sequence[tuple[Kind, str]], background: str, cells: Sequence[tuple[int, int]]
) -> tuple[SceneObject, ...]:
    """One object for every member of ``cast``, in the cells given."""
    return tuple(
        make_object(s, kind, name, background, cell) for (kind, name), cell in zip(cast, cells, strict=True)
    )
