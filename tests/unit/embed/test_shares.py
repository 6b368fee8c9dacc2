"""Embeddings made by several ranks are those of one; what a rank cannot do is told, nothing wrong is kept."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from climp_bench.data.webdataset import WebDataset
from climp_bench.embed import batches, extract
from climp_bench.embed.extract import embed_images, embed_texts
from climp_bench.errors import BackendError, DataError, MetricError
from climp_bench.ranks import Team
from tests.fakes import ToyEncoder
from tests.unit.test_ranks import team

TEXTS = [f"a caption of {n} {'very ' * (n % 7)}short words" for n in range(90)]


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extract, "PART_IMAGES", 7)
    monkeypatch.setattr(batches, "_CPU_IMAGES", 2)
    monkeypatch.setattr(batches, "_CPU_TOKENS", 300)


def helpers(size: int, make: Callable[[int], ToyEncoder]) -> tuple[Any, dict[int, ToyEncoder]]:
    """A team whose helper ``r`` has the encoder ``make(r)``, and these encoders."""
    encoders = {rank: make(rank) for rank in range(1, size)}

    def do(rank: int, work: object) -> Generator[object]:
        yield from batches.do_share(work, rank, {encoders[rank].name: encoders[rank]})

    return team(size, do), encoders


@contextmanager
def ranks(size: int, make: Callable[[int], ToyEncoder] = lambda rank: ToyEncoder()) -> Iterator[Team]:
    with helpers(size, make)[0] as lead:
        yield lead


def part_digests(cache: Path) -> dict[str, str]:
    return {path.relative_to(cache).as_posix(): path.read_text() for path in cache.rglob("part-*.sha256")}


@pytest.mark.parametrize("size", [2, 3])
def test_the_same_bytes_in_the_cache_and_every_rank_encodes(size: int, make_wds, tmp_path: Path) -> None:
    dataset = WebDataset(make_wds(per_shard=20))
    alone = embed_images(dataset, [ToyEncoder()], tmp_path / "one")["toy@micro"].rows
    texts_alone = embed_texts(TEXTS, ToyEncoder(), tmp_path / "one").rows
    context, encoders = helpers(size, lambda rank: ToyEncoder())
    lead, own = context, ToyEncoder()
    told: list[int] = []
    with lead as gathered:
        rows = embed_images(dataset, [own], tmp_path / "all", team=gathered, progress=told.append)
        texts = embed_texts(TEXTS, own, tmp_path / "all", team=gathered)
    np.testing.assert_array_equal(rows["toy@micro"].rows, alone)
    np.testing.assert_array_equal(texts.rows, texts_alone)
    assert part_digests(tmp_path / "all") == part_digests(tmp_path / "one")
    assert sum(told) == len(dataset)
    everyone = [own, *encoders.values()]
    # of 40 images in parts of 7 and batches of 2 there are 23 batches
    assert sum(e.image_batches for e in everyone) == 23
    assert all(abs(e.image_batches - 23 / size) < 1 for e in everyone)
    assert sum(e.texts_encoded for e in everyone) == len(TEXTS)
    assert all(e.texts_encoded > 0 for e in everyone)


def test_two_models_of_two_sizes_are_shared(make_wds, tmp_path: Path) -> None:
    dataset = WebDataset(make_wds())
    models = [ToyEncoder("a"), ToyEncoder("b"), ToyEncoder("c", size=(4, 4))]
    alone = embed_images(dataset, models, tmp_path / "one")

    def do(rank: int, work: object) -> Generator[object]:
        own = {e.name: e for e in (ToyEncoder("a"), ToyEncoder("b"), ToyEncoder("c", size=(4, 4)))}
        yield from batches.do_share(work, rank, own)

    with team(2, do) as lead:
        shared = embed_images(dataset, models, tmp_path / "all", team=lead)
    for name, embedded in alone.items():
        np.testing.assert_array_equal(shared[name].rows, embedded.rows)


def test_a_rank_with_other_weights_is_refused_and_nothing_of_it_is_kept(make_wds, tmp_path: Path) -> None:
    dataset = WebDataset(make_wds())

    def other(rank: int) -> ToyEncoder:
        encoder = ToyEncoder()
        encoder.weights_digest = "other"
        return encoder

    with ranks(2, other) as lead:
        with pytest.raises(BackendError, match=r"toy@micro \[rank 1 on .*\]: .* differ in weights"):
            embed_images(dataset, [ToyEncoder()], tmp_path, team=lead)
        with pytest.raises(BackendError, match="differ in weights"):
            embed_texts(TEXTS, ToyEncoder(), tmp_path, team=lead)
    assert not list(tmp_path.rglob("manifest.json"))
    rows = embed_images(dataset, [ToyEncoder()], tmp_path)["toy@micro"].rows
    np.testing.assert_array_equal(
        rows, embed_images(dataset, [ToyEncoder()], tmp_path / "x")["toy@micro"].rows
    )


def test_a_bad_image_in_the_share_of_a_helper_is_named_and_the_rest_is_resumed(
    make_wds, tmp_path: Path
) -> None:
    root = make_wds(per_shard=14)
    good = (root / "test/1.tar").read_bytes()
    (root / "test/1.tar").write_bytes(good.replace(b"IHDR", b"JUNK"))
    dataset = WebDataset(root)
    cache = tmp_path / "cache"
    with ranks(2) as lead, pytest.raises(DataError, match=r"1\.tar:s00000\d\d.*rank 1 on"):
        embed_images(dataset, [ToyEncoder()], cache, team=lead)
    assert not list(cache.rglob("manifest.json"))


def test_an_embedding_of_a_helper_that_is_not_finite_is_refused(make_wds, tmp_path: Path) -> None:
    dataset = WebDataset(make_wds())
    with (
        ranks(2, lambda rank: ToyEncoder(poison="images")) as lead,
        pytest.raises(MetricError, match="tar:s"),
    ):
        embed_images(dataset, [ToyEncoder()], tmp_path, team=lead)
    with (
        ranks(2, lambda rank: ToyEncoder(poison="texts")) as lead,
        pytest.raises(MetricError, match="text 'a"),
    ):
        embed_texts(TEXTS, ToyEncoder(), tmp_path, team=lead)


def test_a_length_that_texts_are_cut_to_travels(tmp_path: Path) -> None:
    class Cutting(ToyEncoder):
        def at_length(self, tokens: int) -> Cutting:
            other = Cutting()
            other.context_length = tokens
            other.text_transform = f"characters, at most {tokens} tokens"
            return other

        def tokenize(self, texts):
            return [row[: self.context_length] for row in super().tokenize(texts)]

    cut = Cutting().at_length(12)
    alone = embed_texts(TEXTS, cut, tmp_path / "one").rows
    with ranks(2, lambda rank: Cutting()) as lead:
        shared = embed_texts(TEXTS, cut, tmp_path / "all", team=lead).rows
    np.testing.assert_array_equal(shared, alone)
