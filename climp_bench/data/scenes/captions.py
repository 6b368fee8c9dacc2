"""What scenes are called: five short captions in a varied grammar, and one dense caption.

Every word is true of the scene. Captions draw on a stream of their own, so the grammar can never change
a picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from climp_bench.data.scenes.forms import UNTILTED
from climp_bench.data.scenes.rng import Stream
from climp_bench.data.scenes.scene import NUMBERS, SCENES_VERSION, Scene, SceneObject

_OPENINGS = ("a photo of ", "a picture of ", "a picture with ", "an image of ", "there is ", "", "", "")
_PROMPT_OPENINGS = ("a photo of", "a picture of", "an image of")
_FONT_WORDS = {
    "sans": "", "bold": "bold", "slanted": "slanted", "slab": "serif", "angular": "angular",
    "handwritten": "handwritten",
}  # fmt: skip
_WITH_TEXTURE = {
    "plain": "",
    "striped": " with stripes",
    "dotted": " with dots",
    "checkered": " with checks",
    "crosshatched": " with crosshatching",
    "shaded": " with shading",
    "rimmed": " with a rim",
}
_VOWEL_LETTERS = frozenset("AEFHILMNORSX8")


def article(words: str) -> str:
    """``words`` with "a" or "an" in front, as they are spoken."""
    first = words.split(" ", 1)[0]
    lone = len(first) == 1
    vowel = first in _VOWEL_LETTERS if lone else first[0] in "aeiou" or first.startswith("hour")
    return f"{'an' if vowel else 'a'} {words}"


def head(thing: SceneObject, *, spelt: bool) -> str:
    """The noun: "star", and "K" or, spelt, "letter K"."""
    return f"{thing.kind} {thing.name}" if spelt and thing.kind != "shape" else thing.name


def short_captions(scene: Scene) -> tuple[str, str, str, str, str]:
    """Five short captions, the same for the same scene.

    Training scenes carry some captions in the manner of class labels ("a red star", "four objects"): two of
    five for a single object, one for every other scene of several. The rest name several attributes each.
    """
    s = Stream.of("captions", SCENES_VERSION, scene.split, scene.index)
    if len(scene.objects) == 1:
        told = [form(s, scene) for form in s.sample(_SINGLE_FORMS, 3)]
        told += [_single_label(s, scene) for _ in range(2)]
    elif scene.grid != (3, 3):
        told = [_cells(s, scene) for _ in range(5)]
    else:
        told = [form(s, scene) for form in s.sample(_SEVERAL_FORMS, 5)]
        if scene.split == "train" and s.chance(0.5):
            told[0] = _several_label(s, scene)
    one, two, three, four, five = s.sample(told, 5)
    return one, two, three, four, five


def _named(s: Stream, thing: SceneObject, *, full: bool = False) -> str:
    """A noun phrase with an article, always with the colour; ``full`` adds size and texture."""
    glyph = thing.kind != "shape"
    adjectives = [thing.colour]
    suffix = ""
    if glyph:
        font = _FONT_WORDS[thing.font]
        if font and s.chance(0.4):
            adjectives.insert(s.below(2), font)
    elif thing.texture != "plain" and (full or s.chance(0.6)):
        way = s.below(3)
        if way == 2:
            suffix = _WITH_TEXTURE[thing.texture]
        else:
            adjectives.insert(way, thing.texture)
    elif thing.texture == "plain" and s.chance(0.06):
        adjectives.insert(0, "plain")
    if full or s.chance(0.3):
        adjectives.insert(0, thing.size)
    return article(" ".join((*adjectives, head(thing, spelt=s.chance(0.3))))) + suffix


def _place(s: Stream, thing: SceneObject) -> str:
    if thing.position in ("left", "right"):
        return f"{s.choice(('on', 'in', 'at'))} the {thing.position}"
    return f"{s.choice(('in', 'in', 'at'))} the {thing.position}"


def _ground(s: Stream, scene: Scene) -> str:
    """The background as a phrase: "on blue", "on a striped blue background"."""
    background = scene.background
    way = s.below(4)
    if way == 0:
        return f"on {background.colour}"
    if way == 1:
        return f"on {article(f'{background.kind} {background.colour} background')}"
    return f"{s.choice(('on', 'against'))} {article(f'{background.colour} background')}"


def _tilted(s: Stream, thing: SceneObject) -> str:
    return f", {thing.tilt}" if thing.tilt != "upright" and s.chance(0.6) else ""


# One object. Each form names at least the colour, the thing and two more attributes.


def _single_opened(s: Stream, scene: Scene) -> str:
    thing = scene.objects[0]
    return f"{s.choice(_OPENINGS)}{_named(s, thing, full=True)} {_place(s, thing)} {_ground(s, scene)}."


def _single_ground_first(s: Stream, scene: Scene) -> str:
    thing = scene.objects[0]
    return f"{_ground(s, scene)}, {_named(s, thing)} {_place(s, thing)}{_tilted(s, thing)}"


def _single_short(s: Stream, scene: Scene) -> str:
    thing = scene.objects[0]
    return f"{_named(s, thing, full=True)} {_ground(s, scene)}{_tilted(s, thing)}"


def _single_sentence(s: Stream, scene: Scene) -> str:
    thing = scene.objects[0]
    return f"{_named(s, thing, full=True)} is {_place(s, thing)} {_ground(s, scene)}."


_SINGLE_FORMS = (_single_opened, _single_ground_first, _single_short, _single_sentence)


def _single_label(s: Stream, scene: Scene) -> str:
    """A caption in the manner of a class label or a zero-shot prompt."""
    thing = scene.objects[0]
    labels = _shape_labels(s, thing) if thing.kind == "shape" else _glyph_labels(s, scene, thing)
    return s.choice(labels)


def _shape_labels(s: Stream, thing: SceneObject) -> list[str]:
    nouns = [article(words) for words in (thing.name, f"{thing.colour} {thing.name}")]
    nouns.append(article(f"{thing.texture} {thing.name}"))
    prompts = [f"{opening} {noun}." for noun in nouns for opening in _PROMPT_OPENINGS]
    some = [f"something {thing.colour}", f"something {thing.texture}"]
    where = [f"an object in the {thing.position}", f"one object {_place(s, thing)}", "one object"]
    return [*nouns, *nouns, *prompts, *some, *where]


def _glyph_labels(s: Stream, scene: Scene, thing: SceneObject) -> list[str]:
    spelt = head(thing, spelt=True)
    lone, coloured = article(thing.name), article(f"{thing.colour} {thing.name}")
    labels = [
        *(f"{opening} the {spelt}." for opening in _PROMPT_OPENINGS),
        *(f"the {spelt}", f"the {spelt}", spelt, lone, coloured, article(f"{thing.colour} {spelt}")),
        *(f"{noun} {_ground(s, scene)}" for noun in (lone, coloured)),
    ]
    if thing.font == "handwritten":
        labels += [f"a handwritten {thing.name}", f"a handwritten {spelt}"]
    if thing.kind == "digit":
        labels += [f'a photo of the number: "{thing.name}".', f"the number {thing.name}"]
    return labels


# Several objects. Each form names two or three objects with their colours.


def _counted(scene: Scene) -> str:
    return f"{NUMBERS[len(scene.objects)]} objects"


def _pick(s: Stream, scene: Scene, most: int) -> list[SceneObject]:
    return s.sample(scene.objects, min(len(scene.objects), most))


def _listed(parts: Sequence[str]) -> str:
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def _several_placed(s: Stream, scene: Scene) -> str:
    parts = [f"{_named(s, thing)} {_place(s, thing)}" for thing in _pick(s, scene, 2)]
    return f"{s.choice(_OPENINGS)}{_listed(parts)}."


def _several_related(s: Stream, scene: Scene) -> str:
    one, other = _pick(s, scene, 2)
    where = f", {_place(s, one)}" if s.chance(0.3) else ""
    return f"{_named(s, one)} {relation(s, one, other)} {_named(s, other)}{where}, {_ground(s, scene)}"


def _several_counted(s: Stream, scene: Scene) -> str:
    parts = [f"{_named(s, thing)} {_place(s, thing)}" for thing in _pick(s, scene, 2)]
    among = "" if len(parts) == len(scene.objects) else "among them "
    return f"{_counted(scene)}: {among}{_listed(parts)}"


def _several_on_ground(s: Stream, scene: Scene) -> str:
    parts = [_named(s, thing) for thing in _pick(s, scene, 3)]
    return f"{s.choice(_OPENINGS)}{_listed(parts)} {_ground(s, scene)}."


def _several_detailed(s: Stream, scene: Scene) -> str:
    one, other = _pick(s, scene, 2)
    first = f"{_place(s, one)} {_named(s, one, full=True)}{_tilted(s, one)}"
    return f"{first}, and {_named(s, other, full=True)}."


_SEVERAL_FORMS = (_several_placed, _several_related, _several_counted, _several_on_ground, _several_detailed)


def _several_label(s: Stream, scene: Scene) -> str:
    one, other = _pick(s, scene, 2)
    count, noun = _counted(scene), article(one.name)
    labels = [
        *(count, count, f"a picture with {count}.", f"there are {count}.", f"an image with {count}."),
        *(f"{noun} and {article(other.name)}", f"a photo of {noun}.", f"a picture with {noun}."),
        *(f"something {one.colour}", f"an object in the {one.position}"),
    ]
    if one.kind == "shape":
        labels.append(f"something {one.texture}")
    return s.choice(labels)


def _cells(s: Stream, scene: Scene) -> str:
    """Three cells of a fine grid, each with what it holds."""
    chosen = _pick(s, scene, 3)
    named = [article(f"{thing.colour} {thing.name}") for thing in chosen]
    if s.chance(0.5):
        told = "; ".join(f"{thing.position}: {name}" for thing, name in zip(chosen, named, strict=True))
    else:
        told = _listed([f"{name} in {thing.position}" for thing, name in zip(chosen, named, strict=True)])
    grid = f"a {NUMBERS[scene.grid[0]]} by {NUMBERS[scene.grid[1]]} grid: " if s.chance(0.4) else ""
    return grid + told


def relation(s: Stream, one: SceneObject, other: SceneObject) -> str:
    """How ``one`` lies to ``other``, along the axis on which their cells are further apart."""
    down, right = one.row - other.row, one.column - other.column
    if abs(right) > abs(down) or (abs(right) == abs(down) and s.chance(0.5)):
        side = "left" if right < 0 else "right"
        return s.choice((f"{side} of", f"to the {side} of"))
    return "above" if down < 0 else "below"


def dense_caption(scene: Scene) -> str:
    """A caption that tells the background, every object with all its attributes, and how neighbours lie.

    Objects come in reading order; relations hold between each object and the next, and between the first
    and the last.
    """
    s = Stream.of("dense", SCENES_VERSION, scene.split, scene.index)
    things = sorted(scene.objects, key=lambda thing: (thing.row, thing.column))
    background = article(f"{scene.background.kind} {scene.background.colour} background")
    count = "one object" if len(things) == 1 else f"{_number(len(things))} objects"
    there = "there are" if len(things) > 1 else "there is"
    opening = s.choice(("the picture shows", "a picture with", there))
    parts = [f"{opening} {count} on {background}."]
    parts += [_dense_sentence(s, thing, scene.grid == (3, 3)) for thing in things]
    pairs = [*pairwise(things), *([(things[0], things[-1])] if len(things) > 2 else [])]
    for one, other in pairs:
        parts.append(f"the {_short_name(one)} is {relation(s, one, other)} the {_short_name(other)}.")
    return " ".join(parts)


def _number(n: int) -> str:
    return NUMBERS[n] if n < len(NUMBERS) else str(n)


def _short_name(thing: SceneObject) -> str:
    return f"{thing.colour} {head(thing, spelt=False)}"


def _dense_sentence(s: Stream, thing: SceneObject, coarse: bool) -> str:
    style = _FONT_WORDS[thing.font] if thing.font else thing.texture
    adjectives = [word for word in (thing.size, style, thing.colour) if word]
    noun = article(" ".join((*adjectives, head(thing, spelt=True))))
    place = f"in the {thing.position}" if coarse else f"in {thing.position}"
    tilt = "" if thing.name in UNTILTED else f", {thing.tilt}"
    if s.chance(0.5):
        return f"{place} there is {noun}{tilt}."
    return f"{noun} is {place}{tilt}."
