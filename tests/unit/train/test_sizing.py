"""Steps of several sizes, several patch sizes, and pictures of their own shape under a budget of tokens."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from climp_bench.data.scenes import draw, make_scene
from climp_bench.data.transforms import to_tensor
from climp_bench.errors import UsageError
from climp_bench.models import tokenizer
from climp_bench.models.catalogue import build, find
from climp_bench.models.configs import FlexiVitConfig, NaFlexVitConfig, RopeVitConfig
from climp_bench.models.dual_encoder import DualEncoder
from climp_bench.models.spec import ModelSpec
from climp_bench.models.vit import pack_images
from climp_bench.ops.dispatch import preferred
from climp_bench.specs import ImagePreprocess
from climp_bench.train import TrainingStopped, engine, recipe
from climp_bench.train.data import Batch, load_scenes
from climp_bench.train.feed import scenes_config
from climp_bench.train.learner import Learner
from climp_bench.train.pairs import crop
from climp_bench.train.recipe import AugmentSection, Recipe
from climp_bench.train.sizing import Sizing
from climp_bench.train.starting import open_feed
from climp_bench.train.world import World, open_world
from tests.conftest import png, write_tar
from tests.unit.train.processes import spread
from tests.unit.train.small import PLAIN, SMALL_RUN, Acting, full, metrics, small_spec

SHAPE: dict[str, Any] = {"embed_dim": 24, "depth": 1, "num_heads": 2, "patch_size": 8, "img_size": 32}
IMAGES: dict[str, Any] = {
    "rope": RopeVitConfig(**SHAPE, layer_scale=None),
    "flexi": FlexiVitConfig(**SHAPE, patch_sizes=(4, 8, 16)),
    "naflex": NaFlexVitConfig(**SHAPE, layer_scale=None),
}
CASES = [
    ("vmamba", "augment.sizes=[16, 24, 40]"),
    ("rope", "augment.sizes=[16, 24, 40]"),
    ("flexi", "augment.sizes=[16, 32, 48]"),
    ("flexi", "augment.patch_sizes=[2, 8, 16]"),
    ("naflex", "augment.sizes=[16, 24, 40]"),
    ("naflex", "augment.token_budget=11"),
]
SHARP = "data.lowres_prob=0"
each_case = pytest.mark.parametrize(("family", "change"), CASES)
each_source = pytest.mark.parametrize("source", ["shards", "scenes"])


def model_spec(family: str) -> ModelSpec:
    spec = small_spec()
    if family == "vmamba":
        return spec
    native = ImagePreprocess(size=(64, 64), mode="native", multiple=8)
    preprocess = native if family == "naflex" else spec.preprocess
    return replace(spec, family=family, image=IMAGES[family], preprocess=preprocess)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty pairs in tars, pictures of many shapes, and room for a pool."""
    made = tmp_path_factory.mktemp("data")
    for shard in range(2):
        members = []
        for i in range(shard * 10, shard * 10 + 10):
            image = png(i, (20 + 7 * i % 50, 90 - 13 * i % 60))
            members += [(f"{i:02d}.png", image), (f"{i:02d}.txt", f"picture {i}".encode())]
        write_tar(made / "tars" / f"{shard}.tar", members)
    return made


def chosen(folder: Path, source: str, *changes: str) -> Recipe:
    own = [
        f"data.source={source}",
        f"data.path={folder / 'tars'}",
        "budget.batch_size=8",
        "budget.samples=96",
    ]
    return recipe.load("scenes-micro", [*SMALL_RUN, *own, *changes])


def opened(
    folder: Path, source: str, family: str, *changes: str, world: World | None = None
) -> tuple[Any, Sizing, ImagePreprocess]:
    """The feed of a recipe, its sizes, and how its model sees pictures."""
    run, spec = chosen(folder, source, *changes), model_spec(family)
    words = tokenizer.load("scenes-bpe")
    feed = open_feed(run, spec, world or World(), words, folder / "pool", lambda *_: None)
    return feed, Sizing(run.augment, spec, run.run.seed), spec.preprocess


