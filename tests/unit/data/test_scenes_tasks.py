"""Every test set walks: labels in range and balanced, prompts in form, pictures that can be drawn."""

from __future__ import annotations

from collections import Counter

import pytest

from climp_bench.data.scenes import (
    COLOURS,
    RING_SHAPES,
    SHAPES,
    TASKS,
    TEXTURES,
    SceneTask,
    dense_caption,
    draw,
    held_out_pair,
    make_scene,
    short_captions,
)
from climp_bench.data.scenes.splits import SPLITS

EXPECTED_N = {
    "scenes-shape": 1000, "scenes-colour": 500, "scenes-texture": 500, "scenes-count": 500,
    "scenes-position": 500, "scenes-digit": 500, "scenes-letter": 520, "scenes-composition": 600,
    "scenes-multilabel": 500, "scenes-shape-v2": 500, "scenes-shape-r": 500, "scenes-shape-a": 500,
    "scenes-shape-o": 400, "scenes-shape-sketch": 500, "scenes-spurious": 800, "scenes-captions": 1000,
    "scenes-dense": 500, "scenes-fine": 500,
}  # fmt: skip
CLASSIFICATION = [task for task in TASKS if task.kind == "classification"]


def name_of(task: SceneTask) -> str:
    return task.name


def test_the_catalogue_is_complete() -> None:
    assert {task.name: task.n for task in TASKS} == EXPECTED_N
    assert {task.split for task in TASKS} | {"train"} == set(SPLITS.names())
    assert len({task.split for task in TASKS}) == len(TASKS)


@pytest.mark.parametrize("task", TASKS, ids=name_of)
def test_every_task_walks(task: SceneTask) -> None:
    for index in range(0, task.n, 29):
        scene = make_scene(task.split, index)
        assert draw(scene, 48, 48).std() > 2
        label = task.label(scene)
        if task.kind == "retrieval":
            assert label is None
            assert task.captions in ("short", "dense")
            assert all(short_captions(scene)) and dense_caption(scene)
        else:
            assert task.captions is None
            chosen = [i for i in (label if isinstance(label, tuple) else (label,)) if i is not None]
            assert chosen and all(isinstance(i, int) and 0 <= i < len(task.classes) for i in chosen)
            assert chosen == sorted(set(chosen))


@pytest.mark.parametrize("task", TASKS, ids=name_of)
def test_prompts_have_their_slot(task: SceneTask) -> None:
    assert task.description
    if task.kind == "retrieval":
        assert task.classes == task.templates == ()
        return
    assert 1 <= len(task.templates) <= 6
    assert len(set(task.classes)) == len(task.classes)
    prompts = {t.format(c=c) for t in task.templates for c in task.classes}
    assert len(prompts) == len(task.templates) * len(task.classes)


@pytest.mark.parametrize("task", CLASSIFICATION, ids=name_of)
def test_labels_are_balanced(task: SceneTask) -> None:
    counts = Counter(task.label(make_scene(task.split, index)) for index in range(task.n))
    assert max(counts.values()) - min(counts.values()) <= 1
    if task.name != "scenes-composition":
        assert set(counts) == set(range(len(task.classes)))


def test_labels_say_what_the_scene_holds() -> None:
    def words(name: str, index: int) -> tuple[str, object]:
        task = TASKS.get(name)
        label = task.label(make_scene(task.split, index))
        assert isinstance(label, int)
        return task.classes[label], make_scene(task.split, index)

    for index in range(60):
        name, scene = words("scenes-composition", index)
        thing = scene.objects[0]  # type: ignore[attr-defined]
        assert name == f"{thing.colour} {thing.name}"
        assert held_out_pair(thing.colour, thing.name)
        count, scene = words("scenes-count", index)
        n = len(scene.objects)  # type: ignore[attr-defined]
        assert count == ("one object", "two objects", "three objects", "four objects", "five objects",
                         "six objects", "seven objects", "eight objects")[n - 1]  # fmt: skip
        for task_name, attribute in (
            ("scenes-colour", "colour"), ("scenes-texture", "texture"), ("scenes-position", "position"),
        ):  # fmt: skip
            name, scene = words(task_name, index)
            assert name == getattr(scene.objects[0], attribute)  # type: ignore[attr-defined]
        for task_name in (
            "scenes-shape",
            "scenes-shape-o",
            "scenes-digit",
            "scenes-letter",
            "scenes-spurious",
        ):
            name, scene = words(task_name, index)
            assert name.split(" ", 1)[1] == scene.objects[0].name  # type: ignore[attr-defined]


def test_class_lists() -> None:
    assert len(SHAPES) >= 24
    assert len(TASKS.get("scenes-composition").classes) == len(COLOURS) * len(SHAPES)
    assert len(TASKS.get("scenes-shape-o").classes) == len(RING_SHAPES)
    assert TASKS.get("scenes-texture").classes == TEXTURES


def test_multilabel_names_every_shape_once() -> None:
    task = TASKS.get("scenes-multilabel")
    firsts = Counter()  # type: Counter[int]
    for index in range(task.n):
        scene = make_scene(task.split, index)
        label = task.label(scene)
        assert isinstance(label, tuple)
        assert 2 <= len(label) == len(scene.objects) <= 5
        assert {SHAPES[i] for i in label} == {thing.name for thing in scene.objects}
        firsts.update(label)
    assert set(firsts) == set(range(len(SHAPES)))


@pytest.mark.parametrize("split", [s for s in SPLITS.names() if s not in ("composition", "shape-a")])
def test_only_composition_shows_held_out_pairs(split: str) -> None:
    for index in range(200):
        for thing in make_scene(split, index).objects:
            assert thing.kind != "shape" or not held_out_pair(thing.colour, thing.name)


def test_shifted_twins_are_other_pictures() -> None:
    styles = Counter(make_scene("shape-r", index).style for index in range(500))
    assert "flat" not in styles and "outlined" not in styles and len(styles) >= 4
    for index in range(64):
        assert make_scene("shape-v2", index).objects[0].radius < 0.28
        hard = make_scene("shape-a", index)
        assert hard.behind and hard.front
        assert make_scene("shape-sketch", index).style == "sketch"


def test_groups_exist_only_where_backgrounds_mislead() -> None:
    for task in TASKS:
        grouped = task.group(make_scene(task.split, 0)) is not None
        assert grouped == (task.name == "scenes-spurious")
