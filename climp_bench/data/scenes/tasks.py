"""The test sets of the scenes world: what each asks, its classes, prompts and labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from climp_bench.data.scenes.captions import article
from climp_bench.data.scenes.scene import (
    COLOURS,
    DIGITS,
    LETTERS,
    NUMBERS,
    POSITIONS,
    RING_SHAPES,
    SHAPES,
    SPURIOUS_BACKGROUND,
    TEXTURES,
    Scene,
)
from climp_bench.registry import Registry
from climp_bench.specs import TaskKind

Label = int | tuple[int, ...] | None


@dataclass(frozen=True)
class SceneTask:
    """A test set.

    Attributes:
        name: such as ``"scenes-shape"``.
        kind: classification (label: a class index), multilabel (a tuple of them) or retrieval (none).
        split: for ``make_scene``.
        n: default number of images.
        classes: what labels index; empty for retrieval.
        templates: prompts with ``{c}`` for the class; empty for retrieval.
        description: one sentence.
        label: the label of a scene.
        group: the group of a scene for worst-group scores; ``None`` where there are no groups.
        captions: which captions a retrieval task pairs with its images.
    """

    name: str
    kind: TaskKind
    split: str
    n: int
    classes: tuple[str, ...]
    templates: tuple[str, ...]
    description: str
    label: Callable[[Scene], Label]
    group: Callable[[Scene], str | None]
    captions: Literal["short", "dense"] | None = None


def _no_group(scene: Scene) -> None:
    return None


def _no_label(scene: Scene) -> None:
    return None


def _on_colour(scene: Scene) -> str:
    return f"{scene.objects[0].name} on {scene.background.colour}"


def _main_name(classes: tuple[str, ...], scene: Scene) -> int:
    return classes.index(scene.objects[0].name)


def _main_attribute(classes: tuple[str, ...], attribute: str, scene: Scene) -> int:
    return classes.index(getattr(scene.objects[0], attribute))


def _main_pair(scene: Scene) -> int:
    thing = scene.objects[0]
    return COLOURS.index(thing.colour) * len(SHAPES) + SHAPES.index(thing.name)


def _object_count(scene: Scene) -> int:
    return len(scene.objects) - 1


def _shapes_present(scene: Scene) -> tuple[int, ...]:
    return tuple(sorted({SHAPES.index(thing.name) for thing in scene.objects}))


_NOUN = ("a photo of {c}.", "{c}", "a picture of {c}.", "an image of {c}.")
_SIGN = ("a photo of the {c}.", "the {c}", "a picture of the {c}.", "{c}")
_SOME = ("something {c}",)  # as training captions say it; a bare "red" is no caption
_COUNT = ("{c}", "a picture with {c}.", "a photo of {c}.", "an image with {c}.")
_WHERE = (
    "an object in the {c}",
    "a photo of an object in the {c}.",
    "one object in the {c}",
    "one object at the {c}",
)

_SHAPE_CLASSES = tuple(article(name) for name in SHAPES)
_RING_CLASSES = tuple(article(name) for name in RING_SHAPES)
_SPURIOUS = tuple(SPURIOUS_BACKGROUND)
_COUNT_CLASSES = ("one object", *(f"{word} objects" for word in NUMBERS[2:]))

TASKS: Registry[SceneTask] = Registry("scenes task")


def _classification(
    name: str, n: int, classes: tuple[str, ...], templates: tuple[str, ...], description: str,
    label: Callable[[Scene], Label], group: Callable[[Scene], str | None] = _no_group,
    kind: TaskKind = "classification",
) -> None:  # fmt: skip
    split = name.removeprefix("scenes-")
    TASKS.add(name, SceneTask(name, kind, split, n, classes, templates, description, label, group))


def _retrieval(name: str, n: int, captions: Literal["short", "dense"], description: str) -> None:
    split = name.removeprefix("scenes-")
    task = SceneTask(name, "retrieval", split, n, (), (), description, _no_label, _no_group, captions)
    TASKS.add(name, task)


_shape = partial(_main_name, SHAPES)

_classification("scenes-shape", 1000, _SHAPE_CLASSES, _NOUN, "Which shape is shown?", _shape)
_classification(
    "scenes-colour", 500, COLOURS, _SOME, "Which colour has the shape?",
    partial(_main_attribute, COLOURS, "colour"),
)  # fmt: skip
_classification(
    "scenes-texture", 500, TEXTURES, _SOME, "Which texture has the shape?",
    partial(_main_attribute, TEXTURES, "texture"),
)  # fmt: skip
_classification("scenes-count", 500, _COUNT_CLASSES, _COUNT, "How many objects are there?", _object_count)
_classification(
    "scenes-position", 500, POSITIONS, _WHERE, "Where is the object?",
    partial(_main_attribute, POSITIONS, "position"),
)  # fmt: skip
_classification(
    "scenes-digit", 500, tuple(f"digit {name}" for name in DIGITS), _SIGN, "Which digit is shown?",
    partial(_main_name, DIGITS),
)  # fmt: skip
_classification(
    "scenes-letter", 520, tuple(f"letter {name}" for name in LETTERS), _SIGN, "Which letter is shown?",
    partial(_main_name, LETTERS),
)  # fmt: skip
_classification(
    "scenes-composition", 600, tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES),
    ("a photo of a {c}.", "a {c}", "a picture of a {c}.", "an image of a {c}."),
    "Which colour and shape, among pairs that training never showed together?", _main_pair,
)  # fmt: skip
_classification(
    "scenes-multilabel", 500, _SHAPE_CLASSES, ("a picture with {c}.", *_NOUN), "Which shapes are present?",
    _shapes_present, kind="multilabel",
)  # fmt: skip
_classification(
    "scenes-shape-v2", 500, _SHAPE_CLASSES, _NOUN,
    "The shape task on a fresh sample with smaller shapes on patterns.", _shape,
)  # fmt: skip
_classification(
    "scenes-shape-r", 500, _SHAPE_CLASSES, _NOUN,
    "The shape task in watercolour, mosaic, stained glass and neon.", _shape,
)  # fmt: skip
_classification(
    "scenes-shape-a", 500, _SHAPE_CLASSES, _NOUN,
    "The shape task with low contrast, clutter, occlusion and decoys.", _shape,
)  # fmt: skip
_classification(
    "scenes-shape-o", 400, _RING_CLASSES, _NOUN,
    "Hollow outlines of known shapes, a form that training never showed.", partial(_main_name, RING_SHAPES),
)  # fmt: skip
_classification(
    "scenes-shape-sketch", 500, _SHAPE_CLASSES, _NOUN, "The shape task as black outlines on white.", _shape
)
_classification(
    "scenes-spurious", 800, tuple(article(name) for name in _SPURIOUS), _NOUN,
    "Four shapes whose training backgrounds are swapped.", partial(_main_name, _SPURIOUS), _on_colour,
)  # fmt: skip
_retrieval("scenes-captions", 1000, "short", "Scenes of several objects with five short captions each.")
_retrieval("scenes-dense", 500, "dense", "Scenes with one caption that tells all, about 140 tokens long.")
_retrieval("scenes-fine", 500, "short", "Grids of things too small for 64 pixels; captions name cells.")
