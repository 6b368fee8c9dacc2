"""Drawing: distances against brute-force geometry, sizes, aspect, antialiasing."""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from climp_bench.data.scenes import RING_SHAPES, SHAPES, draw, make_scene
from climp_bench.data.scenes.forms import BROAD, FORMS, RIMMED, UNTILTED
from climp_bench.data.scenes.glyphs import glyph_segments, stroke_distance
from climp_bench.data.scenes.scene import DIGITS, FONTS, LETTERS
from climp_bench.data.scenes.sdf import box, disc, polygon, turned
from climp_bench.data.scenes.splits import SPLITS
from climp_bench.errors import UsageError

AXIS = np.linspace(-1.3, 1.3, 53, dtype=np.float32)
X, Y = np.meshgrid(AXIS, AXIS)
FLAT = tuple(name for name in SPLITS.names() if name not in ("shape-r", "fine"))


def to_segment(px: float, py: float, ax: float, ay: float, bx: float, by: float) -> float:
    """Distance from a point to a segment by a ternary search along it: slow, and nobody's formula."""
    low, high = 0.0, 1.0

    def at(t: float) -> float:
        return math.hypot(px - ax - t * (bx - ax), py - ay - t * (by - ay))

    for _ in range(60):
        a, b = low + (high - low) / 3, high - (high - low) / 3
        low, high = (low, b) if at(a) < at(b) else (a, high)
    return at(low)


def winding(px: float, py: float, points: list[tuple[float, float]]) -> bool:
    """Point in polygon by the sum of the angles its edges subtend."""
    angles = [math.atan2(y - py, x - px) for x, y in points]
    turns = [(b - a + math.pi) % (2 * math.pi) - math.pi for a, b in pairwise([*angles, angles[0]])]
    return abs(sum(turns)) > math.pi


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(0.2, 1.0), min_size=3, max_size=12),
    st.floats(-1.2, 1.2),
    st.floats(-1.2, 1.2),
)
def test_polygon_distance_matches_brute_force(radii: list[float], px: float, py: float) -> None:
    n = len(radii)
    points = [(r * math.cos(6.283 * i / n), r * math.sin(6.283 * i / n)) for i, r in enumerate(radii)]
    expected = min(to_segment(px, py, *a, *b) for a, b in zip(points, points[1:] + points[:1], strict=True))
    got = polygon(*points)(np.array([[px]], np.float32), np.array([[py]], np.float32)).item()
    assert abs(got) == pytest.approx(expected, abs=1e-4)
    if expected > 1e-3:
        assert (got < 0) == winding(px, py, points)


def test_box_equals_its_polygon() -> None:
    expected = polygon((-0.7, -0.3), (0.9, -0.3), (0.9, 0.5), (-0.7, 0.5))(X, Y)
    np.testing.assert_allclose(box(-0.7, -0.3, 0.9, 0.5)(X, Y), expected, atol=1e-5)


def test_turning_is_clockwise() -> None:
    # A disc to the right of the origin, turned by 90 degrees clockwise, lies below it (y points down).
    form = turned(disc(0.5, 0, 0.2), 90)
    assert form(np.zeros((1, 1), np.float32), np.full((1, 1), 0.5, np.float32)).item() < 0
    assert form(np.zeros((1, 1), np.float32), np.full((1, 1), -0.5, np.float32)).item() > 0


@pytest.mark.parametrize("name", FORMS)
def test_forms_are_float32_stay_in_their_box_and_measure_distance(name: str) -> None:
    distance = FORMS[name](X, Y)
    assert distance.dtype == np.float32
    inside = distance < 0
    assert 0.02 < inside[(np.abs(X) <= 1) & (np.abs(Y) <= 1)].mean() < 0.95
    assert not inside[(np.abs(X) > 1.01) | (np.abs(Y) > 1.01)].any()
    # Near the outline a signed distance changes no faster than position does.
    step = float(AXIS[1] - AXIS[0])
    assert np.abs(np.diff(distance, axis=0))[np.abs(distance[1:]) < 0.15].max() <= 1.2 * step


@pytest.mark.parametrize("name", RING_SHAPES)
def test_ring_forms_are_their_shape_with_a_hole(name: str) -> None:
    ring, solid = FORMS[name](X, Y) < 0, FORMS[name.removesuffix(" ring")](X, Y) < 0
    assert not (ring & ~solid).any()
    assert (solid & ~ring).sum() > 0.12 * solid.sum()
    assert ring.sum() > 0.2 * solid.sum()


def test_shapes_differ_from_each_other() -> None:
    masks = {name: FORMS[name](X, Y) < 0 for name in (*SHAPES, *RING_SHAPES)}
    names = list(masks)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            union = (masks[one] | masks[other]).sum()
            assert (masks[one] & masks[other]).sum() / union < 0.9, (one, other)


def test_lists_of_shapes_name_shapes() -> None:
    assert set(BROAD) <= set(SHAPES)
    assert set(RIMMED) <= set(BROAD)
    assert set(FORMS) >= UNTILTED


@pytest.mark.parametrize("font", FONTS)
@pytest.mark.parametrize("char", DIGITS + LETTERS)
def test_glyphs_fit_and_differ_by_seed_only_in_handwriting(char: str, font: str) -> None:
    one, other = glyph_segments(char, font, 1), glyph_segments(char, font, 2)
    assert one.dtype == np.float32
    assert np.abs(one).max() <= 1.35
    assert np.ptp(one[:, [1, 3]]) > 1.2
    assert (one.shape == other.shape and bool((one == other).all())) == (font != "handwritten")


