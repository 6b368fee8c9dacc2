"""Texts embedded beside images: on a GPU ahead of the call, elsewhere at it; errors and leaving early."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from climp_bench.embed import batches, extract
from climp_bench.embed.beside import texts_beside
from climp_bench.embed.extract import embed_texts
from climp_bench.errors import MetricError
from climp_bench.models.adapters import Array
from tests.fakes import ToyEncoder

TEXTS = [f"text {k} {'more ' * (k % 5)}" for k in range(40)]


@pytest.fixture(autouse=True)
def parts_of_eight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "_share_of_memory", lambda: 1.0)
    monkeypatch.setattr(extract, "GPU_PART_TEXTS", 8)


class OnGpu(ToyEncoder):
    """Says that it is on a GPU; tells when it has encoded its first batch, and waits at its second."""

    def __init__(self, name: str = "toy", *, poison: str = "", waits: bool = False) -> None:
        super().__init__(name, poison=poison)
        self.device, self.gpu = "cuda", "Some GPU"
        self.begun, self.going_on = threading.Event(), threading.Event()
        if not waits:
            self.going_on.set()

    def encode_tokens(self, tokens: Sequence[list[int]]) -> Array:
        if self.begun.is_set():
            assert self.going_on.wait(30)
        rows = super().encode_tokens(tokens)
        self.begun.set()
        return rows


def test_on_a_gpu_texts_are_begun_before_they_are_asked_for(tmp_path: Path) -> None:
    first, second = OnGpu("first", waits=True), OnGpu("second")
    with texts_beside(TEXTS, [first, second], tmp_path) as texts_of:
        assert first.begun.wait(30) and not second.begun.is_set()
        first.going_on.set()
        rows = texts_of(first).rows
        assert second.begun.wait(30)  # while the caller has the first
        np.testing.assert_array_equal(texts_of(second).rows, embed_texts(TEXTS, second, tmp_path).rows)
    np.testing.assert_array_equal(rows, embed_texts(TEXTS, ToyEncoder("first"), tmp_path / "cpu").rows)


def test_on_a_cpu_they_are_embedded_when_asked_for(tmp_path: Path) -> None:
    encoders = [ToyEncoder("first"), ToyEncoder("second")]
    with texts_beside(TEXTS, encoders, tmp_path) as texts_of:
        assert texts_of(encoders[1]).rows.shape == (len(TEXTS), 16)
        assert encoders[0].texts_encoded == 0


def test_an_error_is_raised_where_its_texts_are_asked_for(tmp_path: Path) -> None:
    broken, sound = OnGpu("broken", poison="texts"), OnGpu("sound")
    with texts_beside(TEXTS, [broken, sound], tmp_path) as texts_of:
        with pytest.raises(MetricError, match="not finite"):
            texts_of(broken)
        assert texts_of(sound).rows.shape == (len(TEXTS), 16)


def test_who_leaves_early_waits_for_what_runs_and_no_longer(tmp_path: Path) -> None:
    first, second = OnGpu("first", waits=True), OnGpu("second")
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt), texts_beside(TEXTS, [first, second], tmp_path):
        assert first.begun.wait(30)
        threading.Timer(0.2, first.going_on.set).start()
        raise KeyboardInterrupt
    assert 8 <= first.texts_encoded <= 24 and second.texts_encoded == 0
    assert threading.active_count() <= before + 1  # the timer's own
    again = OnGpu("first")
    embed_texts(TEXTS, again, tmp_path)
    assert again.texts_encoded <= len(TEXTS) - 8, "finished parts stay"
