"""Pairs that are decoded: which ones, in what order, what is done to them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from climp_bench.errors import DataError, TrainingError, UsageError
from climp_bench.models import tokenizer
from climp_bench.train import engine, recipe
from climp_bench.train.data import Batch
from climp_bench.train.feed import spans
from climp_bench.train.pairs import PairFeed, crop
from climp_bench.train.recipe import AugmentSection
from climp_bench.train.shards import ShardPairs, expand, find_shards
from climp_bench.train.world import World
from tests.conftest import png, write_tar
from tests.unit.train.small import metrics, small_spec, train_small

Make = Callable[..., Path]
N, SIZE = 44, 8
CHANGES = (
    "data.source=shards", "data.held_out=4", "data.window=2", "budget.batch_size=8", "budget.samples=80",
    "augment.crop_scale=[0.5, 1.0]",
)  # fmt: skip


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Four shards of eleven pairs, as img2dataset leaves them; samples of ``broken`` do not decode."""

    def write(broken: tuple[int, ...] = ()) -> Path:
        for shard in range(4):
            members: list[tuple[str, bytes]] = []
            for i in range(shard * 11, shard * 11 + 11):
                image = b"no image" if i in broken else png(i, (20, 16))
                members += [(f"{i:05d}.png", image), (f"{i:05d}.txt", f"picture {i}\n".encode())]
                members += [(f"{i:05d}.json", b"{}")]
            write_tar(tmp_path / "tars" / f"{shard:02d}.tar", [*members, ("lonely.png", png(0))])
        return tmp_path / "tars"

    return write


def source(folder: Path, files: str = "{00..03}.tar") -> ShardPairs:
    return ShardPairs(find_shards(folder, files), folder / "index")


def feed(folder: Path, world: World | None = None, *changes: str, workers: int = 0) -> PairFeed:
    chosen = recipe.load("scenes-micro", [*CHANGES, f"data.path={folder}", *changes])
    where = spans(world or World(), chosen.budget.batch_size, chosen.compute.micro_batch)
    words = tokenizer.load("scenes-bpe")
    return PairFeed(source(folder), chosen, small_spec(), words, where, "cpu", workers)


def joined(parts: list[Batch]) -> tuple[Tensor, list[list[int]]]:
    """Images and ids, without the padding."""
    images = torch.cat([part.images for part in parts if isinstance(part.images, Tensor)])
    ids = [row[:n].tolist() for part in parts for row, n in zip(part.ids_BL, part.lengths_B, strict=True)]
    return images, ids


def test_names_of_shards() -> None:
    assert expand("cc-{0008..0011}.tar") == ["cc-0008.tar", "cc-0009.tar", "cc-0010.tar", "cc-0011.tar"]
    assert expand("{9..11}") == ["9", "10", "11"]
    assert expand("{0..1}/{1..2}.tar") == ["0/1.tar", "0/2.tar", "1/1.tar", "1/2.tar"]


def test_missing_shards_are_named(make: Make, tmp_path: Path) -> None:
    folder = make()
    (folder / "02.tar").unlink()
    with pytest.raises(DataError, match=r"1 of 4 shards are missing: 02\.tar"):
        find_shards(folder, "{00..03}.tar")
    assert len(find_shards(folder, "*.tar")) == 3
    with pytest.raises(DataError, match=r"no shard is called cc-\*\.tar"):
        find_shards(folder, "cc-*.tar")
    with pytest.raises(DataError, match="no such folder"):
        find_shards(tmp_path / "elsewhere", "*.tar")


