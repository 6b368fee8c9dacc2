"""Scenes are the same bytes everywhere: hashes of pictures and captions, made once and kept.

A change of the drawing or the grammar on purpose raises ``SCENES_VERSION`` and renews the file with
``python -m tests.unit.data.test_scenes_golden``.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from climp_bench.data.scenes import (
    SCENES_VERSION,
    TASKS,
    dense_caption,
    draw,
    make_scene,
    short_captions,
)

GOLDEN = Path(__file__).parents[2] / "golden" / "scenes_hashes.json"
SIZES = ((64, 64), (32, 32), (224, 224), (96, 160), (333, 251), (1024, 700))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def compute() -> dict[str, object]:
    splits = ("train", *(task.split for task in TASKS))
    images = {}
    for i, split in enumerate(splits):
        height, width = SIZES[i % len(SIZES)]
        for index in (i, 40 + i, 77 + i):
            key = f"{split}/{index}@{height}x{width}"
            images[key] = sha256(draw(make_scene(split, index), height, width).tobytes())
    captions = {}
    for split in splits:
        scenes = [make_scene(split, index) for index in range(30)]
        text = "\n".join("\n".join((*short_captions(scene), dense_caption(scene))) for scene in scenes)
        captions[split] = sha256(text.encode())
    return {"version": SCENES_VERSION, "images": images, "captions": captions}


def test_pictures_and_captions_match_the_golden_hashes() -> None:
    assert compute() == json.loads(GOLDEN.read_text())


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(compute(), indent=1) + "\n")