def parts(
    folder: Path,
    source: str,
    family: str,
    *changes: str,
    world: World | None = None,
    steps: Sequence[int] = (0, 4),
) -> list[list[Batch]]:
    """What a process is fed from the first step to before the last."""
    return list(opened(folder, source, family, *changes, world=world)[0].parts(*steps))


def looks(images: Any) -> list[tuple[Any, ...]]:
    """Each image by itself: its shape or places, and its values."""
    if isinstance(images, Tensor):
        return [(tuple(image.shape), image.tolist()) for image in images]
    kept = zip(images["patches"], images["patch_coord"], images["patch_valid"], strict=True)
    return [(coord[valid].tolist(), patches[valid].tolist()) for patches, coord, valid in kept]


@each_source
@each_case
def test_any_number_of_processes_and_a_later_start_see_the_same(
    folder: Path, source: str, family: str, change: str
) -> None:
    def seen(*more: str, rank: int = 0, size: int = 1, steps: Sequence[int] = (0, 4)) -> list[list[Any]]:
        given = parts(folder, source, family, change, *more, world=World(rank, size), steps=steps)
        return [[(look, b.image_kwargs) for b in step for look in looks(b.images)] for step in given]

    whole = seen()
    for size in (2, 3):
        shares = [seen("compute.micro_batch=2", rank=rank, size=size) for rank in range(size)]
        assert [[sample for share in shares for sample in share[step]] for step in range(4)] == whole
    assert seen(steps=(2, 4)) == whole[2:]
    assert len({str((look[0], kwargs)) for step in whole for look, kwargs in step}) > 1, "all are alike"


def test_a_size_is_drawn_by_seed_and_step_alone_and_all_are() -> None:
    augment, spec = AugmentSection(sizes=(16, 24, 40)), model_spec("rope")
    one, again, other = (Sizing(augment, spec, seed) for seed in (3, 3, 4))
    drawn = [one.at(step).size for step in range(300)]
    assert drawn == [again.at(step).size for step in range(300)]
    assert drawn != [other.at(step).size for step in range(300)]
    assert set(drawn) == {(16, 16), (24, 24), (40, 40)} and one.drawn.size == (40, 40)
    assert min(drawn.count(size) for size in set(drawn)) > 60


@pytest.mark.parametrize("family", ["vmamba", "rope", "flexi"])
def test_pictures_of_shards_are_resized_straight_to_the_size_of_the_step(folder: Path, family: str) -> None:
    changes = ["augment.sizes=[16, 48]", "augment.crop_scale=[1.0, 1.0]", "augment.patch_sizes=[]"]
    feed, sizing, preprocess = opened(folder, "shards", family, *changes)
    for step, (batch,) in enumerate(feed.parts(0, 4)):
        side = sizing.at(step).size
        for row, image in zip(feed.rows(step), batch.images, strict=True):
            pixels = (
                torch.from_numpy(feed._source.pair(int(row), (1, 1))[0].copy()).permute(2, 0, 1)[None].float()
            )
            resized = F.interpolate(pixels, side, mode="bilinear", antialias=True)[0] / 255
            mean, std = (torch.tensor(v).view(3, 1, 1) for v in (preprocess.mean, preprocess.std))
            torch.testing.assert_close(image * std + mean, resized, rtol=0, atol=1.5 / 255)


