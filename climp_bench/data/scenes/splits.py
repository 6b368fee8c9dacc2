"""Which scenes make up each split: ``make_scene`` and one builder a split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from climp_bench.data.scenes.forms import BROAD, RIMMED, RING_SHAPES, SHAPES
from climp_bench.data.scenes.layout import (
    backdrops,
    big_object,
    make_background,
    make_object,
    make_objects,
    palette,
    shade,
    toward,
)
from climp_bench.data.scenes.rng import Stream
from climp_bench.data.scenes.scene import (
    COLOURS,
    DIGITS,
    LETTERS,
    SCENES_VERSION,
    SPURIOUS_BACKGROUND,
    SPURIOUS_PARTNER,
    TEXTURES,
    Kind,
    Scene,
    SceneObject,
    Style,
    held_out_pair,
)
from climp_bench.registry import Registry

Builder = Callable[[str, int, Stream], Scene]

HELD_OUT_PAIRS: tuple[tuple[str, str], ...] = tuple(
    (colour, shape) for colour in COLOURS for shape in SHAPES if held_out_pair(colour, shape)
)
SPURIOUS_RATE = 0.95

_CELLS = tuple((row, column) for row in range(3) for column in range(3))
_INK_ON_PAPER = (
    ("black", "white"), ("blue", "white"), ("black", "yellow"), ("brown", "white"), ("black", "pink"),
)  # fmt: skip
_OTHER_STYLES: tuple[Style, ...] = ("watercolour", "mosaic", "stained", "neon")


def make_scene(split: str, index: int) -> Scene:
    """The scene at ``index`` of ``split``: a pure function of both.

    Args:
        split: ``"train"``, or a test set's split (``TASKS.get(name).split``).
        index: from 0 on; there is no last one.

    Raises:
        UsageError: there is no such split.
    """
    return SPLITS.get(split)(split, index, Stream.of("scenes", SCENES_VERSION, split, index))


def _cast(s: Stream, n: int) -> list[tuple[Kind, str]]:
    """``n`` different things: shapes in 70% of cases, else digits and letters."""
    cast: list[tuple[Kind, str]] = []
    while len(cast) < n:
        roll = s.unit()
        thing: tuple[Kind, str]
        if roll < 0.7:
            thing = ("shape", s.choice(SHAPES))
        elif roll < 0.83:
            thing = ("digit", s.choice(DIGITS))
        else:
            thing = ("letter", s.choice(LETTERS))
        if thing not in cast:
            cast.append(thing)
    return cast


def _train_backdrop(s: Stream, main: str) -> str:
    """A background colour as training has it: four shapes keep their own in 95% of cases."""
    own = SPURIOUS_BACKGROUND.get(main)
    if own is None:
        return s.choice(COLOURS)
    return own if s.chance(SPURIOUS_RATE) else s.choice([c for c in COLOURS if c != own])


def _train(split: str, index: int, s: Stream) -> Scene:
    roll = s.unit()
    if roll < 0.35:
        name = s.choice(SHAPES)
        scene = _one_shape(split, index, s, name, _train_backdrop(s, name))
    elif roll < 0.47:
        scene = _one_glyph(split, index, s, "digit", s.choice(DIGITS))
    elif roll < 0.59:
        scene = _one_glyph(split, index, s, "letter", s.choice(LETTERS))
    elif roll < 0.62:
        return _fine(split, index, s)
    else:
        scene = _several(split, index, s, s.between(2, 5) if s.chance(0.6) else s.between(2, 8))
    return replace(scene, style="outlined") if s.chance(0.1) else scene


def _one_shape(split: str, index: int, s: Stream, name: str, backdrop: str) -> Scene:
    """A single shape: big in the center in 70% of cases, else of any size in any cell."""
    if s.chance(0.7):
        thing = big_object(s, "shape", name, backdrop)
    else:
        thing = make_object(s, "shape", name, backdrop, s.choice(_CELLS))
    return Scene(split, index, (thing,), make_background(s, backdrop))


def _one_glyph(split: str, index: int, s: Stream, kind: Kind, name: str) -> Scene:
    """A single big digit or letter: often white on black or dark on light, half of those by hand."""
    roll = s.unit()
    plain = "plain"
    if roll < 0.4:
        colour, backdrop = "white", "black"
    elif roll < 0.6:
        colour, backdrop = s.choice(_INK_ON_PAPER)
    else:
        backdrop, plain = s.choice(COLOURS), ""
        colour = s.choice(palette(backdrop, ""))
    font = "handwritten" if s.chance(0.5) else ""
    thing = big_object(s, kind, name, backdrop, colour=colour, font=font)
    return Scene(split, index, (thing,), make_background(s, backdrop, plain))


def _several(split: str, index: int, s: Stream, n: int) -> Scene:
    cast = _cast(s, n)
    backdrop = _train_backdrop(s, cast[0][1])
    objects = make_objects(s, cast, backdrop, s.sample(_CELLS, n))
    return Scene(split, index, objects, make_background(s, backdrop))


def _shape(split: str, index: int, s: Stream) -> Scene:
    return _one_shape(split, index, s, SHAPES[index % len(SHAPES)], s.choice(COLOURS))


def _shape_v2(split: str, index: int, s: Stream) -> Scene:
    """Fresh shapes, smaller and never alone on a plain ground: other layout statistics than ``shape``."""
    name, backdrop = SHAPES[index % len(SHAPES)], s.choice(COLOURS)
    thing = big_object(s, "shape", name, backdrop, span=(0.17, 0.27))
    thing = replace(thing, x=s.uniform(0.36, 0.64), y=s.uniform(0.36, 0.64))
    kind = s.choice(("gradient", "striped", "dotted", "checkered", "mottled"))
    return Scene(split, index, (thing,), make_background(s, backdrop, kind))


def _shape_r(split: str, index: int, s: Stream) -> Scene:
    """Renditions: styles training never shows."""
    scene = _one_big(split, index, s)
    return replace(scene, style=_OTHER_STYLES[(index // len(SHAPES)) % len(_OTHER_STYLES)])


def _shape_sketch(split: str, index: int, s: Stream) -> Scene:
    return replace(_one_big(split, index, s), style="sketch")


def _one_big(split: str, index: int, s: Stream) -> Scene:
    name, backdrop = SHAPES[index % len(SHAPES)], s.choice(COLOURS)
    thing = big_object(s, "shape", name, backdrop, texture="plain")
    return Scene(split, index, (thing,), make_background(s, backdrop))


def _shape_a(split: str, index: int, s: Stream) -> Scene:
    """Adversarial: low contrast, clutter, bars across the shape, a large faint decoy behind it."""
    name, backdrop = SHAPES[index % len(SHAPES)], s.choice(COLOURS)
    thing = big_object(s, "shape", name, backdrop, texture="plain", span=(0.2, 0.34))
    background = make_background(s, backdrop)
    thing = replace(thing, rgb=toward(background.rgb, thing.rgb, s.between(52, 78)))
    decoy = big_object(s, "shape", s.choice(SHAPES), backdrop, texture="plain", span=(0.4, 0.5))
    decoy = replace(decoy, rgb=toward(background.rgb, decoy.rgb, 10))
    clutter = (_scrap(s, background.colour) for _ in range(s.between(3, 7)))
    bars = tuple(_bar(s, thing) for _ in range(s.between(1, 2)))
    return Scene(split, index, (thing,), background, behind=(decoy, *clutter), front=bars)


def _scrap(s: Stream, backdrop: str) -> SceneObject:
    """A small piece of clutter anywhere."""
    name, radius = s.choice(BROAD), s.uniform(0.03, 0.06)
    scrap = make_object(s, "shape", name, backdrop, (1, 1), radius=radius, texture="plain")
    return replace(scrap, x=s.uniform(0.0, 1.0), y=s.uniform(0.0, 1.0))


def _bar(s: Stream, thing: SceneObject) -> SceneObject:
    """A thin bar that crosses ``thing`` off its centre, in any direction."""
    off = 0.5 * thing.radius
    return replace(
        thing,
        name="bar",
        radius=s.uniform(0.35, 0.6),
        x=thing.x + s.uniform(-off, off),
        y=thing.y + s.uniform(-off, off),
        degrees=s.below(180),
        rgb=shade(s, s.choice(("black", "white", "grey"))),
    )


def _shape_o(split: str, index: int, s: Stream) -> Scene:
    backdrop = s.choice(COLOURS)
    thing = big_object(s, "shape", RING_SHAPES[index % len(RING_SHAPES)], backdrop, texture="plain")
    return Scene(split, index, (thing,), make_background(s, backdrop))


def _colour(split: str, index: int, s: Stream) -> Scene:
    colour = COLOURS[index % len(COLOURS)]
    name = s.choice([shape for shape in SHAPES if not held_out_pair(colour, shape)])
    return _coloured(split, index, s, colour, name)


def _composition(split: str, index: int, s: Stream) -> Scene:
    colour, name = HELD_OUT_PAIRS[index % len(HELD_OUT_PAIRS)]
    return _coloured(split, index, s, colour, name)


def _coloured(split: str, index: int, s: Stream, colour: str, name: str) -> Scene:
    backdrop = s.choice(backdrops(colour))
    thing = big_object(s, "shape", name, backdrop, colour=colour)
    return Scene(split, index, (thing,), make_background(s, backdrop))


def _texture(split: str, index: int, s: Stream) -> Scene:
    backdrop = s.choice(COLOURS)
    texture = TEXTURES[index % len(TEXTURES)]
    thing = big_object(s, "shape", s.choice(RIMMED), backdrop, texture=texture)
    return Scene(split, index, (thing,), make_background(s, backdrop, "plain"))


def _count(split: str, index: int, s: Stream) -> Scene:
    return _several(split, index, s, index % 8 + 1)


def _position(split: str, index: int, s: Stream) -> Scene:
    backdrop = s.choice(COLOURS)
    thing = make_object(s, "shape", s.choice(SHAPES), backdrop, _CELLS[index % len(_CELLS)])
    return Scene(split, index, (thing,), make_background(s, backdrop))


def _digit(split: str, index: int, s: Stream) -> Scene:
    return _one_glyph(split, index, s, "digit", DIGITS[index % len(DIGITS)])


def _letter(split: str, index: int, s: Stream) -> Scene:
    return _one_glyph(split, index, s, "letter", LETTERS[index % len(LETTERS)])


def _multilabel(split: str, index: int, s: Stream) -> Scene:
    first = SHAPES[index % len(SHAPES)]
    others = s.sample([name for name in SHAPES if name != first], s.between(1, 4))
    cast: list[tuple[Kind, str]] = [("shape", name) for name in (first, *others)]
    backdrop = s.choice(COLOURS)
    objects = make_objects(s, cast, backdrop, s.sample(_CELLS, len(cast)))
    return Scene(split, index, objects, make_background(s, backdrop))


def _spurious(split: str, index: int, s: Stream) -> Scene:
    """One of the four shapes, on its partner's background in 95% of cases, on its own in 5%."""
    name = tuple(SPURIOUS_BACKGROUND)[index % len(SPURIOUS_BACKGROUND)]
    owner = SPURIOUS_PARTNER[name] if s.chance(SPURIOUS_RATE) else name
    return _one_shape(split, index, s, name, SPURIOUS_BACKGROUND[owner])


