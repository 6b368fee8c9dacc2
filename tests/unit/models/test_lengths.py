"""How long texts are for a model, and a model that reads less of them: ours, OpenCLIP's, transformers'."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch

from climp_bench.embed.extract import text_key
from climp_bench.errors import UsageError
from climp_bench.models.adapters import CatalogueEncoder, Encoder
from climp_bench.models.peers import open_peer
from climp_bench.models.tokenizer import train_bpe
from climp_bench.models.weights import resolve
from tests.tiny_peers import ARCH, open_clip_checkpoint, register_arch, save_hf

LONG = "a red square and two small stars on a blue ground " * 12
TEXTS = ["x", "the letter B, in green", LONG]


@pytest.fixture
def peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Encoder]:
    """Tiny models with random weights: ``open_clip`` (77 tokens), ``clip`` (24), ``siglip`` (16, padded)."""

    def make(kind: str) -> Encoder:
        if kind == "open_clip":
            register_arch(tmp_path, monkeypatch)
            open_clip_checkpoint(tmp_path / "tiny.pt")
            return open_peer(f"open_clip:{ARCH}/{tmp_path / 'tiny.pt'}", "cpu", "float32")
        save_hf(tmp_path / kind, kind)
        return open_peer(f"hf:{tmp_path / kind}", "cpu", "float32")

    return make


def encode(encoder: Encoder, texts: list[str]) -> np.ndarray:
    return encoder.encode_tokens(encoder.tokenize(texts))


@pytest.mark.parametrize(("kind", "context"), [("open_clip", 77), ("clip", 24), ("siglip", 16)])
def test_peers_state_where_they_cut_and_count_what_they_cut(
    peer: Callable[[str], Encoder], kind: str, context: int
) -> None:
    encoder = peer(kind)
    assert encoder.context_length == context
    short, middle, long = encoder.count_tokens(TEXTS)
    assert short < middle < context < long
    assert long > 100 and encoder.count_tokens([]) == []
    assert len(encoder.tokenize(TEXTS)[2]) == context


@pytest.mark.parametrize("kind", ["open_clip", "clip", "siglip"])
def test_a_shorter_peer_reads_the_beginning_only(peer: Callable[[str], Encoder], kind: str) -> None:
    encoder = peer(kind)
    cut = encoder.at_length(12)
    assert cut.context_length == 12 and encoder.context_length != 12
    other_end = LONG[:250] + "quite another end"
    full, shorter = encode(encoder, TEXTS), encode(cut, [*TEXTS, other_end])
    np.testing.assert_allclose(shorter[:1], full[:1], atol=1e-6)  # one token is not cut
    np.testing.assert_allclose(shorter[2], shorter[3], atol=1e-6)
    assert np.abs(shorter[2] - full[2]).max() > 1e-3
    assert cut.model is encoder.model
    assert cut.count_tokens(TEXTS) == encoder.count_tokens(TEXTS)
    assert text_key(TEXTS, cut).digest() != text_key(TEXTS, encoder).digest()
    same = encoder.at_length(500)
    assert same.text_transform == encoder.text_transform and same.context_length == encoder.context_length


def test_openclip_ends_a_cut_text_as_it_does_its_own(peer: Callable[[str], Encoder]) -> None:
    encoder = peer("open_clip")
    own = open_clip.get_tokenizer(ARCH)([LONG], context_length=12)[0].tolist()
    assert encoder.at_length(12).tokenize([LONG])[0] == own + [0] * 65
    padded = open_clip.get_tokenizer(ARCH)("a red square")
    assert encoder.count_tokens(["a red square"]) == [int((padded > 0).sum())]


def test_a_tokenizer_with_a_way_of_its_own_to_shorten_is_left_alone(
    peer: Callable[[str], Encoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = peer("open_clip")
    monkeypatch.setattr(encoder._tokenizer, "reduction_fn", print)
    with pytest.raises(UsageError, match="how to cut"):
        encoder.at_length(12)


@pytest.mark.parametrize("kind", ["open_clip", "clip", "siglip"])
def test_the_logit_scale_is_the_one_of_the_weights(peer: Callable[[str], Encoder], kind: str) -> None:
    encoder = peer(kind)
    scale = encoder.logit_scale()
    assert scale == pytest.approx(math.exp(encoder.model.logit_scale.item()), rel=1e-5)  # type: ignore[attr-defined]


def test_a_tokenizer_cut_short_keeps_its_end_token() -> None:
    tokenizer = train_bpe(TEXTS, 300)
    (whole,) = tokenizer.encode([LONG])
    (cut,) = tokenizer.cut(9).encode([LONG])
    assert cut == [*whole[:8], whole[-1]] and len(whole) > 9
    assert tokenizer.encode([LONG]) == [whole]
    assert tokenizer.cut(9).digest == tokenizer.digest


def test_our_models_have_no_limit_until_one_is_asked_for() -> None:
    encoder = CatalogueEncoder(resolve("climp-m1@micro"))
    assert encoder.context_length is None
    cut = encoder.at_length(10)
    assert [len(row) for row in cut.tokenize(TEXTS)] == [min(n, 10) for n in encoder.count_tokens(TEXTS)]
    full, shorter = encode(encoder, TEXTS), encode(cut, TEXTS)
    assert np.abs(full[0] - shorter[0]).max() < 1e-6 < np.abs(full[2] - shorter[2]).max()
    assert cut.model is encoder.model
    with torch.no_grad():
        assert encoder.logit_scale() == pytest.approx(float(encoder.model.logit_scale.exp()))
    assert 1 < encoder.logit_scale() <= 100.001
