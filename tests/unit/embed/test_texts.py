"""Texts: each distinct one encoded once whatever lists it stands in, in batches that change nothing."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from climp_bench.data.dataset import captions_of
from climp_bench.data.prompts import render
from climp_bench.data.scenes import TASKS
from climp_bench.data.scenes_dataset import ScenesDataset
from climp_bench.embed import batches, extract, shared_texts
from climp_bench.embed.extract import embed_texts
from climp_bench.models.adapters import CatalogueEncoder
from climp_bench.models.weights import resolve
from tests.fakes import ToyEncoder

MANY = [f"{word} number {k} {'of many ' * (k % 7)}" for k in range(40) for word in ("a cat", "the dog")]


class Counting(ToyEncoder):
    """A toy that keeps how often each text was encoded, and the shape of its batches."""

    def __init__(self, name: str = "toy") -> None:
        super().__init__(name)
        self.times: dict[tuple[int, ...], int] = {}
        self.padded: list[int] = []
        self.lengths: list[int] = []

    def encode_tokens(self, tokens: Sequence[list[int]]) -> np.ndarray:
        for row in tokens:
            self.times[tuple(row)] = self.times.get(tuple(row), 0) + 1
        self.padded.append(len(tokens) * max(map(len, tokens)))
        self.lengths += [len(row) for row in tokens]
        return super().encode_tokens(tokens)


def test_batches_are_sorted_by_length_and_hold_a_budget_of_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "_CPU_TOKENS", 200)
    monkeypatch.setattr(batches, "open_lanes", lambda device, jobs: _in_this_thread())
    encoder = Counting()
    texts = [*MANY, *MANY[::-1], "x" * 300]
    rows = embed_texts(texts, encoder, tmp_path).rows
    assert encoder.lengths == sorted(len(text) for text in set(texts))
    assert set(encoder.times.values()) == {1} and len(encoder.times) == len(set(texts))
    assert all(padded <= 200 for padded in encoder.padded[:-1]) and encoder.padded[-1] == 300
    assert len(encoder.padded) < 30
    one_by_one = np.concatenate([ToyEncoder.encode_tokens(encoder, encoder.tokenize([t])) for t in texts])
    np.testing.assert_allclose(rows, one_by_one, atol=1e-6)


@given(st.lists(st.integers(1, 40), max_size=80), st.integers(40, 400))
def test_full_batches_hold_little_padding(lengths: list[int], budget: int) -> None:
    tokens = [[1] * n for n in sorted(lengths)]
    found = list(batches._by_budget(range(len(tokens)), tokens, budget))
    assert [i for batch in found for i in batch] == list(range(len(tokens)))
    for batch, following in itertools.zip_longest(found, found[1:], fillvalue=[]):
        padded = len(batch) * len(tokens[batch[-1]])
        assert padded <= budget
        if padded > batches._FULL * budget:
            assert padded - sum(len(tokens[i]) for i in batch) <= batches._PADDING * padded
        if following:  # it ended for a reason: one more text would have been too much, or too much padding
            more = (len(batch) + 1) * len(tokens[following[0]])
            real = sum(len(tokens[i]) for i in [*batch, following[0]])
            assert more > budget or (more > batches._FULL * budget and more - real > batches._PADDING * more)


def _in_this_thread():
    from climp_bench.embed.lanes import Lanes

    class Context:
        def __enter__(self):
            return Lanes(None, 0)

        def __exit__(self, *args: object) -> None:
            pass

    return Context()


def test_a_list_takes_what_other_lists_of_the_model_have(tmp_path: Path) -> None:
    encoder = Counting()
    whole = embed_texts(MANY, encoder, tmp_path)
    assert encoder.texts_encoded == len(MANY) and not whole.cached
    part = embed_texts(MANY[10:30], encoder, tmp_path)
    assert encoder.texts_encoded == len(MANY) and part.cached
    np.testing.assert_array_equal(part.rows, whole.rows[10:30])
    mixed = embed_texts(["brand new", *MANY[70:], "newer"], encoder, tmp_path)
    assert encoder.texts_encoded == len(MANY) + 2 and not mixed.cached
    np.testing.assert_array_equal(mixed.rows[1:-1], whole.rows[70:])
    other = Counting("other")
    embed_texts(MANY[:5], other, tmp_path)
    assert other.texts_encoded == 5
    shutil.rmtree(tmp_path)
    embed_texts(MANY[10:30], encoder, tmp_path)
    assert encoder.texts_encoded == len(MANY) + 22


def test_a_list_is_whole_without_the_one_it_copied_from(tmp_path: Path) -> None:
    encoder = Counting()
    rows = embed_texts(MANY, encoder, tmp_path).rows
    folder = next(tmp_path.glob("*/*/manifest.json")).parent
    embed_texts(MANY[:9], encoder, tmp_path)
    shutil.rmtree(folder)
    np.testing.assert_array_equal(embed_texts(MANY[:9], encoder, tmp_path).rows, rows[:9])
    assert encoder.texts_encoded == len(MANY)


@pytest.mark.parametrize("damaged", [shared_texts.NAME, "part-00000.npy", "manifest.json"])
def test_a_damaged_list_lends_nothing(tmp_path: Path, damaged: str) -> None:
    encoder = Counting()
    rows = embed_texts(MANY, encoder, tmp_path).rows
    path = next(tmp_path.glob(f"*/*/{damaged}"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    np.testing.assert_array_equal(embed_texts(MANY[:9], encoder, tmp_path).rows, rows[:9])
    assert encoder.texts_encoded == len(MANY) + 9


def test_an_interrupted_list_goes_on_and_lends_only_when_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extract, "PART_TEXTS", 30)

    class Dies(Counting):
        def encode_tokens(self, tokens: Sequence[list[int]]) -> np.ndarray:
            if self.texts_encoded >= 30:
                raise KeyboardInterrupt
            return super().encode_tokens(tokens)

    with pytest.raises(KeyboardInterrupt):
        embed_texts(MANY, Dies(), tmp_path)
    again = Counting()
    embed_texts(MANY[::8], again, tmp_path)
    assert again.texts_encoded == 10
    embed_texts(MANY, again, tmp_path)
    in_kept_part = len(set(sorted(MANY, key=lambda t: (len(t), t))[:30]) & set(MANY[::8]))
    assert again.texts_encoded == len(MANY) - 30 + in_kept_part


def test_captions_and_prompts_of_real_towers_equal_one_by_one_encoding(tmp_path: Path) -> None:
    captions = (
        captions_of(ScenesDataset("scenes-captions", 12))[0]
        + captions_of(ScenesDataset("scenes-dense", 4))[0]
    )
    task = TASKS.get("scenes-shape")
    prompts = render(task.classes[:6], task.templates)[0]
    for family in ("climp-m1", "rope-vit"):
        encoder = CatalogueEncoder(resolve(f"{family}@micro"))
        rows = embed_texts([*captions, *prompts, *captions[::-1]], encoder, tmp_path).rows
        alone = {t: encoder.encode_tokens(encoder.tokenize([t]))[0] for t in {*captions, *prompts}}
        expected = np.stack([alone[t] for t in [*captions, *prompts, *captions[::-1]]])
        np.testing.assert_allclose(rows, expected, atol=1e-6)
        np.testing.assert_array_equal(
            embed_texts(prompts, encoder, tmp_path).rows, rows[64 : 64 + len(prompts)]
        )
