"""Scenes: a procedural image-text world, the data that travels with the package.

A scene is a pure function of (split, index); it is drawn at any size from signed distances, captioned by a
small grammar, and asked about by the tasks in ``TASKS``.
"""

from __future__ import annotations

from climp_bench.data.scenes.captions import dense_caption, short_captions
from climp_bench.data.scenes.render import draw
from climp_bench.data.scenes.scene import (
    COLOURS,
    DIGITS,
    LETTERS,
    POSITIONS,
    RING_SHAPES,
    SCENES_VERSION,
    SHAPES,
    TEXTURES,
    Background,
    Scene,
    SceneObject,
    held_out_pair,
)
from climp_bench.data.scenes.splits import make_scene
from climp_bench.data.scenes.tasks import TASKS, SceneTask

__all__ = [
    "COLOURS",
    "DIGITS",
    "LETTERS",
    "POSITIONS",
    "RING_SHAPES",
    "SCENES_VERSION",
    "SHAPES",
    "TASKS",
    "TEXTURES",
    "Background",
    "Scene",
    "SceneObject",
    "SceneTask",
    "dense_caption",
    "draw",
    "held_out_pair",
    "make_scene",
    "short_captions",
]
