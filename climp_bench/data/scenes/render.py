"""Draws a scene at any size, natively: every pixel's coverage comes from a signed distance.

Pixels see only float32 elementwise + - * / sqrt min max abs floor and comparisons (see ``sdf``), and work is
cut into bands of rows that do not touch each other, so the bytes are the same on every machine.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from climp_bench.data.scenes.forms import FORMS
from climp_bench.data.scenes.glyphs import glyph_segments, stroke_distance
from climp_bench.data.scenes.scene import RGB, Scene, SceneObject, Style
from climp_bench.data.scenes.sdf import COS, F32, SIN, clip01, cover
from climp_bench.data.scenes.textures import background_mask, object_mask
from climp_bench.errors import UsageError

MIN_SIDE, MAX_SIDE = 32, 1024

_BAND_PIXELS = 1 << 16
_MOSAIC_TILES = 30
_INK: RGB = (18, 18, 20)
_PAPER: RGB = (250, 250, 248)


def draw(scene: Scene, height: int, width: int) -> npt.NDArray[np.uint8]:
    """The picture of ``scene``, drawn natively and antialiased.

    Args:
        scene: what to draw.
        height, width: of the picture in pixels, each from 32 to 1024; objects keep their own aspect.

    Returns:
        (height, width, 3) uint8 RGB, the same bytes on every machine.

    Raises:
        UsageError: a side is out of range.
    """
    for side in (height, width):
        if not MIN_SIDE <= side <= MAX_SIDE:
            raise UsageError(
                f"a side of {side} pixels cannot be drawn",
                where=f"scene {scene.split}/{scene.index}",
                remedy=f"Ask for {MIN_SIDE} to {MAX_SIDE} pixels a side.",
            )
    if scene.style == "mosaic":
        return _mosaic(scene, height, width)
    return _to_bytes(_paint(scene, height, width))


def _to_bytes(canvas: F32) -> npt.NDArray[np.uint8]:
    """(3, H, W) in [0, 255] to (H, W, 3) bytes, rounded half up."""
    whole = np.floor(canvas + 0.5).astype(np.uint8)
    return np.ascontiguousarray(whole.transpose(1, 2, 0))


def _mosaic(scene: Scene, height: int, width: int) -> npt.NDArray[np.uint8]:
    """Square tiles of one colour each, about thirty along the shorter side."""
    tile = min(height, width) / _MOSAIC_TILES
    rows, columns = int(height / tile + 0.5), int(width / tile + 0.5)
    tiles = _to_bytes(_paint(scene, rows, columns))
    picture = tiles[np.arange(height) * rows // height][:, np.arange(width) * columns // width]
    return np.ascontiguousarray(picture)


def _paint(scene: Scene, height: int, width: int) -> F32:
    canvas = np.empty((3, height, width), dtype=np.float32)
    _paint_background(canvas, scene)
    for thing in (*scene.behind, *scene.objects, *scene.front):
        _paint_object(canvas, thing, scene.style)
    if scene.style == "stained":
        _lead(canvas, scene.background.seed)
    return canvas


def _column(rgb: RGB) -> F32:
    return np.array(rgb, dtype=np.float32)[:, None, None]


def _bands(top: int, bottom: int, width: int) -> list[tuple[int, int]]:
    """Row ranges of at most ``_BAND_PIXELS`` pixels that cover [top, bottom)."""
    rows = max(_BAND_PIXELS // max(width, 1), 1)
    return [(start, min(start + rows, bottom)) for start in range(top, bottom, rows)]


def _centres(start: int, stop: int) -> F32:
    return np.arange(start, stop, dtype=np.float32) + np.float32(0.5)


def _paint_background(canvas: F32, scene: Scene) -> None:
    background = scene.background
    if scene.style == "sketch":
        canvas[:] = _column(_PAPER)
        return
    canvas[:] = _column(background.rgb)
    _, height, width = canvas.shape
    if background.kind != "plain":
        change = _column(background.rgb_other) - _column(background.rgb)
        x = _centres(0, width)[None, :]
        for top, bottom in _bands(0, height, width):
            y = _centres(top, bottom)[:, None]
            canvas[:, top:bottom] += change * background_mask(
                background.kind, x, y, height, width, background.seed
            )
    if scene.style == "neon":
        canvas *= np.float32(0.16)


def _paint_object(canvas: F32, thing: SceneObject, style: Style) -> None:
    """Blend one object in, within its bounding box only."""
    _, height, width = canvas.shape
    radius = thing.radius * min(height, width)
    centre_x, centre_y = thing.x * width, thing.y * height
    cos, sin = COS[thing.degrees % 360], SIN[thing.degrees % 360]
    reach = radius * (abs(cos) + abs(sin)) + _margin(style, radius)
    left, right = max(int(centre_x - reach), 0), min(int(centre_x + reach) + 1, width)
    top, bottom = max(int(centre_y - reach), 0), min(int(centre_y + reach) + 1, height)
    if left >= right:
        return
    x = _centres(left, right) - np.float32(centre_x)
    for start, stop in _bands(top, bottom, right - left):
        y = _centres(start, stop) - np.float32(centre_y)
        u = (x[None, :] * cos + y[:, None] * sin) * (1 / radius)
        v = (y[:, None] * cos - x[None, :] * sin) * (1 / radius)
        if thing.kind == "shape":
            distance = FORMS[thing.name](u, v) * radius
        else:
            distance = _glyph_distance(thing, x, y, radius, _margin(style, radius))
        _blend(canvas[:, start:stop, left:right], thing, style, distance, u, v, radius)


def _margin(style: Style, radius: float) -> float:
    """How many pixels outside its outline an object may colour."""
    return {"neon": 0.5 * radius, "watercolour": 0.2 * radius}.get(style, 0.1 * radius) + 1.5


def _glyph_distance(thing: SceneObject, x: F32, y: F32, radius: float, margin: float) -> F32:
    cos, sin = COS[thing.degrees % 360] * radius, SIN[thing.degrees % 360] * radius
    x0, y0, x1, y1 = glyph_segments(thing.name, thing.font, thing.seed).T
    ends = (x0 * cos - y0 * sin, x0 * sin + y0 * cos, x1 * cos - y1 * sin, x1 * sin + y1 * cos)
    segments = np.stack(ends, axis=1)
    half_width = max(thing.stroke * radius, 0.5)
    return stroke_distance(segments, x, y, half_width + margin) - np.float32(half_width)


def second_colour(rgb: RGB) -> RGB:
    """The colour a texture mixes in: a much darker shade, or for dark colours a much lighter one."""
    r, g, b = rgb
    if 2 * r + 5 * g + b < 8 * 70:
        return (r + (255 - r) * 6 // 10, g + (255 - g) * 6 // 10, b + (255 - b) * 6 // 10)
    return (r * 42 // 100, g * 42 // 100, b * 42 // 100)


def _blend(
    canvas: F32, thing: SceneObject, style: Style, distance: F32, u: F32, v: F32, radius: float
) -> None:
    """Blend an object's pixels into ``canvas`` (3, h, w) in place; ``distance`` is in pixels, (h, w)."""
    colour = _column(thing.rgb)
    if style == "sketch":
        line = max(0.045 * radius, 0.65)
        canvas += cover(np.abs(distance) - line) * (_column(_INK) - canvas)
        return
    if style == "neon":
        tube = max(0.07 * radius, 0.7)
        off = np.maximum(np.abs(distance) - tube, 0.0)
        fade = clip01(-(off * (2.0 / radius) - 1.0))
        canvas += fade * fade * fade * (np.maximum(colour, 90.0) - canvas)
        canvas += cover(np.abs(distance) - 0.3 * tube) * (255.0 - canvas) * 0.5
        return
    mask = object_mask(thing.texture, u, v, distance, radius, thing.seed)
    paint = colour if mask is None else colour + mask * (_column(second_colour(thing.rgb)) - colour)
    if style == "watercolour":
        soft = 0.16 * radius + 1.0
        edge = clip01(distance * (2.5 / radius) + 1.0)
        canvas += cover(distance * (1 / soft)) * (edge * 0.35 + 0.55) * (paint - canvas)
        return
    canvas += cover(distance) * (paint - canvas)
    if style in ("outlined", "stained"):
        line = max((0.035 if style == "outlined" else 0.05) * radius, 0.5)
        canvas += cover(np.abs(distance) - line) * (_column(_INK) - canvas)


def _lead(canvas: F32, seed: int) -> None:
    """Stained glass: panes of varying brightness between dark diagonal leads."""
    _, height, width = canvas.shape
    scale = 5.0 / min(height, width)
    shift = (seed % 97) / 97.0
    for top, bottom in _bands(0, height, width):
        x, y = _centres(0, width)[None, :] * scale, _centres(top, bottom)[:, None] * scale
        a, b = x + y * 0.6 + shift, x * 0.7 - y + (shift + 8.0)
        row, column = np.floor(a), np.floor(b)
        mixed = row * 3.0 + column * 5.0
        shade = 0.68 + 0.06 * (mixed - 6.0 * np.floor(mixed * (1 / 6)))
        edge = np.minimum(0.5 - np.abs(a - row - 0.5), 0.5 - np.abs(b - column - 0.5))
        lead = cover((edge - 0.035) * (1.0 / scale))
        canvas[:, top:bottom] *= np.minimum(shade, 1.0) * (1.0 - 0.85 * lead)
