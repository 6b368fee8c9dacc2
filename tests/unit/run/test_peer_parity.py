"""One OpenCLIP model, scored by us and by CLIP_benchmark with OpenCLIP's own transform and tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from clip_benchmark.datasets.builder import image_captions_collate_fn
from clip_benchmark.metrics import zeroshot_classification, zeroshot_retrieval
from PIL import Image
from torch.nn import functional as F

from climp_bench.data.catalogue import open_dataset
from climp_bench.data.dataset import Dataset, captions_of
from climp_bench.data.transforms import to_tensor
from climp_bench.embed.extract import embed_images, embed_texts
from climp_bench.models.adapters import Encoder
from climp_bench.models.peers import open_peer
from climp_bench.report.page import write_report
from climp_bench.results import ResultStore
from climp_bench.run.execute import execute
from climp_bench.run.plan import Settings, make_plan
from climp_bench.suite.schema import Suite
from tests.tiny_peers import ARCH, open_clip_checkpoint, register_arch
from tests.unit.run.test_clip_benchmark_parity import _clip_benchmark_on_new_numpy  # noqa: F401
from tests.unit.run.test_execute import Listener

CLASSIFICATION = ("acc1", "acc5", "mean_per_class_recall")


class Items(torch.utils.data.Dataset[Any]):
    """A data set as CLIP_benchmark's loader takes it."""

    def __init__(self, dataset: Dataset, transform: Any, size: tuple[int, int]) -> None:
        self.dataset, self.transform, self.size = dataset, transform, size
        self.classes = dataset.classes

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, Any]:
        pixels = self.transform(Image.fromarray(self.dataset.image(index, self.size)))
        if self.dataset.kind == "retrieval":
            return pixels, list(self.dataset.captions(index))
        return pixels, self.dataset.label(index)


