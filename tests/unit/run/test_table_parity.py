"""Tables and image folders scored by us and by CLIP_benchmark's evaluation, with a model that we ship.

The oracle reads the same files with the ``datasets`` library or torchvision, and transforms with torchvision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from clip_benchmark.metrics import zeroshot_classification, zeroshot_retrieval
from datasets import Image as HFImage
from datasets import load_dataset
from PIL import Image
from torchvision.datasets import ImageFolder

from climp_bench.data.scenes_dataset import ScenesDataset
from climp_bench.data.transforms import to_tensor
from climp_bench.models.adapters import CatalogueEncoder
from climp_bench.models.weights import resolve
from climp_bench.run.execute import execute
from climp_bench.run.plan import Settings, make_plan
from climp_bench.suite.schema import Suite
from tests import data_copies as copies
from tests.unit.run.test_clip_benchmark_parity import Tokens, Wrapped
from tests.unit.run.test_execute import Listener

N, BATCH = 48, 16
SHAPES, PAIRS = ScenesDataset("scenes-shape", N), ScenesDataset("scenes-captions", N)

Batches = list[tuple[torch.Tensor, object]]
Loader = torch.utils.data.DataLoader[tuple[torch.Tensor, int]]


@pytest.fixture(scope="module")
def encoder() -> CatalogueEncoder:
    return CatalogueEncoder(resolve("climp-m1"))


@pytest.fixture(autouse=True)
def _clip_benchmark_on_new_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """CLIP_benchmark 1.6.2 calls float() on arrays of one element, which numpy 2.4 refuses; let it."""
    monkeypatch.setattr(
        zeroshot_classification, "float", lambda value: np.asarray(value).item(), raising=False
    )


def rows_of(folder: Path, split: str, image: str) -> Iterator[dict[str, object]]:
    """The rows of a Parquet folder as ``datasets`` reads them."""
    files = {split: str(folder / "data" / f"{split}-*.parquet")}
    table = load_dataset("parquet", data_files=files, split=split, cache_dir=str(folder / "hf-cache"))
    yield from table.cast_column(image, HFImage())


def batched(pictures: Sequence[Image.Image], targets: Sequence[object], encoder: CatalogueEncoder) -> Batches:
    tensors = [to_tensor(np.asarray(picture.convert("RGB")), encoder.preprocess) for picture in pictures]
    starts = range(0, len(tensors), BATCH)
    return [(torch.stack(tensors[s : s + BATCH]), targets[s : s + BATCH]) for s in starts]


def ours(name: str, root: Path, tmp_path: Path, encoder: CatalogueEncoder) -> dict[str, float | None]:
    suite = Suite.model_validate({"schema": 1, "name": "own", "task": [{"dataset": name, "ks": [1, 5]}]})
    settings = Settings(out=tmp_path / "out", cache=tmp_path / "cache", data_roots=(root,))
    outcome = execute(make_plan([encoder], [suite]), settings, Listener())
    assert all(record.error is None for record in outcome.records)
    return {record.metric: record.value for record in outcome.records}


class Labelled(list[tuple[torch.Tensor, int]]):
    """Images with labels, as CLIP_benchmark asks for them."""

    classes = SHAPES.classes


def labelled(pictures: Sequence[Image.Image], labels: Sequence[int], encoder: CatalogueEncoder) -> Loader:
    tensors = [to_tensor(np.asarray(picture.convert("RGB")), encoder.preprocess) for picture in pictures]
    return Loader(Labelled(zip(tensors, labels, strict=True)), batch_size=BATCH)  # type: ignore[arg-type]


def parquet(folder: Path, encoder: CatalogueEncoder) -> Loader:
    copies.write_classification(folder, SHAPES)
    rows = list(rows_of(folder, "test", "image"))
    pictures, labels = zip(*((row["image"], row["label"]) for row in rows), strict=True)
    return labelled(pictures, labels, encoder)


def folders(folder: Path, encoder: CatalogueEncoder) -> Loader:
    copies.write_image_folder(folder, SHAPES)
    found = ImageFolder(str(folder))
    paths, labels = zip(*found.samples, strict=True)
    return labelled([Image.open(path) for path in paths], labels, encoder)


@pytest.mark.parametrize("write", [parquet, folders])
def test_classification(
    write: Callable[[Path, CatalogueEncoder], Loader], encoder: CatalogueEncoder, tmp_path: Path
) -> None:
    loader = write(tmp_path / "data" / "copy", encoder)
    theirs = zeroshot_classification.evaluate(
        *(Wrapped(encoder), loader, Tokens, list(SHAPES.classes), list(SHAPES.templates), "cpu"),
        amp=False,
        verbose=False,
    )
    measured = ours("copy", tmp_path / "data", tmp_path, encoder)
    assert 0 < theirs["acc1"] < 1
    for metric in ("acc1", "acc5", "mean_per_class_recall"):
        assert measured[metric] == pytest.approx(theirs[metric], abs=1e-4)


def test_retrieval_over_a_table_in_the_form_of_nocaps(encoder: CatalogueEncoder, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "copy"
    copies.write_nocaps(folder, PAIRS)
    rows = list(rows_of(folder, "validation", "image"))
    captions = [list(row["annotations_captions"]) for row in rows]  # type: ignore[call-overload]
    loader = batched([row["image"] for row in rows], captions, encoder)  # type: ignore[misc]
    theirs = zeroshot_retrieval.evaluate(
        Wrapped(encoder), loader, Tokens, "cpu", amp=False, recall_k_list=[1, 5]
    )
    measured = ours("copy", tmp_path / "data", tmp_path, encoder)
    assert 0 < theirs["image_retrieval_recall@1"] < 1
    for metric, value in theirs.items():
        assert measured[metric] == pytest.approx(value, abs=1e-4), metric
