from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from climp_bench.data.scenes import dense_caption, draw, make_scene, short_captions
from climp_bench.data.transforms import to_tensor
from climp_bench.models.catalogue import find
from climp_bench.models.tokenizer import load
from climp_bench.models.vit import pack_images
from climp_bench.train import TrainConfig
from climp_bench.train.config import HELD_OUT_FIRST
from climp_bench.train.data import Batches, LowRes, Pictures, load_scenes, scale_down_and_up

Make = Callable[..., TrainConfig]


def test_pictures_are_what_evaluation_would_feed(pool: Path, tiny: Make) -> None:
    spec, rows = find("rope-vit", "micro"), np.array([5, 0, 17])
    images = load_scenes(spec, tiny(), pool, "cpu").images.take(rows)
    expected = [to_tensor(draw(make_scene("train", int(i)), 64, 64), spec.preprocess) for i in rows]
    torch.testing.assert_close(images, torch.stack(expected), rtol=0, atol=1e-5)


@pytest.mark.parametrize("held_out", [False, True])
def test_patches_are_what_pack_images_makes(pool: Path, tiny: Make, held_out: bool) -> None:
    spec, rows = find("naflexvit", "micro"), np.array([3, 0, 2])
    scenes = load_scenes(spec, tiny("naflexvit"), pool, "cpu", held_out=held_out)
    part = scenes.images._part  # type: ignore[union-attr]
    singles = []
    for row in rows:
        index = int(row) + (HELD_OUT_FIRST if held_out else 0)
        picture = draw(make_scene("train", index), *part.sizes[index % len(part.sizes)])
        pixels = torch.from_numpy(picture).permute(2, 0, 1) / 255.0
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (spec.preprocess.mean, spec.preprocess.std))
        singles.append((pixels - mean) / std)
    assert len({tuple(single.shape) for single in singles}) > 1
    expected, got = pack_images(singles, 8), scenes.images.take(rows)
    assert set(got) == set(expected)
    width = expected["patches"].shape[1]
    for name in expected:
        torch.testing.assert_close(got[name][:, :width], expected[name], rtol=0, atol=1e-5)  # type: ignore[index]
        assert not got[name][:, width:].any()  # type: ignore[index]


def test_low_resolution_of_patches_is_that_of_their_picture(pool: Path, tiny: Make) -> None:
    spec, rows = find("naflexvit", "micro"), np.array([4, 1, 10, 2])
    images = load_scenes(spec, tiny("naflexvit"), pool, "cpu").images
    part = images._part  # type: ignore[union-attr]
    plain, low = images.take(rows), images.take(rows, LowRes(3, 10))
    for row in range(4):
        height, width = part.sizes[rows[row] % len(part.sizes)]
        count = height * width // 64
        picture = draw(make_scene("train", int(rows[row])), height, width)
        pixels = torch.from_numpy(picture).permute(2, 0, 1)[None].float()
        if row < 3:
            pixels = scale_down_and_up(pixels, 10)
        expected = pack_images([(pixels[0] / 255.0 - 0.5) / 0.5], 8)["patches"][0]
        torch.testing.assert_close(low["patches"][row, :count], expected, rtol=0, atol=1e-5)  # type: ignore[index]
    assert not torch.equal(plain["patches"][:3], low["patches"][:3])  # type: ignore[index]


def test_scaling_down_and_up_blurs_and_keeps_what_is_smooth() -> None:
    checkers = (torch.arange(64) % 2 * 255.0).expand(1, 3, 64, 64)
    blurred = scale_down_and_up(checkers, 8)
    assert blurred.std() < checkers.std() / 10
    flat = torch.full((1, 3, 40, 96), 77.0)
    assert torch.equal(scale_down_and_up(flat, 8), flat)
    assert scale_down_and_up(checkers, 64) is checkers


def test_scaling_down_takes_the_shorter_side_to_its_size() -> None:
    picture = torch.rand(1, 3, 40, 96).mul(255).round()
    small = F.interpolate(picture, (10, 24), mode="bilinear", antialias=True).round()
    expected = F.interpolate(small, (40, 96), mode="bilinear", antialias=True).round()
    assert torch.equal(scale_down_and_up(picture, 10), expected)


def test_only_the_share_asked_for_is_scaled_down() -> None:
    pixels = torch.randint(0, 256, (6, 64, 64, 3), dtype=torch.uint8)
    images = Pictures(pixels, find("rope-vit", "micro").preprocess, "cpu")
    rows = np.arange(6)
    plain, low = images.take(rows), images.take(rows, LowRes(2, 8))
    assert [torch.equal(a, b) for a, b in zip(plain, low, strict=True)] == [False] * 2 + [True] * 4


def test_every_epoch_is_another_permutation(pool: Path, tiny: Make) -> None:
    config, spec = tiny(samples=480), find("rope-vit", "micro")
    batches = Batches(load_scenes(spec, config, pool, "cpu"), config, spec)
    epochs = [np.concatenate([batches.rows(3 * e + b) for b in range(3)]) for e in range(3)]
    for order in epochs:
        assert sorted(order) == list(range(24))
    assert len({order.tobytes() for order in epochs}) == 3


def test_a_batch_depends_on_seed_and_step_alone(pool: Path, tiny: Make) -> None:
    spec = find("flexivit", "micro")

    def batches(seed: int) -> Batches:
        config = tiny("flexivit", samples=960, seed=seed)
        return Batches(load_scenes(spec, config, pool, "cpu"), config, spec)

    straight, jumping = batches(1), batches(1)
    walked = [straight.batch(step) for step in range(12)]
    for step in (11, 0, 5):
        again = jumping.batch(step)
        assert torch.equal(again.images, walked[step].images)  # type: ignore[arg-type]
        assert torch.equal(again.ids_BL, walked[step].ids_BL)
        assert again.image_kwargs == walked[step].image_kwargs
    assert not torch.equal(batches(2).batch(0).images, walked[0].images)  # type: ignore[arg-type]
    assert {batch.image_kwargs["patch_size"] for batch in walked} == set(spec.image.patch_sizes)


def test_captions_belong_to_their_pictures_and_are_no_longer_than_the_longest(pool: Path, tiny: Make) -> None:
    config, spec, words = tiny(), find("rope-vit", "micro"), load("scenes-bpe")
    batches = Batches(load_scenes(spec, config, pool, "cpu"), config, spec)
    chosen = set()
    for step in range(6):
        batch = batches.batch(step)
        assert batch.ids_BL.shape == (8, int(batch.lengths_B.max()))
        for row, ids, length in zip(batches.rows(step), batch.ids_BL, batch.lengths_B, strict=True):
            scene = make_scene("train", int(row))
            short = words.encode(list(short_captions(scene)))
            (dense,) = words.encode([dense_caption(scene)])
            fitting = dense if len(dense) <= config.max_tokens else min(short, key=len)
            wanted = [fitting] if step % config.dense_every == 2 else short
            assert ids[:length].tolist() in wanted
            chosen.add(wanted.index(ids[:length].tolist()))
    assert chosen == {0, 1, 2, 3, 4}


def test_dense_captions_can_be_left_out(pool: Path, tiny: Make) -> None:
    config, spec = tiny(dense_every=0), find("rope-vit", "micro")
    batches = Batches(load_scenes(spec, config, pool, "cpu"), config, spec)
    assert max(int(batches.batch(step).lengths_B.max()) for step in range(6)) < 45