def _captions(split: str, index: int, s: Stream) -> Scene:
    return _several(split, index, s, s.between(2, 5) if s.chance(0.92) else s.between(6, 8))


def _dense(split: str, index: int, s: Stream) -> Scene:
    return _several(split, index, s, s.choice((3, 3, 4, 4, 4, 4, 5, 5, 6, 7, 8)))


def _fine(split: str, index: int, s: Stream) -> Scene:
    """A grid of 5 or 6 rows and columns, full of things too small for 64 pixels."""
    grid = (s.between(5, 6), s.between(5, 6))
    backdrop = s.choice(("white", "black", "yellow", "blue", "grey"))
    objects = tuple(
        make_object(
            s, *_cast(s, 1)[0], backdrop, (row, column),
            size="small", texture="plain", font="sans", radius=s.uniform(0.03, 0.038), grid=grid,
        )
        for row in range(grid[0])
        for column in range(grid[1])
    )  # fmt: skip
    return Scene(split, index, objects, make_background(s, backdrop, "plain"), grid=grid)


SPLITS: Registry[Builder] = Registry("scenes split")
for _name, _builder in (
    ("train", _train),
    ("shape", _shape),
    ("shape-v2", _shape_v2),
    ("shape-r", _shape_r),
    ("shape-a", _shape_a),
    ("shape-o", _shape_o),
    ("shape-sketch", _shape_sketch),
    ("colour", _colour),
    ("texture", _texture),
    ("count", _count),
    ("position", _position),
    ("digit", _digit),
    ("letter", _letter),
    ("composition", _composition),
    ("multilabel", _multilabel),
    ("spurious", _spurious),
    ("captions", _captions),
    ("dense", _dense),
    ("fine", _fine),
):
    SPLITS.add(_name, _builder)