def test_printed_characters_differ_from_each_other() -> None:
    axis = np.arange(40, dtype=np.float32)
    masks = {}
    for char in DIGITS + LETTERS:
        segments = glyph_segments(char, "sans", 0) * 18 + 20
        masks[char] = stroke_distance(segments.astype(np.float32), axis, axis, 5.0) < 2.5
    names = list(masks)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            overlap = (masks[one] & masks[other]).sum() / (masks[one] | masks[other]).sum()
            assert overlap < 0.87, (one, other)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**64 - 1), st.sampled_from(DIGITS + LETTERS))
def test_stroke_distance_matches_points_strewn_along_the_strokes(seed: int, char: str) -> None:
    segments = (glyph_segments(char, "handwritten", seed) * 14 + 16).astype(np.float32)
    axis = np.arange(32, dtype=np.float32) + np.float32(0.5)
    reach = 4.0
    expected = np.full((32, 32), reach)
    for x0, y0, x1, y1 in segments.tolist():
        for t in np.linspace(0, 1, 150).tolist():
            along = np.hypot(axis - (x0 + t * (x1 - x0)), axis[:, None] - (y0 + t * (y1 - y0)))
            expected = np.minimum(expected, along)
    np.testing.assert_allclose(stroke_distance(segments, axis, axis, reach), expected, atol=0.12)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(SPLITS.names()), st.integers(0, 10**6), st.integers(32, 200), st.integers(32, 200))
def test_any_size_is_drawn_and_drawn_the_same_again(split: str, index: int, height: int, width: int) -> None:
    scene = make_scene(split, index)
    picture = draw(scene, height, width)
    assert picture.shape == (height, width, 3)
    assert picture.dtype == np.uint8
    assert picture.flags.c_contiguous
    np.testing.assert_array_equal(picture, draw(scene, height, width))


@pytest.mark.parametrize("size", [(1024, 1024), (1024, 32), (32, 1024)])
def test_extreme_sizes(size: tuple[int, int]) -> None:
    assert draw(make_scene("captions", 3), *size).shape == (*size, 3)


@pytest.mark.parametrize("size", [(31, 64), (64, 1025)])
def test_sizes_out_of_range_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match="32 to 1024"):
        draw(make_scene("train", 0), *size)


@pytest.mark.parametrize("split", FLAT)
def test_drawing_at_twice_the_size_and_averaging_is_close(split: str) -> None:
    for index in range(6):
        scene = make_scene(split, index)
        small = draw(scene, 128, 96).astype(float)
        averaged = draw(scene, 256, 192).astype(float).reshape(128, 2, 96, 2, 3).mean((1, 3))
        assert np.abs(small - averaged).mean() < 2.5, (split, index)


@given(st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_objects_keep_their_aspect_in_pictures_that_are_not_square(index: int) -> None:
    # A circle's pixels, found by its colour, are as wide as high however wide the picture.
    scene = make_scene("shape", index - index % len(SHAPES) + SHAPES.index("circle"))
    thing = dataclasses.replace(scene.objects[0], texture="plain", x=0.5, y=0.5, radius=0.3)
    scene = dataclasses.replace(scene, objects=(thing,))
    for height, width in ((96, 192), (192, 96), (96, 96)):
        gaps = np.abs(draw(scene, height, width).astype(int) - np.array(thing.rgb))
        found = np.max(gaps, axis=-1) <= 1
        rows, columns = np.flatnonzero(np.any(found, axis=1)), np.flatnonzero(np.any(found, axis=0))
        assert abs(np.ptp(rows) - np.ptp(columns)) <= 1
        assert np.ptp(rows) == pytest.approx(2 * 0.92 * thing.radius * 96, abs=4)


def test_work_in_bands_leaves_no_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    scenes = [make_scene(split, 70) for split in ("train", "shape-a", "digit", "shape-v2")]
    scenes += [make_scene("shape-r", index) for index in (0, 64, 96)]
    whole = [draw(scene, 120, 90) for scene in scenes]
    monkeypatch.setattr("climp_bench.data.scenes.render._BAND_PIXELS", 700)
    for scene, picture in zip(scenes, whole, strict=True):
        np.testing.assert_array_equal(draw(scene, 120, 90), picture)


def test_fine_scenes_hold_more_at_256_than_at_64() -> None:
    # Two grids that differ in one character differ clearly at 256 pixels and hardly at 64.
    scene = make_scene("fine", 0)
    at = next(i for i, thing in enumerate(scene.objects) if thing.kind != "shape")
    changed = dataclasses.replace(scene.objects[at], kind="letter", name="B")
    other_name = dataclasses.replace(changed, kind="digit", name="8")
    things = list(scene.objects)

    def largest_patch_gap(size: int) -> float:
        pair = []
        for thing in (changed, other_name):
            things[at] = thing
            pair.append(draw(dataclasses.replace(scene, objects=tuple(things)), size, size).astype(int))
        return float((np.abs(pair[0] - pair[1]).max(-1) > 100).sum())

    assert largest_patch_gap(64) <= 2
    assert largest_patch_gap(256) >= 8


def test_sketches_are_black_on_white() -> None:
    for index in range(len(SHAPES)):
        picture = draw(make_scene("shape-sketch", index), 128, 128).astype(int)
        assert np.ptp(picture, axis=-1).max() <= 4
        assert (picture.min(-1) > 240).mean() > 0.6
        assert (picture.max(-1) < 40).sum() > 60
