"""The tokenizer: lossless, deterministic, unlimited; padding tells real tokens by lengths."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers

from climp_bench.errors import DataError, UsageError
from climp_bench.models import tokenizer
from climp_bench.models.tokenizer import END_TOKEN, MIN_VOCAB_SIZE, Tokenizer, load, train_bpe

CORPUS = [
    f"{count} {size} {colour} {shape}s {place} a {colour} ring"
    for count in ("two", "three", "many")
    for size in ("small", "large")
    for colour in ("red", "green", "blue")
    for shape in ("circle", "square", "triangle")
    for place in ("above", "left of")
]
TOKENIZER = train_bpe(CORPUS, 310)
BLANK = st.text().filter(lambda text: not text.strip())


@given(st.text(min_size=1).filter(str.strip))
def test_any_text_comes_back(text: str) -> None:
    (ids,) = TOKENIZER.encode([text])
    assert ids[-1] == 0
    assert 0 not in ids[:-1]
    assert TOKENIZER.decode(ids) == text


@pytest.mark.parametrize("text", [END_TOKEN, f"a red {END_TOKEN} ring{END_TOKEN}", "日本語 🟥\n\ttab"])
def test_no_text_can_forge_the_end_token(text: str) -> None:
    (ids,) = TOKENIZER.encode([text])
    assert ids.count(0) == 1
    assert TOKENIZER.decode(ids) == text


def test_frequent_words_become_one_token() -> None:
    (ids,) = TOKENIZER.encode(["two red circles"])
    assert len(ids) < 8


def test_training_depends_on_the_texts_alone() -> None:
    shuffled = CORPUS.copy()
    random.Random(5).shuffle(shuffled)
    again = train_bpe(iter(shuffled), 310)
    assert again.to_json() == TOKENIZER.to_json()
    assert again.digest == TOKENIZER.digest
    assert train_bpe(CORPUS, 300).digest != TOKENIZER.digest


def test_vocabulary_size() -> None:
    assert TOKENIZER.vocab_size == 310
    assert train_bpe(["ab"], MIN_VOCAB_SIZE).vocab_size == MIN_VOCAB_SIZE == 257
    with pytest.raises(UsageError, match=r"256 cannot hold every byte.*Ask for 257"):
        train_bpe(CORPUS, 256)


def test_a_file_restores_the_tokenizer() -> None:
    restored = Tokenizer(TOKENIZER.to_json())
    assert restored.encode(CORPUS[:5]) == TOKENIZER.encode(CORPUS[:5])
    assert restored.digest == TOKENIZER.digest


def test_a_file_without_end_token_appends_none() -> None:
    backend = Backend(models.WordLevel({"red": 0, "ring": 1}, unk_token="ring"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    assert Tokenizer(backend.to_str()).encode(["red ring red"]) == [[0, 1, 0]]


def test_a_files_truncation_and_padding_are_ignored() -> None:
    backend = Backend.from_str(TOKENIZER.to_json())
    backend.enable_truncation(4)
    backend.enable_padding(length=500)
    texts = ["a", "a red circle " * 400]
    assert Tokenizer(backend.to_str()).encode(texts) == TOKENIZER.encode(texts)
    assert len(TOKENIZER.encode(texts)[1]) > 1000


@given(BLANK, st.integers(0, 3))
def test_an_empty_caption_is_named(blank: str, position: int) -> None:
    texts = ["a ring"] * 3
    texts.insert(position, blank)
    with pytest.raises(DataError, match=f"^caption {position}: the caption is empty"):
        TOKENIZER.encode(texts)


@given(st.lists(st.lists(st.integers(0, 309), min_size=1, max_size=12), min_size=1, max_size=6))
def test_padding(rows: list[list[int]]) -> None:
    ids, lengths = TOKENIZER.pad(rows)
    assert ids.dtype == lengths.dtype == torch.int64
    assert ids.shape == (len(rows), max(map(len, rows)))
    for row, padded, length in zip(rows, ids.tolist(), lengths.tolist(), strict=True):
        assert padded[:length] == row
        assert not any(padded[length:])


def test_nothing_to_pad() -> None:
    with pytest.raises(DataError, match="no captions"):
        TOKENIZER.pad([])
    with pytest.raises(DataError, match=r"^caption 1: the row"):
        TOKENIZER.pad([[3], [], [4], []])


def test_many_texts_are_encoded_as_each_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"{text} {k}" for k, text in enumerate(CORPUS)]
    wanted = [TOKENIZER.encode([text])[0] for text in texts]
    for at_a_time in (1, 7, len(texts)):
        monkeypatch.setattr(tokenizer, "AT_A_TIME", at_a_time)
        assert TOKENIZER.encode(texts) == wanted


def test_no_texts_no_rows() -> None:
    assert TOKENIZER.encode([]) == []


def test_an_unknown_tokenizer() -> None:
    with pytest.raises(UsageError, match=r"unknown tokenizer 'missing'.*Known tokenizers:"):
        load("missing")
