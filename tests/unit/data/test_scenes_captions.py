"""Captions are true, varied and informative: read back by a parser that shares no code with the grammar."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer

from climp_bench.data.scenes import (
    COLOURS,
    LETTERS,
    POSITIONS,
    RING_SHAPES,
    SHAPES,
    TEXTURES,
    Scene,
    SceneObject,
    dense_caption,
    make_scene,
    short_captions,
)
from climp_bench.data.scenes.captions import article
from climp_bench.data.scenes.splits import SPLITS

COUNT = ("one", "two", "three", "four", "five", "six", "seven", "eight")
FONT_OF = {
    "bold": "bold",
    "slanted": "slanted",
    "serif": "slab",
    "angular": "angular",
    "handwritten": "handwritten",
}
TEXTURE_OF = {
    "with stripes": "striped", "with dots": "dotted", "with checks": "checkered", "with shading": "shaded",
    "with crosshatching": "crosshatched", "with a rim": "rimmed",
}  # fmt: skip


def any_of(words: object) -> str:
    return "|".join(sorted(map(str, words), key=len, reverse=True))  # type: ignore[call-overload]


NAMES = any_of((*RING_SHAPES, *SHAPES, *LETTERS, *"0123456789"))
PLACES = any_of(POSITIONS)
ADJECTIVES = any_of((*TEXTURES, *FONT_OF))
THING = re.compile(
    rf"\b(?:an?|the) (?:(?P<size>small|medium|large) )?(?P<adjectives>(?:(?:{ADJECTIVES}) )*)"
    rf"(?P<colour>{any_of(COLOURS)}) (?P<more>(?:(?:{ADJECTIVES}) )*)"
    rf"(?:(?:letter|digit) )?(?P<name>{NAMES})\b(?! background)(?: (?P<suffix>{any_of(TEXTURE_OF)}))?"
)
PLACED = re.compile(rf"^(?: is)? (?:in|on|at) the (?P<position>{PLACES})\b")
CELL = re.compile(r"row (\w+), column (\w+)")
GROUND = re.compile(
    rf"(?:on|against) (?:an? (?:(?P<kind>plain|gradient|striped|dotted|checkered|mottled) )?)?"
    rf"(?P<colour>{any_of(COLOURS)})(?: background|(?=[.,]|$| a))"
)
RELATED = re.compile(r"^ (?:is )?(?:to the )?(left of|right of|above|below) $")
TOKENIZER = SimpleTokenizer()


def fits(match: re.Match[str], thing: SceneObject) -> bool:
    """Whether everything a noun phrase says holds for ``thing``."""
    if (match["colour"], match["name"]) != (thing.colour, thing.name):
        return False
    if match["size"] not in (None, thing.size):
        return False
    words = f"{match['adjectives']}{match['more']}".split()
    if match["suffix"]:
        words.append(TEXTURE_OF[match["suffix"]])
    return all(
        FONT_OF.get(word) == thing.font if word in FONT_OF else word == thing.texture for word in words
    )


def check(caption: str, scene: Scene) -> int:
    """Assert that ``caption`` is true of ``scene``; return how many things it names with a colour."""
    matches = list(THING.finditer(caption))
    found = []
    for match in matches:
        candidates = [thing for thing in scene.objects if fits(match, thing)]
        placed = PLACED.match(caption, match.end()) or PLACED.match(caption[match.end() :])
        if placed:
            candidates = [thing for thing in candidates if thing.position == placed["position"]]
        assert candidates, (caption, match[0])
        found.append(candidates)
    for (one, first), (other, second) in pairwise(zip(matches, found, strict=True)):
        related = RELATED.match(caption[one.end() : other.start()])
        if related:
            assert any(holds(related[1], a, b) for a in first for b in second), caption
    for ground in GROUND.finditer(caption):
        assert ground["colour"] == scene.background.colour, caption
        assert ground["kind"] in (None, scene.background.kind), caption
    for word in re.findall(r"\b(\w+) objects?\b", caption):
        if word in COUNT:
            assert COUNT.index(word) + 1 == len(scene.objects), caption
    return len(matches)


def holds(relation: str, one: SceneObject, other: SceneObject) -> bool:
    return {
        "left of": one.x < other.x,
        "right of": one.x > other.x,
        "above": one.y < other.y,
        "below": one.y > other.y,
    }[relation]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([s for s in SPLITS.names() if s != "fine"]), st.integers(0, 10**9))
def test_every_attribute_a_short_caption_mentions_exists(split: str, index: int) -> None:
    scene = make_scene(split, index)
    if scene.grid == (3, 3):
        for caption in short_captions(scene):
            check(caption, scene)


def test_the_parser_notices_falsehoods() -> None:
    scene = next(s for i in range(100) if len((s := make_scene("captions", i)).objects) >= 3)
    thing, other = scene.objects[:2]
    truth = f"{article(f'{thing.colour} {thing.name}')} in the {thing.position}"
    assert check(truth, scene) == 1
    absent = next(p for p in POSITIONS if p != thing.position)
    wrong_relation = "left of" if thing.x >= other.x else "right of"
    lies = [
        truth.replace(thing.position, absent),
        f"a {thing.size} violet {thing.name}, {len(scene.objects)} objects, nine objects, one objects",
        f"a {thing.colour} {thing.name} {wrong_relation} a {other.colour} {other.name}",
        f"something on a {'red' if scene.background.colour != 'red' else 'lime'} background",
    ]
    for lie in lies:
        with pytest.raises(AssertionError):
            check(lie, scene)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(("train", "captions", "dense", "count", "digit")), st.integers(0, 10**9))
def test_a_dense_caption_tells_every_object_with_all_its_attributes(split: str, index: int) -> None:
    scene = make_scene(split, index)
    if scene.grid != (3, 3):
        return
    caption = dense_caption(scene)
    check(caption, scene)
    for thing in scene.objects:
        sentences = [
            sentence
            for sentence in caption.split(". ")
            for match in THING.finditer(sentence)
            if match["size"] and fits(match, thing) and f"in the {thing.position}" in sentence
        ]
        assert len(sentences) == 1, caption
        if thing.tilt != "upright":
            assert thing.tilt in sentences[0]
        if thing.kind == "shape":
            assert f" {thing.texture} " in sentences[0]
    relations = len(re.findall(r" (?:left of|right of|above|below) the ", caption))
    n = len(scene.objects)
    assert relations == (n if n > 2 else n - 1)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**9))
def test_fine_captions_name_what_their_cells_hold(index: int) -> None:
    scene = make_scene("fine", index)
    at = {thing.position: thing for thing in scene.objects}
    for caption in short_captions(scene):
        before = re.findall(rf"(row \w+, column \w+): an? ([a-z]+) ({NAMES})\b", caption)
        after = re.findall(rf"an? ([a-z]+) ({NAMES}) in (row \w+, column \w+)", caption)
        told = before + [(cell, colour, name) for colour, name, cell in after]
        assert len(told) == 3, caption
        for cell, colour, name in told:
            assert (at[cell].colour, at[cell].name) == (colour, name), caption


def expected_recall_at_5(candidates: list[int]) -> float:
    """Of a reader who keeps the images a caption is true of and guesses among them."""
    return sum(min(5, n) / n for n in candidates) / len(candidates)


def test_a_perfect_reader_retrieves_the_captions_split() -> None:
    scenes = [make_scene("captions", index) for index in range(1000)]
    holders: dict[tuple[str, str], set[int]] = defaultdict(set)
    for i, scene in enumerate(scenes):
        for thing in scene.objects:
            holders[thing.colour, thing.name].add(i)
    counts, named = [], []
    for i, scene in enumerate(scenes):
        for caption in short_captions(scene):
            named.append(check(caption, scene))
            sets = [holders[m["colour"], m["name"]] for m in THING.finditer(caption)]
            counts.append(len(set.intersection(*sets)))
            assert i in set.intersection(*sets)
    assert min(named) >= 2
    assert expected_recall_at_5(counts) > 0.97


def test_single_objects_get_two_label_like_captions_and_three_full_ones() -> None:
    scenes = [s for i in range(600) if len((s := make_scene("train", i)).objects) == 1]
    for scene in scenes:
        captions = short_captions(scene)
        full = [c for c in captions if GROUND.search(c) and THING.search(c)]
        assert len(full) >= 3, captions
    flat = Counter(c for scene in scenes for c in short_captions(scene))
    for label in ("the digit 7", "one object", "a star"):
        assert flat[label] > 0, label
    assert any(re.fullmatch(r'a photo of the number: "\d"\.', c) for c in flat)
    assert any(re.fullmatch(r"the letter [A-Z]", c) for c in flat)
    assert any(re.fullmatch(r"a photo of an? [a-z ]+\.", c) for c in flat)
    assert any(re.fullmatch(r"an object in the [a-z ]+", c) for c in flat)
    assert any(c == "something striped" for c in flat)


def test_captions_of_one_scene_differ() -> None:
    distinct_share = [len(set(short_captions(make_scene("captions", i)))) / 5 for i in range(500)]
    assert sum(distinct_share) / 500 > 0.99


def test_words_are_lower_case_save_the_names_of_letters() -> None:
    for split in ("train", "captions", "dense", "fine"):
        for index in range(200):
            scene = make_scene(split, index)
            for text in (*short_captions(scene), dense_caption(scene)):
                assert all(len(word) == 1 for word in re.findall(r"[A-Z]\w*", text)), text


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("star", "a star"), ("oval", "an oval"), ("hourglass", "an hourglass"), ("house", "a house"),
        ("orange star", "an orange star"), ("umbrella", "an umbrella"), ("A", "an A"), ("U", "a U"),
        ("8", "an 8"), ("1", "a 1"), ("X", "an X"), ("arrow", "an arrow"),
    ],
)  # fmt: skip
def test_article(words: str, expected: str) -> None:
    assert article(words) == expected


def test_dense_captions_are_long() -> None:
    lengths = [len(TOKENIZER.encode(dense_caption(make_scene("dense", i)))) for i in range(500)]
    assert 130 <= sum(lengths) / len(lengths) <= 150
    assert sum(n > 77 for n in lengths) / len(lengths) >= 0.94


@pytest.mark.parametrize("split", ["train", "captions", "fine"])
def test_short_captions_fit_the_clip_context(split: str) -> None:
    for index in range(150):
        for caption in short_captions(make_scene(split, index)):
            assert len(TOKENIZER.encode(caption)) + 2 <= 77