@pytest.mark.parametrize("budget", [3, 7, 50])
def test_packed_pictures_keep_their_shape_within_the_budget(folder: Path, budget: int) -> None:
    changes = [f"augment.token_budget={budget}", "augment.crop_scale=[1.0, 1.0]"]
    feed, _, _ = opened(folder, "shards", "naflex", *changes)
    grids = set()
    for step, (batch,) in enumerate(feed.parts(0, 2)):
        counts = batch.images["patch_valid"].sum(1)
        assert counts.max() <= budget and batch.images["patches"].shape[1] == counts.max()
        assert batch.padding.tolist() == [int((counts.max() - counts).sum()), 8 * int(counts.max())]
        for row, coord, count in zip(feed.rows(step), batch.images["patch_coord"], counts, strict=True):
            h, w = (coord[:count].amax(0) + 1).tolist()
            height, width = feed._source.pair(int(row), (1, 1))[0].shape[:2]
            assert h * w == count > budget / 2
            ideal = (budget * height / width) ** 0.5
            assert abs(h - ideal) < 1 and abs(w - budget / ideal) < 1
            grids.add((h, w))
    assert len(grids) > 2


@given(height=st.integers(8, 90), width=st.integers(8, 90), low=st.floats(0.2, 1), seed=st.integers(0, 99))
def test_crops_under_a_budget_have_the_ratio_of_the_picture(
    height: int, width: int, low: float, seed: int
) -> None:
    image: Any = np.zeros((height, width, 3), np.uint8)
    augment = AugmentSection(crop_scale=(low, low), token_budget=9)
    h, w = crop(image, augment, np.random.default_rng(seed)).shape[:2]
    assert abs(h - height * low**0.5) <= 0.51 and abs(w - width * low**0.5) <= 0.51


def test_scenes_are_drawn_at_the_largest_size_and_scaled_down(folder: Path) -> None:
    feed, sizing, preprocess = opened(folder, "scenes", "rope", "augment.sizes=[16, 48]", SHARP)
    for step, (batch,) in enumerate(feed.parts(0, 4)):
        size = sizing.at(step).size
        for row, image in zip(feed.rows(step), batch.images, strict=True):
            expected = to_tensor(draw(make_scene("train", int(row)), 48, 48), replace(preprocess, size=size))
            assert image.shape[-2:] == size
            torch.testing.assert_close(image, expected, rtol=0, atol=1.01 / 255 / 0.22)