def test_a_shard_that_is_cut_off(make: Make) -> None:
    folder = make()
    content = (folder / "01.tar").read_bytes()
    (folder / "01.tar").write_bytes(content[: len(content) // 2 + 100])
    with pytest.raises(DataError, match=r"01\.tar.*(cut off|not a readable tar)"):
        source(folder)


def test_every_pair_is_found_and_read(make: Make) -> None:
    pairs = source(make())
    assert len(pairs) == N
    captions = [pairs.pair(row, (16, 16))[1] for row in range(N)]
    assert captions == [(f"picture {i}",) for i in range(N)]
    assert pairs.pair(3, (16, 16))[0].shape == (20, 16, 3)


def test_an_order_is_a_permutation_that_mixes_a_window_of_shards(make: Make) -> None:
    pairs = source(make())
    one, again, other = (pairs.order(40, np.random.default_rng(seed), 2) for seed in (1, 1, 2))
    assert sorted(one) == list(range(40)) and (one == again).all() and (one != other).any()
    shards = np.asarray(pairs.table[one, 0])
    first = np.unique(shards[:18])
    assert len(first) <= 3 and len(np.unique(shards[:10])) == 2


def test_any_number_of_processes_sees_the_same_batch(make: Make) -> None:
    folder = make()
    whole = list(feed(folder).parts(0, 6))
    for size in (2, 3):
        shares = [
            list(feed(folder, World(rank, size), "compute.micro_batch=2").parts(0, 6)) for rank in range(size)
        ]
        for step in range(6):
            images, ids = joined([part for share in shares for part in share[step]])
            expected, words = joined(whole[step])
            assert torch.equal(images, expected) and ids == words


def test_workers_and_resuming_change_nothing(make: Make) -> None:
    folder = make()
    whole = list(feed(folder).parts(0, 7))
    late = list(feed(folder, workers=2).parts(4, 7))
    for mine, its in zip(late, whole[4:], strict=True):
        assert torch.equal(joined(mine)[0], joined(its)[0]) and joined(mine)[1] == joined(its)[1]


def test_an_epoch_shows_every_pair_but_the_held_out_ones(make: Make) -> None:
    pairs = feed(make())
    first = np.concatenate([pairs.rows(step) for step in range(5)])
    second = np.concatenate([pairs.rows(step) for step in range(5, 10)])
    assert sorted(first) == sorted(second) == list(range(40))
    assert (first != second).any()
    said = [
        tokenizer.load("scenes-bpe").decode(ids) for parts in pairs.parts(0, 1) for ids in joined(parts)[1]
    ]
    assert said == [f"picture {row}" for row in first[:8]]


def test_bad_samples_give_way_to_their_neighbours_and_are_counted(make: Make) -> None:
    pairs = feed(make(broken=(3, 4, 17)))
    words = tokenizer.load("scenes-bpe")
    for step, parts in enumerate(pairs.parts(0, 5)):
        expected = [{3: 5, 4: 5, 17: 18}.get(int(row), int(row)) for row in pairs.rows(step)]
        assert [words.decode(ids) for ids in joined(parts)[1]] == [f"picture {row}" for row in expected]
    assert pairs.bad == 3


def test_too_little_data(make: Make) -> None:
    with pytest.raises(DataError, match="44 pairs are there; 40 are held out and a batch needs 8"):
        feed(make(), None, "data.held_out=40")


def test_a_batch_that_processes_cannot_share() -> None:
    with pytest.raises(UsageError, match="a batch of 3 on 2 processes has no 2 parts each"):
        spans(World(0, 2), 3, 1)


@given(
    height=st.integers(1, 60), width=st.integers(1, 60), low=st.floats(0.05, 1), seed=st.integers(0, 1000),
    flip=st.booleans(),
)  # fmt: skip
def test_crops_lie_within_and_keep_their_share(
    height: int, width: int, low: float, seed: int, flip: bool
) -> None:
    image = np.arange(height * width * 3, dtype=np.int32).reshape(height, width, 3)
    augment = AugmentSection(crop_scale=(low, 1.0), flip=flip)
    cut: Any = crop(image, augment, np.random.default_rng(seed))  # type: ignore[arg-type]
    assert cut.size and set(cut.ravel().tolist()) <= set(image.ravel().tolist())
    if min(cut.shape[:2]) > 8:
        assert cut.shape[0] * cut.shape[1] >= (low - 0.15) * height * width


def test_a_run_on_shards(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "find", engine.find)
    folder = make(broken=(3,))
    changes = [*CHANGES, f"data.path={folder}", "run.eval_every=5", "run.workers=1", "data.max_bad=0.1"]
    train_small(str(tmp_path / "out"), str(tmp_path / "pool"), *changes)
    logged = metrics(tmp_path / "out")
    assert len(logged) == 10 and logged[10]["bad"] == 2
    assert 0 <= logged[10]["wait_share"] <= 1
    card = (tmp_path / "out" / "weights" / "small-micro" / "README.md").read_text()
    assert "| samples replaced | 2 |" in card and "recall@5" in card


def test_too_many_bad_samples_stop_a_run(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "find", engine.find)
    changes = [*CHANGES, f"data.path={make(broken=tuple(range(5, 15)))}", "data.max_bad=0.05"]
    with pytest.raises(TrainingError, match=r"samples could not be read, more than data.max_bad allows"):
        train_small(str(tmp_path / "out"), str(tmp_path / "pool"), *changes)
