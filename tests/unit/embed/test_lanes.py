"""Lanes: order, errors, and torch's threads given back."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from climp_bench.data.webdataset import WebDataset
from climp_bench.embed import batches, extract
from climp_bench.embed.extract import embed_images, embed_texts
from climp_bench.embed.lanes import open_lanes
from climp_bench.embed.views import Viewer
from climp_bench.models.adapters import Array, CatalogueEncoder
from climp_bench.models.weights import resolve
from tests.fakes import ToyEncoder


@pytest.fixture
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("four_threads")
def test_results_come_in_the_order_of_the_jobs_from_several_threads() -> None:
    seen: set[tuple[int, int]] = set()
    meet = threading.Barrier(4, timeout=30)

    def work(job: int) -> int:
        if job < 4:
            meet.wait()  # passes only if four jobs run at once
        seen.add((threading.get_ident(), torch.get_num_threads()))
        time.sleep(0.001 * (20 - job))
        return job * job

    with open_lanes("cpu", 20) as lanes:
        assert list(lanes.in_order(work, range(20))) == [(i, i * i) for i in range(20)]
    assert len({thread for thread, _ in seen}) == 4 and {threads for _, threads in seen} == {1}
    assert torch.get_num_threads() == 4


@pytest.mark.usefixtures("four_threads")
@pytest.mark.parametrize("jobs", [1, 50])
def test_the_first_error_is_raised_and_the_threads_are_given_back(jobs: int) -> None:
    taken: list[int] = []

    def source() -> Iterator[int]:
        for i in range(50):
            taken.append(i)
            yield i

    def work(job: int) -> int:
        if job >= 2:
            raise ValueError(f"job {job}")
        return job

    with pytest.raises(ValueError, match="job 2"), open_lanes("cpu", jobs) as lanes:
        list(lanes.in_order(work, source()))
    assert torch.get_num_threads() == 4
    assert len(taken) < 20  # jobs are not all taken ahead


@pytest.mark.parametrize(("device", "jobs"), [("cpu", 1), ("cuda", 50)])
def test_one_lane_works_in_the_callers_thread(device: str, jobs: int) -> None:
    with open_lanes(device, jobs) as lanes:
        threads = {done for _, done in lanes.in_order(lambda _: threading.get_ident(), range(5))}
    assert threads == {threading.get_ident()}


@pytest.mark.usefixtures("four_threads")
def test_lanes_change_no_embedding(make_wds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = WebDataset(make_wds(shards=3, per_shard=7))
    texts = [f"{'long ' * (i % 5)}caption {i}" for i in range(50)]
    encoders = [ToyEncoder("a"), ToyEncoder("b")]
    rows = {}
    monkeypatch.setattr(extract, "PART_IMAGES", 8)
    monkeypatch.setattr(batches, "_CPU_IMAGES", 3)
    monkeypatch.setattr(batches, "_CPU_TOKENS", 64)
    for threads in (1, 4):
        torch.set_num_threads(threads)
        images = embed_images(dataset, encoders, tmp_path / str(threads))
        captions = embed_texts(texts, encoders[0], tmp_path / str(threads))
        rows[threads] = [images["a@micro"].rows, images["b@micro"].rows, captions.rows]
    for one, four in zip(rows[1], rows[4], strict=True):
        np.testing.assert_array_equal(one, four)


class OnGpu(ToyEncoder):
    """Says that it is on a GPU; notes which thread encodes, and the sizes of its batches."""

    def __init__(self, size: tuple[int, int] = (8, 8)) -> None:
        super().__init__(size=size)
        self.device, self.gpu = "cuda", "Some GPU"
        self.threads: set[str] = set()
        self.sizes: list[int] = []

    def encode_images(self, images: Sequence[Any]) -> Array:
        self.threads.add(threading.current_thread().name)
        self.sizes.append(len(images))
        return super().encode_images(images)

    def encode_tokens(self, tokens: Sequence[list[int]]) -> Array:
        self.threads.add(threading.current_thread().name)
        self.sizes.append(len(tokens))
        return super().encode_tokens(tokens)


def test_on_a_gpu_tensors_are_made_ahead_and_one_thread_encodes(
    make_wds: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = WebDataset(make_wds(per_shard=20))
    wanted = embed_images(dataset, [ToyEncoder()], tmp_path / "cpu")["toy@micro"].rows
    prepared = set()
    kept = batches._tensors

    def tensors(images: Any, encoder: Any) -> Any:
        prepared.add(threading.current_thread().name.partition("_")[0])
        return kept(images, encoder)

    monkeypatch.setattr(batches, "_tensors", tensors)
    monkeypatch.setattr(batches, "_images_at_once", lambda device, size: 16)
    encoder = OnGpu()
    found = embed_images(dataset, [encoder], tmp_path / "gpu")["toy@micro"].rows
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert (encoder.threads, prepared) == ({"MainThread"}, {"prepare"})
    assert encoder.sizes == [16, 16, 8]


def test_on_a_gpu_another_thread_encodes_the_next_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"text {k} {'more ' * (k % 5)}" for k in range(50)]
    wanted = embed_texts(texts, ToyEncoder(), tmp_path / "cpu").rows
    monkeypatch.setattr(batches, "_share_of_memory", lambda: 1.0)
    monkeypatch.setattr(extract, "GPU_PART_TEXTS", 8)
    encoder = OnGpu()
    np.testing.assert_array_equal(embed_texts(texts, encoder, tmp_path / "gpu").rows, wanted)
    assert {name.partition("_")[0] for name in encoder.threads} == {"encode"}
    assert encoder.sizes == [8] * 6 + [2]
    assert embed_texts(texts, encoder, tmp_path / "gpu").cached


def test_parts_of_a_gpu_grow_so_that_it_starts_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "_share_of_memory", lambda: 1.0)
    monkeypatch.setattr(extract, "GPU_FIRST_TEXTS", 4)
    monkeypatch.setattr(extract, "GPU_PART_TEXTS", 16)
    encoder = OnGpu()
    texts = [f"text {k:02}" for k in range(50)]
    wanted = embed_texts(texts, ToyEncoder(), tmp_path / "cpu").rows
    np.testing.assert_array_equal(embed_texts(texts, encoder, tmp_path / "gpu").rows, wanted)
    assert encoder.sizes == [4, 8, 16, 16, 6]


def test_texts_that_fail_on_a_gpu_leave_the_parts_before_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "_share_of_memory", lambda: 1.0)
    monkeypatch.setattr(extract, "GPU_PART_TEXTS", 8)
    texts = [f"text {k:02}" for k in range(30)]
    encoder = OnGpu()

    def fail(tokens: Sequence[list[int]], encode: Any = encoder.encode_tokens) -> Array:
        if len(encoder.sizes) == 2:
            raise MemoryError("no more")
        return encode(tokens)

    monkeypatch.setattr(encoder, "encode_tokens", fail)
    with pytest.raises(MemoryError, match="no more"):
        embed_texts(texts, encoder, tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(batches, "_share_of_memory", lambda: 1.0)
    monkeypatch.setattr(extract, "GPU_PART_TEXTS", 8)
    embed_texts(texts, encoder, tmp_path)
    assert encoder.sizes == [8, 8, 8, 6]


@pytest.mark.parametrize(
    ("gigabytes", "size", "images"),
    [(80, 224, 256), (80, 896, 16), (80, 64, 512), (10, 224, 64), (4, 896, 8)],
)
def test_batches_of_a_gpu_follow_its_memory(
    gigabytes: int, size: int, images: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = SimpleNamespace(total_memory=gigabytes * 10**9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda: gpu)
    (first, *_) = batches.image_batches(0, range(1024), [OnGpu((size, size))], "cuda")
    assert len(first.indices) == images


@pytest.mark.parametrize("family", ["climp-m1", "flexivit", "naflexvit"])
def test_pixels_that_a_device_normalises_give_the_same_embeddings(family: str) -> None:
    encoder = CatalogueEncoder(resolve(family))
    wide = [
        np.random.default_rng(seed).integers(0, 256, (60, 60 + 9 * seed, 3), np.uint8) for seed in range(4)
    ]
    made = batches._tensors([Viewer()(image) for image in wide], encoder)
    if family == "naflexvit":  # of several shapes
        assert isinstance(made, list) and made[0].dtype == torch.float32
        found = encoder.encode_images(made)
    else:
        assert isinstance(made, torch.Tensor) and (made.dtype, len(made)) == (torch.uint8, 4)
        found = encoder.encode_images(batches._on_gpu(made, encoder))
    wanted = encoder.encode_images([batches.prepare(image, encoder) for image in wide])
    np.testing.assert_array_equal(found, wanted)
