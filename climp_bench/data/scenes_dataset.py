"""The procedural ``scenes`` world as data sets."""

from __future__ import annotations

from functools import lru_cache

from climp_bench.data.dataset import Dataset, Image
from climp_bench.data.scenes import SCENES_VERSION, TASKS, draw, make_scene, short_captions
from climp_bench.data.scenes import Scene as SceneGraph
from climp_bench.data.scenes import dense_caption as describe


class ScenesDataset(Dataset):
    """One task of the scenes world: scene ``i`` of its split, drawn natively at the size asked for."""

    drawn = True

    def __init__(self, task: str, n: int | None = None) -> None:
        self.task = TASKS.get(task)
        self.name = task
        self.kind = self.task.kind
        self.split = self.task.split
        self.classes = self.task.classes
        self.templates = self.task.templates
        self.n_expected = n or self.task.n

    def __reduce__(self) -> tuple[type[ScenesDataset], tuple[str, int]]:
        return ScenesDataset, (self.name, self.n_expected)

    def __len__(self) -> int:
        return self.n_expected

    def scene(self, index: int) -> SceneGraph:
        """The scene graph of sample ``index``."""
        return _scene(self.task.split, index)

    def image(self, index: int, size: tuple[int, int]) -> Image:
        return draw(self.scene(index), *size)

    def item_id(self, index: int) -> str:
        return f"{self.split}/{index}"

    def source_fingerprint(self) -> str:
        return f"scenes-v{SCENES_VERSION}"

    def label(self, index: int) -> int:
        label = self.task.label(self.scene(index))
        return label if isinstance(label, int) else super().label(index)

    def positives(self, index: int) -> tuple[int, ...]:
        label = self.task.label(self.scene(index))
        return label if isinstance(label, tuple) else super().positives(index)

    def captions(self, index: int) -> tuple[str, ...]:
        if self.task.captions is None:
            return super().captions(index)
        scene = self.scene(index)
        return short_captions(scene) if self.task.captions == "short" else (describe(scene),)

    def group(self, index: int) -> str | None:
        return self.task.group(self.scene(index))


@lru_cache(maxsize=4096)
def _scene(split: str, index: int) -> SceneGraph:
    return make_scene(split, index)
