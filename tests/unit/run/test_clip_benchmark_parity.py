"""A webdataset folder scored by us and by CLIP_benchmark's own loader and evaluation, with one model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from clip_benchmark.datasets.builder import build_wds_dataset
from clip_benchmark.metrics import zeroshot_classification
from PIL import Image

from climp_bench.data.transforms import to_tensor
from climp_bench.models.adapters import CatalogueEncoder
from climp_bench.models.weights import resolve
from climp_bench.run.execute import execute
from climp_bench.run.plan import Settings, make_plan
from climp_bench.suite.schema import Suite
from tests.unit.run.test_execute import Listener


class Tokens(list[str]):
    """What CLIP_benchmark moves to a device."""

    def to(self, device: str) -> Tokens:
        return self


class Wrapped:
    """Our encoder behind the two methods that CLIP_benchmark calls."""

    def __init__(self, encoder: CatalogueEncoder) -> None:
        self.encoder = encoder

    def eval(self) -> None:
        pass

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(self.encoder.encode_images(list(images))).to(self.encoder.device)

    def encode_text(self, texts: list[str]) -> torch.Tensor:
        return torch.from_numpy(self.encoder.encode_tokens(self.encoder.tokenize(texts))).to(
            self.encoder.device
        )


def clip_benchmark_scores(root: Path, encoder: CatalogueEncoder, workers: int = 0) -> dict[str, float]:
    """acc1, acc5 and mean_per_class_recall of the folder by CLIP_benchmark, loading in so many processes."""

    def transform(picture: Image.Image) -> torch.Tensor:
        return to_tensor(np.asarray(picture.convert("RGB")), encoder.preprocess)

    dataset = build_wds_dataset(root.name, transform, split="test", data_dir=str(root))
    loader = torch.utils.data.DataLoader(dataset.batched(64), batch_size=None, num_workers=workers)
    scores: dict[str, float] = zeroshot_classification.evaluate(
        Wrapped(encoder), loader, Tokens, dataset.classes, dataset.templates, encoder.device, amp=False,
        verbose=False,
    )  # fmt: skip
    return scores


def our_scores(root: Path, encoder: CatalogueEncoder, tmp_path: Path) -> dict[str, float | None]:
    """The same by climp-bench, through the whole path."""
    suite = Suite.model_validate({"schema": 1, "name": "folder", "task": [{"dataset": root.name}]})
    settings = Settings(out=tmp_path / "out", cache=tmp_path / "cache", data_roots=(root.parent,))
    outcome = execute(make_plan([encoder], [suite]), settings, Listener())
    return {record.metric: record.value for record in outcome.records}


@pytest.fixture(autouse=True)
def _clip_benchmark_on_new_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """CLIP_benchmark 1.6.2 calls float() on arrays of one element, which numpy 2.4 refuses; let it."""
    monkeypatch.setattr(
        zeroshot_classification, "float", lambda value: np.asarray(value).item(), raising=False
    )


@pytest.mark.parametrize("family", ["climp-m1", "naflexvit"])
def test_equal_scores(family: str, make_wds: Callable[..., Path], tmp_path: Path) -> None:
    root = make_wds("photos", shards=3, per_shard=30, classes=6)
    encoder = CatalogueEncoder(resolve(family))
    theirs, ours = clip_benchmark_scores(root, encoder), our_scores(root, encoder, tmp_path)
    assert 0 < theirs["acc1"] < 1
    for metric in ("acc1", "acc5", "mean_per_class_recall"):
        assert ours[metric] == pytest.approx(theirs[metric], abs=1e-4)


def show(folders: Iterable[str]) -> None:
    """``python -m tests.unit.run.test_clip_benchmark_parity FOLDER ...``: both scores of real folders."""
    import tempfile

    zeroshot_classification.float = lambda value: np.asarray(value).item()
    for folder in folders:
        for family in ("climp-m1", "climp-m2", "rope-vit", "flexivit", "naflexvit"):
            encoder = CatalogueEncoder(resolve(family))
            with tempfile.TemporaryDirectory() as out:
                ours = our_scores(Path(folder).resolve(), encoder, Path(out))
            print(family, "ours", ours, "clip_benchmark", clip_benchmark_scores(Path(folder), encoder))


if __name__ == "__main__":
    import sys

    show(sys.argv[1:])
