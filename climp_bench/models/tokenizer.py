"""Text to token ids: byte-level BPE on the ``tokenizers`` library, so that any text encodes.

There is no length limit. Padding stands on the right and its value has no meaning: lengths say what is real.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from importlib.resources import files
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor

from climp_bench.errors import DataError, UsageError, WeightsError

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

END_TOKEN = "<|end|>"
PAD_ID = 0
AT_A_TIME = 512
"""Texts handed to the library at a time: faster than tens of thousands at once (measured, design/log.md)."""
MIN_VOCAB_SIZE = len(pre_tokenizers.ByteLevel.alphabet()) + 1


class Tokenizer:
    """A tokenizer file and the two things models need of it.

    Whether an end token is appended is part of the file (its post-processor): ours append one, the
    tokenizer of the released CLIMP models appends none.

    Args:
        text: the content of a ``tokenizer.json``.
        limit: tokens that a text is cut to, special ones included; None cuts nothing.
    """

    def __init__(self, text: str, limit: int | None = None) -> None:
        self._text = text
        self._backend = Backend.from_str(text)
        if limit is None:
            self._backend.no_truncation()
        else:
            self._backend.enable_truncation(limit)
        self._backend.no_padding()
        self._backend.encode_special_tokens = True  # "<|end|>" inside a caption is text, not the end

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included."""
        return int(self._backend.get_vocab_size())

    @property
    def digest(self) -> str:
        """SHA-256 of the tokenizer file, hexadecimal."""
        return hashlib.sha256(self._text.encode()).hexdigest()

    def cut(self, limit: int) -> Tokenizer:
        """The same tokenizer, cutting texts to ``limit`` tokens; the end token stays where there is one."""
        return Tokenizer(self._text, limit)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, with the end token where the tokenizer has one.

        Raises:
            DataError: a text is empty or blank; the message names its index.
        """
        for index, text in enumerate(texts):
            if not text.strip():
                raise DataError(
                    "the caption is empty", where=f"caption {index}", remedy="Remove it or write one."
                )
        starts = range(0, len(texts), AT_A_TIME)
        some = (list(texts[start : start + AT_A_TIME]) for start in starts)
        return [encoding.ids for batch in some for encoding in self._backend.encode_batch_fast(batch)]

    def pad(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Right-pad to the longest row.

        Returns:
            ids (B, L) int64 and the lengths (B,) int64 of the rows before padding.

        Raises:
            DataError: there are no rows, or a row is empty; the message names its index.
        """
        if not rows:
            raise DataError("no captions to pad", remedy="Pass at least one row of token ids.")
        lengths = np.array([len(row) for row in rows], np.int64)
        if (empty := np.flatnonzero(lengths == 0)).size:
            raise DataError(
                "the row of token ids is empty", where=f"caption {empty[0]}", remedy="Encode a text."
            )
        ids = np.full((len(rows), lengths.max()), PAD_ID, np.int64)
        flat = np.fromiter(chain.from_iterable(rows), np.int64, int(lengths.sum()))
        ids[np.arange(ids.shape[1]) < lengths[:, None]] = flat
        return torch.from_numpy(ids), torch.from_numpy(lengths)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ``ids``, without special tokens."""
        return str(self._backend.decode(list(ids)))

    def to_json(self) -> str:
        """The tokenizer file."""
        return self._text


def train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learn a byte-level BPE (Sennrich et al. 2016; bytes as in GPT-2) with the end token as id 0.

    The result depends only on the multiset of texts, not on their order. Text decodes back unchanged.

    Args:
        texts: the corpus.
        vocab_size: upper bound on the number of ids; at least 257 (an end token and 256 bytes).

    Raises:
        UsageError: ``vocab_size`` is too small for every byte to have an id.
    """
    if vocab_size < MIN_VOCAB_SIZE:
        raise UsageError(
            f"a vocabulary of {vocab_size} cannot hold every byte",
            remedy=f"Ask for {MIN_VOCAB_SIZE} or more.",
        )
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_TOKEN],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    end_id = backend.token_to_id(END_TOKEN)
    backend.post_processor = processors.TemplateProcessing(
        single=f"$A {END_TOKEN}", special_tokens=[(END_TOKEN, end_id)]
    )
    return Tokenizer(backend.to_str(pretty=True))


def is_shipped(name: str) -> bool:
    """Whether ``load`` knows the name."""
    return _shipped(name).is_file()


def load(name: str) -> Tokenizer:
    """The tokenizer shipped as ``tokenizers/{name}.json``.

    Raises:
        UsageError: there is none of that name.
    """
    source = _shipped(name)
    if not source.is_file():
        folder = files("climp_bench.models") / "tokenizers"
        known = sorted(f.name.removesuffix(".json") for f in folder.iterdir()) if folder.is_dir() else []
        raise UsageError(
            f"unknown tokenizer {name!r}", remedy=f"Known tokenizers: {', '.join(known) or 'none'}."
        )
    return Tokenizer(source.read_text(encoding="utf-8"))


def load_file(path: Path) -> Tokenizer:
    """The tokenizer in a ``tokenizer.json``, or in the folder that holds one.

    Raises:
        WeightsError: there is no such file, or it is not one of the ``tokenizers`` library.
    """
    path = path / "tokenizer.json" if path.is_dir() else path
    try:
        return Tokenizer(path.read_text(encoding="utf-8"))
    except Exception as error:  # the library raises bare Exception
        raise WeightsError(
            f"not a readable tokenizer ({error})",
            where=str(path),
            remedy="Name a tokenizer.json of the `tokenizers` library.",
        ) from error


def _shipped(name: str) -> Traversable:
    return files("climp_bench.models") / "tokenizers" / f"{name}.json"
