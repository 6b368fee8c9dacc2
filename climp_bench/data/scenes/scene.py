"""The words of the scenes world and the scene graph: what is in a picture, before it is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from typing import Literal

from climp_bench.data.scenes.forms import RING_SHAPES, SHAPES

SCENES_VERSION: str = "1"

Kind = Literal["shape", "digit", "letter"]
Style = Literal["flat", "outlined", "watercolour", "mosaic", "stained", "neon", "sketch"]
RGB = tuple[int, int, int]

COLOUR_RGB: dict[str, RGB] = {
    "red": (218, 36, 40),
    "orange": (246, 138, 22),
    "yellow": (250, 224, 48),
    "lime": (160, 230, 40),
    "green": (28, 136, 58),
    "cyan": (60, 212, 226),
    "blue": (38, 76, 214),
    "purple": (132, 48, 178),
    "pink": (250, 150, 194),
    "brown": (122, 72, 34),
    "black": (14, 14, 16),
    "white": (248, 248, 246),
    "grey": (134, 138, 142),
}
COLOURS: tuple[str, ...] = tuple(COLOUR_RGB)
TEXTURES: tuple[str, ...] = (
    "plain", "striped", "dotted", "checkered", "crosshatched", "shaded", "rimmed",
)  # fmt: skip
BACKGROUND_KINDS: tuple[str, ...] = ("plain", "gradient", "striped", "dotted", "checkered", "mottled")
POSITIONS: tuple[str, ...] = (
    "top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right",
)  # fmt: skip
SIZES: tuple[str, ...] = ("small", "medium", "large")
DIGITS: tuple[str, ...] = tuple("0123456789")
LETTERS: tuple[str, ...] = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
FONTS: tuple[str, ...] = ("sans", "bold", "slanted", "slab", "angular", "handwritten")
NUMBERS: tuple[str, ...] = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight")

#: Training shapes with a background of their own: in "train" they stand on it in 95% of cases.
SPURIOUS_BACKGROUND: dict[str, str] = {
    "fish": "blue", "tree": "green", "mushroom": "brown", "key": "yellow",
}  # fmt: skip
#: Whose background a shape gets in the "spurious" split.
SPURIOUS_PARTNER: dict[str, str] = {
    "fish": "tree", "tree": "fish", "mushroom": "key", "key": "mushroom",
}  # fmt: skip

_TILTED_FROM_DEGREES = 10


@dataclass(frozen=True)
class SceneObject:
    """One thing in a scene.

    Attributes:
        kind: what ``name`` names: a shape, a digit or a letter.
        name: such as ``"star"``, ``"square ring"``, ``"7"``, ``"K"``.
        colour: a word of ``COLOURS``.
        texture: a word of ``TEXTURES``.
        size: a word of ``SIZES``.
        position: a word of ``POSITIONS``, or ``"row two, column three"`` in a grid finer than 3 x 3.
        row, column: the grid cell, from the top left, counted from 0.
        x, y: the centre, as fractions of the picture's width and height.
        radius: half the extent, as a fraction of the picture's shorter side.
        degrees: rotation, clockwise.
        rgb: the exact colour drawn, a shade of ``colour``.
        font: a word of ``FONTS`` for a glyph, else empty.
        stroke: half the line width of a glyph, as a fraction of the radius; 0 for a shape.
        seed: decides the texture's phase and direction, and the hand that writes.
    """

    kind: Kind
    name: str
    colour: str
    texture: str
    size: str
    position: str
    row: int
    column: int
    x: float
    y: float
    radius: float
    degrees: int
    rgb: RGB
    font: str
    stroke: float
    seed: int

    @property
    def tilt(self) -> str:
        """``"upright"``, ``"tilted to the left"`` or ``"tilted to the right"``."""
        if abs(self.degrees) < _TILTED_FROM_DEGREES:
            return "upright"
        return "tilted to the right" if self.degrees > 0 else "tilted to the left"


@dataclass(frozen=True)
class Background:
    """What lies behind the objects: ``rgb`` is a shade of ``colour``, ``rgb_other`` the pattern's second."""

    colour: str
    kind: str
    rgb: RGB
    rgb_other: RGB
    seed: int


@dataclass(frozen=True)
class Scene:
    """A picture's full description, a pure function of ``(split, index)``.

    Attributes:
        split, index: where it comes from.
        objects: what captions and labels speak of, the main object first (1 to 8; 25 to 36 in a fine grid).
        background: what lies behind.
        style: how it is drawn.
        behind, front: clutter beneath and occluders above the objects; nobody speaks of them.
        grid: rows and columns of the layout.
    """

    split: str
    index: int
    objects: tuple[SceneObject, ...]
    background: Background
    style: Style = "flat"
    behind: tuple[SceneObject, ...] = ()
    front: tuple[SceneObject, ...] = ()
    grid: tuple[int, int] = (3, 3)


@cache
def held_out_pair(colour: str, shape: str) -> bool:
    """Whether no training scene shows ``shape`` in ``colour``: a hashed tenth of all pairs."""
    digest = blake2b(f"held out:{colour}:{shape}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % 10 == 0


@cache
def distinct(one: str, other: str) -> bool:
    """Whether one colour stands out from the other, by an RGB distance weighted 2, 4, 1 as the eye does.

    The threshold refuses white on yellow, red on brown, purple on blue, and lets pink on white pass.
    """
    (r, g, b), (s, h, c) = COLOUR_RGB[one], COLOUR_RGB[other]
    return 2 * (r - s) ** 2 + 4 * (g - h) ** 2 + (b - c) ** 2 > 200**2


__all__ = [
    "BACKGROUND_KINDS", "COLOURS", "COLOUR_RGB", "DIGITS", "FONTS", "LETTERS", "NUMBERS", "POSITIONS", "RGB",
    "RING_SHAPES", "SCENES_VERSION", "SHAPES", "SIZES", "SPURIOUS_BACKGROUND", "SPURIOUS_PARTNER", "TEXTURES",
    "Background", "Kind", "Scene", "SceneObject", "Style", "distinct", "held_out_pair",
]  # fmt: skip