def test_scenes_of_many_shapes_are_scaled_down_and_packed(folder: Path) -> None:
    feed, sizing, preprocess = opened(folder, "scenes", "naflex", "augment.sizes=[24, 64]", SHARP)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (preprocess.mean, preprocess.std))
    shapes = feed._batches._scenes.images._part.sizes
    narrowed = set()
    for step, (batch,) in enumerate(feed.parts(0, 4)):
        side = sizing.at(step).size[0]
        for k, row in enumerate(feed.rows(step)):
            height, width = shapes[int(row) % len(shapes)]
            pixels = torch.from_numpy(draw(make_scene("train", int(row)), height, width)).permute(2, 0, 1)
            small = [
                length if side == 64 else max(8, int(length * 24 / 64) // 8 * 8) for length in (height, width)
            ]
            scaled = F.interpolate(pixels[None].float(), small, mode="bilinear", antialias=True)[0]
            (only,) = looks(pack_images([((scaled / 255) - mean) / std], 8))
            got = looks(batch.images)[k]
            assert got[0] == only[0]
            torch.testing.assert_close(
                torch.tensor(got[1]), torch.tensor(only[1]), rtol=0, atol=0.6 / 255 / 0.22
            )
            narrowed.add(len(only[0]))
    assert len(narrowed) > 3


@pytest.mark.parametrize("budget", [30, 100])
def test_scenes_are_within_a_budget_and_held_out_ones_are_as_before(folder: Path, budget: int) -> None:
    feed, _, _ = opened(folder, "scenes", "naflex", f"augment.token_budget={budget}", SHARP)
    counts = {int(n) for (batch,) in feed.parts(0, 4) for n in batch.images["patch_valid"].sum(1)}
    assert 0.8 * budget < max(counts) <= budget and len(counts) > 1
    plain = scenes_config(chosen(folder, "scenes"), model_spec("naflex"), 1)
    held_out = load_scenes(model_spec("naflex"), plain, folder / "pool", "cpu", held_out=True)
    rows = np.arange(4)
    assert looks(feed._held_out.images.take(rows)) == looks(held_out.images.take(rows))


def embedded(model: DualEncoder, batch: Batch) -> tuple[Tensor, Tensor]:
    image, text, _ = model(batch.images, batch.ids_BL, batch.lengths_B, **batch.image_kwargs)
    return image, text


def plain_gradients(folder: Path, family: str, change: str, step: int) -> dict[str, Tensor]:
    """Of the whole batch of a step in one piece, by autograd alone."""
    ((batch,),) = parts(folder, "shards", family, change, steps=(step, step + 1))
    model = build(model_spec(family), seed=1).train()
    image, text = embedded(model, batch)
    logits, own = model.logit_scale.exp() * image @ text.T, torch.arange(8)
    ((F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@preferred(PLAIN)
def learned_gradients(
    folder: Path, cases: list[tuple[str, str]], *changes: str, step: int = 1
) -> list[dict[str, Tensor]]:
    """By the trainer, for each case, in the world that the environment names."""
    outcomes = []
    with open_world("cpu", 60) as world:
        for family, change in cases:
            span = (step, step + 1)
            (given,) = parts(folder, "shards", family, change, *changes, world=world, steps=span)
            learner = Learner(build(model_spec(family), seed=1).train(), world)
            learner.gradients(given, step, 8)
            outcomes.append({
                name: full(p.grad) for name, p in learner.parameters().items() if p.grad is not None
            })  # fmt: skip
    return outcomes


@pytest.mark.parametrize("size", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_gradients_are_those_of_the_whole_batch_however_it_is_cut(folder: Path, size: int) -> None:
    cases = CASES if size == 1 else [CASES[3], CASES[5]]
    if size == 1:
        cuts = [learned_gradients(folder, cases, f"compute.micro_batch={n}") for n in (0, 3)]
    else:
        cuts = spread(2, learned_gradients, folder, cases, "compute.micro_batch=2")
    for k, (family, change) in enumerate(cases):
        with preferred(PLAIN):
            expected = plain_gradients(folder, family, change, 1)
        for got in (cut[k] for cut in cuts):
            assert got.keys() == expected.keys()
            for name, value in expected.items():
                torch.testing.assert_close(
                    got[name], value, rtol=1e-4, atol=1e-5,
                    msg=lambda text, name=name, case=(family, change): f"{case} {name}: {text}",
                )  # fmt: skip


def test_each_picture_of_a_padded_batch_embeds_as_it_does_alone(folder: Path) -> None:
    ((batch,),) = parts(folder, "shards", "naflex", "augment.token_budget=11", steps=(0, 1))
    model, (padded, _) = build(model_spec("naflex"), seed=1).eval(), batch.padding.tolist()
    assert padded > 0
    images: Any = batch.images
    with torch.no_grad():
        together = model.encode_image(images)
        for k, count in enumerate(images["patch_valid"].sum(1).tolist()):
            alone = {key: value[k : k + 1, :count] for key, value in images.items()}
            torch.testing.assert_close(together[k], model.encode_image(alone)[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "changes", "said"),
    [
        ("vmamba", ["augment.sizes=[16, 20, 30]"], "20, 30 pixels are no multiple of 8, .*multiples of 8"),
        ("rope", ["augment.sizes=[12]"], "12 pixels are no multiple of 8, the stride"),
        ("naflex", ["augment.sizes=[36]"], "36 pixels are no multiple of 8, the stride"),
        ("flexi", ["augment.sizes=[24]"], "24 pixels are no multiple of 16, .*or other augment.patch_sizes"),
        ("flexi", ["augment.patch_sizes=[8, 12]"], "32 pixels are no multiple of 12, a size of its patches"),
        ("rope", ["augment.patch_sizes=[8]"], "patches have one size.*train a flexivit"),
        ("naflex", ["augment.patch_sizes=[8]"], "patches have one size"),
        ("vmamba", ["augment.token_budget=9"], "all have one shape.*train a naflexvit"),
    ],
)  # fmt: skip
def test_what_a_model_cannot_take_is_refused_before_anything_is_made(
    folder: Path, tmp_path: Path, family: str, changes: list[str], said: str
) -> None:
    run, spec = chosen(folder, "scenes", *changes), model_spec(family)
    with pytest.raises(
        UsageError, match=re.compile(f"{family if family != 'vmamba' else 'small'}@micro.*{said}")
    ):
        engine.train_recipe(run, tmp_path / "out", "cpu", spec=spec)
    assert not (tmp_path / "out").exists()


def test_sizes_of_a_tower_that_is_not_ours_are_refused() -> None:
    spec = replace(small_spec(), image=small_spec().text)
    with pytest.raises(UsageError, match="nothing says which sizes a LlamaTextConfig takes"):
        Sizing(AugmentSection(sizes=(32,)), spec, 0)


def test_every_model_of_ours_takes_its_own_size() -> None:
    for family in ("climp-m1", "rope-vit", "flexivit", "naflexvit"):
        for name in (f"{family}@micro", f"{family}@base"):
            spec = find(name)
            own, step = spec.preprocess.size[0], 32 if family == "climp-m1" else 16
            patches = (16,) if family == "flexivit" else ()
            Sizing(AugmentSection(sizes=(own, own + step), patch_sizes=patches), spec, 0)
            with pytest.raises(UsageError):
                Sizing(AugmentSection(sizes=(own + 1,), patch_sizes=patches), spec, 0)


@preferred(PLAIN)
def train(out: Path, folder: Path, family: str, *changes: str, signal_at: int = 0) -> Path:
    run = chosen(folder, "shards", *changes)
    spec, acting = model_spec(family), Acting(signal_at, 0.0)
    return engine.train_recipe(run, out, "cpu", progress=acting, pool_dir=folder / "pool", spec=spec)


@pytest.mark.parametrize(
    ("family", "change", "fact", "steps"),
    [
        ("vmamba", "augment.sizes=[16, 24, 40]", "| sides in pixels, one drawn a step | 16, 24, 40 |", []),
        (
            "flexi",
            "augment.patch_sizes=[2, 8]",
            "| sides of patches in pixels, one drawn a step | 2, 8 |",
            [],
        ),
        ("naflex", "augment.token_budget=11", "| patches of a picture at most | 11 |", [5, 10, 12]),
    ],
)
def test_a_run_that_was_stopped_goes_on_alike_and_says_what_it_used(
    folder: Path, tmp_path: Path, family: str, change: str, fact: str, steps: list[int]
) -> None:
    own = [change, "run.log_every=5"]
    weights = train(tmp_path / "whole", folder, family, *own)
    with pytest.raises(TrainingStopped):
        train(tmp_path / "cut", folder, family, *own, signal_at=7)
    train(tmp_path / "cut", folder, family, *own)
    mine, its = metrics(tmp_path / "cut"), metrics(tmp_path / "whole")
    for step, line in its.items():
        for key in ("loss", "seen", "grad_norm", "padding_share"):
            assert mine[step].get(key) == line.get(key), key
    assert [step for step, line in its.items() if "padding_share" in line] == steps
    for first, last in pairwise([0, *steps]):
        given: Any = [
            part.padding for (part,) in parts(folder, "shards", family, change, steps=(first, last))
        ]
        padded, places = sum(given).tolist()
        assert its[last]["padding_share"] == padded / places > 0
    key, value = change.removeprefix("augment.").split("=")
    assert json.loads((weights / "origin.json").read_text())["recipe"]["augment"][key] == json.loads(value)
    assert fact in (weights / "README.md").read_text()


def test_a_plain_run_says_nothing_of_sizes(folder: Path, tmp_path: Path) -> None:
    weights = train(tmp_path, folder, "rope", "budget.samples=16")
    assert "## Pictures" not in (weights / "README.md").read_text()
