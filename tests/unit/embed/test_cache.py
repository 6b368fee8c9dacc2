"""The embedding cache: whole or absent, repaired when damaged, shared by two processes."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy as np
import pytest

from climp_bench.data.webdataset import WebDataset
from climp_bench.embed import extract
from climp_bench.embed.cache import CacheEntry
from climp_bench.embed.extract import embed_images, embed_texts, image_key
from climp_bench.embed.key import EmbeddingKey
from climp_bench.errors import CacheError, DataError, MetricError
from tests.fakes import ToyEncoder

KEY = EmbeddingKey("image", "w", "m@micro", "t", "float32", "torch", "cpu", "d")


def _rows(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, 4)).astype(np.float32)


def test_manifest_makes_an_entry_whole(tmp_path: Path) -> None:
    entry = CacheEntry(tmp_path, KEY)
    with entry.locked():
        entry.write_part(0, _rows(3))
        assert not entry.complete()
        entry.write_part(1, _rows(2, 1))
        entry.finish(2, 5)
    assert entry.complete()
    np.testing.assert_array_equal(entry.read(), np.concatenate([_rows(3), _rows(2, 1)]))


def test_a_damaged_part_is_refused_and_forgotten(tmp_path: Path) -> None:
    entry = CacheEntry(tmp_path, KEY)
    with entry.locked():
        entry.write_part(0, _rows(3))
        entry.finish(1, 3)
    part = entry.folder / "part-00000.npy"
    content = bytearray(part.read_bytes())
    content[-1] ^= 1
    part.write_bytes(content)
    with pytest.raises(CacheError, match="damaged"):
        entry.read()
    assert not entry.complete() and entry.read_part(0) is None


@pytest.mark.parametrize("field", sorted(EmbeddingKey.__dataclass_fields__))
def test_every_field_of_the_key_changes_the_place(field: str) -> None:
    changed = EmbeddingKey(**{**KEY.__dict__, field: "other"})
    assert changed.digest() != KEY.digest()


def test_images_are_encoded_once_and_then_read(make_wds, tmp_path: Path, toy_encoder: ToyEncoder) -> None:
    dataset = WebDataset(make_wds())
    first = embed_images(dataset, [toy_encoder], tmp_path / "cache")["toy@micro"]
    batches = toy_encoder.image_batches
    second = embed_images(dataset, [toy_encoder], tmp_path / "cache")["toy@micro"]
    assert batches > 0 and toy_encoder.image_batches == batches
    assert not first.cached and second.cached
    np.testing.assert_array_equal(first.rows, second.rows)


def test_two_models_share_one_decoding(make_wds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = WebDataset(make_wds())
    decoded: list[int] = []
    image = WebDataset.image
    monkeypatch.setattr(WebDataset, "image", lambda self, i, size: decoded.append(i) or image(self, i, size))
    embed_images(dataset, [ToyEncoder("a"), ToyEncoder("b")], tmp_path / "cache")
    assert decoded == list(range(10))


def test_an_interrupted_run_goes_on_where_it_stopped(
    make_wds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extract, "PART_IMAGES", 3)
    dataset = WebDataset(make_wds())
    undisturbed = embed_images(dataset, [ToyEncoder()], tmp_path / "one")["toy@micro"].rows

    class Dies(ToyEncoder):
        def encode_images(self, images):
            if self.image_batches == 2:
                raise KeyboardInterrupt
            return super().encode_images(images)

    with pytest.raises(KeyboardInterrupt):
        embed_images(dataset, [Dies()], tmp_path / "two")
    again = ToyEncoder()
    rows = embed_images(dataset, [again], tmp_path / "two")["toy@micro"].rows
    assert again.image_batches == 2  # two of four parts were kept
    np.testing.assert_array_equal(rows, undisturbed)


def test_a_damaged_entry_is_made_again(make_wds, tmp_path: Path) -> None:
    dataset = WebDataset(make_wds())
    encoder = ToyEncoder()
    first = embed_images(dataset, [encoder], tmp_path)["toy@micro"].rows
    entry = CacheEntry(tmp_path, image_key(dataset, encoder))
    (entry.folder / "part-00000.npy").write_bytes(b"rubbish")
    again = embed_images(dataset, [encoder], tmp_path)["toy@micro"]
    assert not again.cached
    np.testing.assert_array_equal(again.rows, first)


def test_nan_embeddings_name_the_item(make_wds, tmp_path: Path) -> None:
    dataset = WebDataset(make_wds())
    with pytest.raises(MetricError, match=r"toy: 0\.tar:s0000000"):
        embed_images(dataset, [ToyEncoder(poison="images")], tmp_path)
    with pytest.raises(MetricError, match="'longest text'"):
        embed_texts(["short", "longest text"], ToyEncoder(poison="texts"), tmp_path)


def test_workers_change_nothing_and_pass_errors_on(
    make_wds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("climp_bench.embed.loading.SMALL", 0)
    monkeypatch.setattr(extract, "PART_IMAGES", 4)
    root = make_wds()
    dataset = WebDataset(root)
    alone = embed_images(dataset, [ToyEncoder()], tmp_path / "a", workers=0)["toy@micro"].rows
    helped = embed_images(dataset, [ToyEncoder()], tmp_path / "b", workers=2)["toy@micro"].rows
    np.testing.assert_array_equal(alone, helped)
    (root / "test/1.tar").write_bytes((root / "test/1.tar").read_bytes().replace(b"IHDR", b"JUNK"))
    with pytest.raises(DataError, match=r"1\.tar:s0000005"):
        embed_images(WebDataset(root), [ToyEncoder()], tmp_path / "c", workers=2)


def test_texts_are_deduplicated_and_come_back_in_order(tmp_path: Path) -> None:
    encoder = ToyEncoder()
    texts = ["bb", "a", "bb", "a much longer text", "a"]
    rows = embed_texts(texts, encoder, tmp_path).rows
    assert encoder.texts_encoded == 3
    direct = encoder.encode_tokens(encoder.tokenize(texts))
    np.testing.assert_allclose(rows, direct, atol=1e-7)
    again = embed_texts(texts, encoder, tmp_path)
    assert again.cached
    np.testing.assert_array_equal(again.rows, rows)


def _write_slowly(root: Path, seed: int) -> None:
    entry = CacheEntry(root, KEY)
    with entry.locked():
        for k in range(20):
            entry.write_part(k, _rows(50, k))
        entry.finish(20, 1000)


def test_two_processes_on_one_entry(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_write_slowly, args=(tmp_path, i)) for i in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert CacheEntry(tmp_path, KEY).read().shape == (1000, 4)


def test_a_full_disk_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    entry = CacheEntry(tmp_path, KEY)
    with entry.locked():
        entry.write_part(0, _rows(3))
        monkeypatch.setattr("os.fsync", full)
        with pytest.raises(CacheError, match="the disk is full"):
            entry.write_part(1, _rows(3))
    assert entry.read_part(0) is not None and entry.read_part(1) is None
    assert not list(entry.folder.glob(".part*"))


@pytest.mark.parametrize("text", ["3", "null", "[]", "{", '{"key": {}, "rows": 0, "parts": []}'])
def test_a_damaged_manifest_is_refused_and_forgotten(tmp_path: Path, text: str) -> None:
    entry = CacheEntry(tmp_path, KEY)
    with entry.locked():
        entry.write_part(0, _rows(3))
        entry.finish(1, 3)
    (entry.folder / "manifest.json").write_text(text)
    with pytest.raises(CacheError, match="damaged"):
        entry.read()
    assert not entry.complete()


def test_a_damaged_digest_counts_as_an_absent_part(tmp_path: Path) -> None:
    entry = CacheEntry(tmp_path, KEY)
    with entry.locked():
        entry.write_part(0, _rows(3))
    (entry.folder / "part-00000.sha256").write_bytes(b"\xff\xfe")
    assert entry.read_part(0) is None


def test_workers_leave_an_interrupt_to_the_main_process() -> None:
    import signal

    from climp_bench.embed.loading import _pool

    try:
        assert _pool(1).submit(signal.getsignal, signal.SIGINT).result(60) == signal.SIG_IGN
    finally:
        _pool(1).shutdown()
        _pool.cache_clear()


def test_workers_end_when_the_main_process_is_killed() -> None:
    import subprocess
    import sys

    code = (
        "import os, signal; from climp_bench.embed.loading import _pool; pool = _pool(2);"
        "[f.result() for f in [pool.submit(os.getpid) for _ in range(8)]];"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, timeout=30, check=False)
    assert done.returncode == -9  # and nobody holds its stdout open any more
