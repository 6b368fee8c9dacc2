"""Trains the shipped tokenizer: ``python -m climp_bench.train.tokenizer`` writes ``scenes-bpe.json``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import typer

import climp_bench.models
from climp_bench.data.scenes import TASKS, dense_caption, make_scene, short_captions
from climp_bench.errors import TrainingError
from climp_bench.files import write_text
from climp_bench.models.tokenizer import train_bpe

NAME = "scenes-bpe"
VOCAB_SIZE = 1024
SCENES = 20_000


def corpus(scenes: int) -> Iterator[str]:
    """Captions of the first training scenes and every prompt of every task."""
    for index in range(scenes):
        scene = make_scene("train", index)
        yield from short_captions(scene)
        yield dense_caption(scene)
    for task in TASKS:
        for template in task.templates:
            yield from (template.replace("{c}", name) for name in task.classes)


def main(scenes: int = SCENES, out: Path | None = None) -> None:
    """Train on SCENES scenes and write to OUT, by default to where the package ships it."""
    out = out or Path(climp_bench.models.__file__).parent / "tokenizers" / f"{NAME}.json"
    tokenizer = train_bpe(corpus(scenes), VOCAB_SIZE)
    write_text(out, tokenizer.to_json(), TrainingError)
    print(f"{out}: {tokenizer.vocab_size} ids")


if __name__ == "__main__":
    typer.run(main)
