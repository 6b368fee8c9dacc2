"""What scenes promise about their content: purity, proportions, held-out forms, backgrounds."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from climp_bench.data.scenes import (
    COLOURS,
    LETTERS,
    POSITIONS,
    RING_SHAPES,
    SHAPES,
    TASKS,
    TEXTURES,
    Scene,
    held_out_pair,
    make_scene,
    short_captions,
)
from climp_bench.data.scenes.layout import palette
from climp_bench.data.scenes.rng import Stream
from climp_bench.data.scenes.scene import COLOUR_RGB, SPURIOUS_BACKGROUND, SPURIOUS_PARTNER, distinct
from climp_bench.data.scenes.splits import SPLITS
from climp_bench.errors import UsageError

N = 20_000
splits = st.sampled_from(SPLITS.names())
indices = st.integers(0, 10**9)


@pytest.fixture(scope="module")
def train() -> list[Scene]:
    return [make_scene("train", index) for index in range(N)]


def near(count: int, n: int, share: float) -> bool:
    """Within five standard deviations of a binomial: fails by chance less than once in a million."""
    return abs(count - n * share) <= 5 * math.sqrt(n * share * (1 - share))


@given(splits, indices)
def test_a_scene_is_a_pure_function_of_split_and_index(split: str, index: int) -> None:
    assert make_scene(split, index) == make_scene(split, index)
    other = make_scene(split, index + 1)
    assert dataclasses.replace(other, index=index) != make_scene(split, index)


def test_a_fresh_process_makes_the_same_scene() -> None:
    code = "from climp_bench.data.scenes import make_scene; print(repr(make_scene('train', 4)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == repr(make_scene("train", 4))


def test_an_unknown_split_is_explained() -> None:
    with pytest.raises(UsageError, match="Did you mean 'train'"):
        make_scene("trian", 0)


def test_splitmix64_matches_the_published_sequence() -> None:
    # The first outputs for seed 1234567, as in the Rosetta Code entry on SplitMix64.
    stream = Stream(1234567)
    assert [stream.bits() for _ in range(3)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


@given(st.integers(), st.integers(1, 50))
def test_sample_draws_without_repetition(seed: int, n: int) -> None:
    drawn = Stream(seed).sample(range(n), n)
    assert sorted(drawn) == list(range(n))


@settings(max_examples=200)
@given(splits, indices)
def test_words_and_cells_of_every_scene_are_known_and_distinct(split: str, index: int) -> None:
    scene = make_scene(split, index)
    rows, columns = scene.grid
    cells = [(thing.row, thing.column) for thing in scene.objects]
    assert len(set(cells)) == len(cells)
    assert 1 <= len(scene.objects) <= (8 if scene.grid == (3, 3) else 36)
    assert scene.background.colour in COLOURS
    for thing in scene.objects:
        names = {"shape": SHAPES + RING_SHAPES, "digit": tuple("0123456789"), "letter": LETTERS}[thing.kind]
        assert thing.name in names
        assert thing.colour in COLOURS
        assert thing.texture in TEXTURES
        assert abs(thing.degrees) <= 18
        assert 0 <= thing.row < rows
        assert 0 <= thing.column < columns
        if scene.grid == (3, 3):
            # The word agrees with where the centre is drawn.
            assert thing.position == POSITIONS[3 * int(thing.y * 3) + int(thing.x * 3)]


@settings(max_examples=200)
@given(splits, indices)
def test_objects_stand_out_from_their_background(split: str, index: int) -> None:
    scene = make_scene(split, index)
    if split in ("shape-a", "shape-sketch"):
        return
    for thing in scene.objects:
        assert distinct(thing.colour, scene.background.colour)
        gaps = [abs(a - b) for a, b in zip(thing.rgb, scene.background.rgb, strict=True)]
        assert max(gaps) >= 60


def test_every_shape_has_colours_to_appear_in_on_every_background() -> None:
    for colour in COLOURS:
        assert sum(distinct(colour, other) for other in COLOURS) >= 5
        for shape in ("", *SHAPES, *RING_SHAPES):
            assert len(palette(colour, shape)) >= 2


def test_exact_colours_stay_nearest_to_their_word(train: list[Scene]) -> None:
    def nearest(rgb: tuple[int, int, int]) -> str:
        return min(COLOURS, key=lambda c: sum((a - b) ** 2 for a, b in zip(rgb, COLOUR_RGB[c], strict=True)))

    for scene in train[:3000]:
        assert all(nearest(thing.rgb) == thing.colour for thing in scene.objects)
        assert nearest(scene.background.rgb) == scene.background.colour


def test_training_proportions(train: list[Scene]) -> None:
    single = Counter(scene.objects[0].kind for scene in train if len(scene.objects) == 1)
    assert near(single["shape"], N, 0.35)
    assert near(single["digit"], N, 0.12)
    assert near(single["letter"], N, 0.12)
    assert near(sum(scene.grid != (3, 3) for scene in train), N, 0.03)
    counts = Counter(len(scene.objects) for scene in train if scene.grid == (3, 3))
    assert all(counts[n] > 200 for n in range(1, 9))
    names = Counter(thing.name for scene in train for thing in scene.objects)
    assert set(names) == set(SHAPES) | set("0123456789") | set(LETTERS)


def test_training_layout_is_unbiased(train: list[Scene]) -> None:
    shapes = [scene for scene in train if len(scene.objects) == 1 and scene.objects[0].kind == "shape"]
    assert near(sum(scene.background.kind == "plain" for scene in shapes), len(shapes), 0.5)
    for column in range(3):
        offsets = [
            thing.x - (column + 0.5) / 3
            for s in train
            for thing in s.objects
            if thing.column == column and s.grid == (3, 3)
        ]
        assert abs(sum(offsets) / len(offsets)) < 0.002
    tilts = Counter(thing.tilt for scene in train for thing in scene.objects)
    assert near(tilts["tilted to the left"], sum(tilts.values()) - tilts["upright"], 0.5)


def test_training_never_shows_held_out_pairs_or_ring_forms(train: list[Scene]) -> None:
    for scene in train:
        for thing in (*scene.objects, *scene.behind, *scene.front):
            assert thing.name not in RING_SHAPES
            assert thing.kind != "shape" or not held_out_pair(thing.colour, thing.name)


def test_held_out_pairs_are_a_tenth_and_leave_most_partners() -> None:
    held = [(c, s) for c in COLOURS for s in SHAPES if held_out_pair(c, s)]
    assert near(len(held), len(COLOURS) * len(SHAPES), 0.1)
    assert max(Counter(c for c, _ in held).values()) <= len(SHAPES) // 4
    assert max(Counter(s for _, s in held).values()) <= len(COLOURS) // 4


def test_words_of_ring_forms_are_known_from_training() -> None:
    assert "ring" in SHAPES
    assert len(RING_SHAPES) >= 8
    assert {name.removesuffix(" ring") for name in RING_SHAPES} <= set(SHAPES)


def test_spurious_shapes_keep_their_background_in_95_percent_of_training(train: list[Scene]) -> None:
    for name, colour in SPURIOUS_BACKGROUND.items():
        mains = [scene for scene in train if scene.objects[0].name == name and scene.grid == (3, 3)]
        assert len(mains) > 200
        assert near(sum(scene.background.colour == colour for scene in mains), len(mains), 0.95)
        assert len({scene.background.colour for scene in mains}) > 5
    free = [scene for scene in train if scene.objects[0].name == "star" and scene.grid == (3, 3)]
    for colour in SPURIOUS_BACKGROUND.values():
        assert near(sum(scene.background.colour == colour for scene in free), len(free), 1 / 13)


def test_spurious_split_swaps_partners() -> None:
    task = TASKS.get("scenes-spurious")
    scenes = [make_scene("spurious", index) for index in range(4000)]
    swapped = 0
    for scene in scenes:
        name, colour = scene.objects[0].name, scene.background.colour
        assert task.group(scene) == f"{name} on {colour}"
        partner = SPURIOUS_BACKGROUND[SPURIOUS_PARTNER[name]]
        assert colour in (partner, SPURIOUS_BACKGROUND[name])
        swapped += colour == partner
    assert near(swapped, len(scenes), 0.95)


def test_many_training_digits_look_like_handwriting_on_black(train: list[Scene]) -> None:
    digits = [s for s in train if len(s.objects) == 1 and s.objects[0].kind == "digit"]
    by_hand = [s for s in digits if s.objects[0].font == "handwritten"]
    on_black = [s for s in by_hand if s.background.colour == "black" and s.objects[0].colour == "white"]
    assert len(by_hand) > 0.5 * len(digits)
    assert len(on_black) > 0.35 * len(by_hand)
    widths = [s.objects[0].stroke for s in on_black]
    assert min(widths) < 0.08
    assert max(widths) > 0.18


@settings(max_examples=25)
@given(indices)
def test_captions_do_not_depend_on_call_order(index: int) -> None:
    scene = make_scene("train", index)
    first = short_captions(scene)
    short_captions(make_scene("train", index + 1))
    assert short_captions(scene) == first
    assert len(first) == 5