@dataclass
class Theirs:
    """OpenCLIP's model, transform and tokenizer."""

    model: Any
    transform: Any
    tokenizer: Any

    def items(self, dataset: Dataset) -> Items:
        return Items(dataset, self.transform, self.model.visual.image_size)

    def embeddings(self, dataset: Dataset, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        items = self.items(dataset)
        pixels = torch.stack([items[i][0] for i in range(len(items))])
        with torch.no_grad():
            rows = self.model.encode_image(pixels), self.model.encode_text(self.tokenizer(texts))
        return F.normalize(rows[0], dim=-1).numpy(), F.normalize(rows[1], dim=-1).numpy()

    def score(self, dataset: Dataset, ks: list[int]) -> dict[str, float]:
        """By CLIP_benchmark's own evaluation, in float32."""
        retrieval = dataset.kind == "retrieval"
        collate = image_captions_collate_fn if retrieval else None
        loader = torch.utils.data.DataLoader(self.items(dataset), batch_size=16, collate_fn=collate)
        if retrieval:
            return dict(zeroshot_retrieval.evaluate(self.model, loader, self.tokenizer, "cpu", False, ks))
        words = list(dataset.classes), list(dataset.templates)
        return dict(
            zeroshot_classification.evaluate(self.model, loader, self.tokenizer, *words, "cpu", amp=False)
        )


def by_open_clip(arch: str, checkpoint: Path) -> Theirs:
    model, _, transform = open_clip.create_model_and_transforms(arch, pretrained=str(checkpoint))
    return Theirs(model.eval(), transform, open_clip.get_tokenizer(arch))


def assert_equal(encoder: Encoder, theirs: Theirs, tasks: dict[str, int], tmp_path: Path) -> None:
    """Every score of every task, through the whole path, and the embeddings behind it."""
    suite = Suite.model_validate(
        {
            "schema": 1,
            "name": "few",
            "protocol": "clip_benchmark@48de38c",
            "task": [{"dataset": name, "n": n} for name, n in tasks.items()],
        }
    )
    settings = Settings(out=tmp_path / "out", cache=tmp_path / "cache")
    outcome = execute(make_plan([encoder], [suite]), settings, Listener())
    ours = {(record.task, record.metric): record.value for record in outcome.records}
    for task in suite.tasks:
        dataset = open_dataset(task.dataset, n=task.n)
        wanted = theirs.score(dataset, list(task.ks))
        metrics = CLASSIFICATION if dataset.kind == "classification" else tuple(wanted)
        for metric in metrics:
            assert ours[task.name, metric] == pytest.approx(wanted[metric], abs=1e-6), (task.name, metric)
        assert any(0 < wanted[metric] < 1 for metric in metrics), "the scores say nothing"
        texts = list(captions_of(dataset)[0]) if dataset.kind == "retrieval" else list(dataset.classes)
        images_NP, texts_MP = theirs.embeddings(dataset, texts)
        rows = embed_images(dataset, [encoder], settings.cache)[encoder.name]
        assert rows.cached and np.abs(rows.rows - images_NP).max() < 1e-5
        assert np.abs(embed_texts(texts, encoder, settings.cache).rows - texts_MP).max() < 1e-5


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint of the tiny architecture."""
    register_arch(tmp_path, monkeypatch)
    open_clip_checkpoint(tmp_path / "tiny.pt")
    return tmp_path / "tiny.pt"


def test_equal_scores_and_embeddings(tiny: Path, tmp_path: Path) -> None:
    encoder = open_peer(f"open_clip:{ARCH}/{tiny}", "cpu", "float32")
    tasks = {"scenes-shape": 64, "scenes-texture": 44, "scenes-captions": 40}
    assert_equal(encoder, by_open_clip(ARCH, tiny), tasks, tmp_path)


def test_real_images_go_through_open_clips_own_resize(tiny: Path, make_wds: Any, tmp_path: Path) -> None:
    """Images that need a resize: our own transform in its place gives other embeddings."""
    dataset = open_dataset("photos", [make_wds("photos", shards=1, per_shard=12).parent])
    theirs = by_open_clip(ARCH, tiny)
    expected, _ = theirs.embeddings(dataset, ["x"])
    encoder = open_peer(f"open_clip:{ARCH}/{tiny}", "cpu", "float32")
    rows = embed_images(dataset, [encoder], tmp_path / "cache")[encoder.name].rows
    assert np.abs(rows - expected).max() < 1e-5
    images = [dataset.image(i, (32, 32)) for i in range(len(dataset))]
    other = encoder.encode_images([to_tensor(image, encoder.preprocess) for image in images])
    assert np.abs(other - expected).max() > 1e-4
    encoder.own_transform = None
    wrong = embed_images(dataset, [encoder], tmp_path / "cache")[encoder.name]
    assert not wrong.cached and np.array_equal(wrong.rows, other)


def test_reports_and_records_take_the_names_of_peers(tiny: Path, make_wds: Any, tmp_path: Path) -> None:
    root = make_wds()
    encoder = open_peer(f"open_clip:{ARCH}", "cpu", "float32", random_weights=True)
    suite = Suite.model_validate({"schema": 1, "name": "mine", "task": [{"dataset": "toy"}]})
    settings = Settings(out=tmp_path / "out", cache=tmp_path / "cache", data_roots=(root.parent,))
    plan = make_plan([encoder, open_peer(f"open_clip:{ARCH}/{tiny}", "cpu", "float32")], [suite])
    outcome = execute(plan, settings, Listener())
    stored = ResultStore(tmp_path / "out" / "records").read()
    assert {r.model.name for r in stored} == {f"open_clip:{ARCH}", f"open_clip:{ARCH}/{tiny}"}
    assert {r.model.scale for r in stored} == {None}
    assert execute(plan, settings, Listener()).reused == 2
    page, table, picture = write_report(outcome.records, "mine", tmp_path / "out", command="zeroshot")
    head = next(line for line in page.read_text().splitlines() if line.startswith("| task"))
    assert head.split(" | ")[-2:] == [f"open_clip:{ARCH}", f"open_clip:{ARCH}/{tiny} |"]
    assert f"open_clip: {open_clip.__version__}" in page.read_text()
    assert f"open_clip:{ARCH}," in table.read_text() and picture.is_file()


@pytest.mark.slow  # builds ViT-B-32, 151M parameters, three times
def test_a_real_architecture_gives_equal_scores(tmp_path: Path) -> None:
    encoder = open_peer("open_clip:ViT-B-32", "cpu", "float32", random_weights=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, _, transform = open_clip.create_model_and_transforms("ViT-B-32")
    theirs = Theirs(model.eval(), transform, open_clip.get_tokenizer("ViT-B-32"))
    assert_equal(encoder, theirs, {"scenes-colour": 13, "scenes-fine": 12}, tmp_path)
