from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from climp_bench.errors import UsageError
from climp_bench.models.catalogue import find
from climp_bench.train import MICRO, recipe

BUDGET = ["budget.samples=64", "budget.batch_size=8"]


def test_every_shipped_recipe_is_valid_and_names_a_model() -> None:
    assert set(recipe.available()) == {
        "climp-cc12m", "scenes-micro", "ablation-embedded", "scaling-embedded",
    }  # fmt: skip
    for name in recipe.available():
        loaded = recipe.load(name)
        assert loaded.name == name
        find(loaded.model.name)


def test_the_papers_recipe() -> None:
    """CLIMP: CC12M, 10 epochs, 224 pixels, AdamW, peak 5e-5, batch 2048, projection 768."""
    paper, spec = recipe.load("climp-cc12m"), find("climp-m1@base")
    assert (paper.budget.epochs, paper.budget.batch_size, paper.optimiser.lr) == (10, 2048, 5e-5)
    assert (spec.embed_dim, spec.preprocess.size, paper.loss.kind) == (768, (224, 224), "infonce")
    assert (paper.model.init_image, paper.model.init_text) == ("published", "published")
    assert paper.budget.steps(10_968_539) == 53_550


def test_the_micro_recipe_is_that_of_the_shipped_models() -> None:
    ours, theirs = recipe.load("scenes-micro"), asdict(MICRO)
    assert ours.model.name == f"{MICRO.family}@{MICRO.scale}"
    for section in (ours.data, ours.budget, ours.optimiser, ours.run):
        for key, value in section.model_dump().items():
            if key in theirs and key != "workers":
                assert theirs[key] == value, key
    assert ours.optimiser.warmup_steps(MICRO.steps) == round(MICRO.warmup_fraction * MICRO.steps)
    assert ours.budget.steps(MICRO.pool_size) == MICRO.steps


def test_changes_on_the_command_line() -> None:
    changed = recipe.load(
        "climp-cc12m",
        [
            "optimiser.lr=1e-4",
            "model.name=rope-vit@base",
            "budget.samples=4096",
            "data.path=/data/a b",
            'run.watch=["wandb"]',
        ],
    )
    assert (changed.optimiser.lr, changed.model.name, changed.data.path) == (
        1e-4,
        "rope-vit@base",
        "/data/a b",
    )
    assert (changed.budget.samples, changed.budget.epochs, changed.run.watch) == (4096, None, ("wandb",))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("optimiser.lrr=1", r"unknown key 'optimiser\.lrr' \(did you mean 'lr'\?\)"),
        ("optimizer.lr=1", r"unknown key 'optimizer' \(did you mean 'optimiser'\?\)"),
        ("loss.kind=triplet", r"loss\.kind: .*'infonce' or 'siglip'"),
        ("budget.batch_size=1", r"budget\.batch_size: .*greater than or equal to 2"),
        ("augment.crop_scale=[0.9, 0.1]", r"crop_scale must be two shares"),
        ("augment.sizes=[64, 0]", r"augment\.sizes\.1: .*greater than 0"),
        ("augment.patch_sizes=8", r"augment\.patch_sizes: .*valid tuple"),
        ("augment.token_budget=-1", r"augment\.token_budget: .*greater than or equal to 0"),
        ("optimiser.betas=[0.9, 1.0]", r"betas must be in \[0, 1\)"),
        ("data.source=dataset", r"a dataset needs its `name`"),
        ("lr", r"'lr' changes nothing"),
        ("name.a=1", r"'name' has no keys"),
    ],
)
def test_what_is_wrong_is_named(change: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        recipe.load("scenes-micro", [change])


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ("augment.sizes=[64]", "leave `sizes` and `patch_sizes` empty"),
        ("augment.patch_sizes=[8]", "leave `sizes` and `patch_sizes` empty"),
        ("augment.crop_ratio=[0.5, 2.0]", "leave out `crop_ratio`"),
    ],
)
def test_what_a_token_budget_excludes(other: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        recipe.load("scenes-micro", ["augment.token_budget=64", other])


def test_both_epochs_and_samples_in_a_file(tmp_path: Path) -> None:
    text = recipe.available()["scenes-micro"].read_text().replace("samples =", "epochs = 3\nsamples =")
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(UsageError, match="give either `epochs` or `samples`"):
        recipe.load(str(tmp_path / "mine.toml"))


def test_unknown_names_and_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean 'scenes-micro'"):
        recipe.load("scene-micro")
    with pytest.raises(UsageError, match="no such recipe file"):
        recipe.load("missing.toml")
    (tmp_path / "broken.toml").write_text("schema = ")
    with pytest.raises(UsageError, match="not valid TOML"):
        recipe.load(str(tmp_path / "broken.toml"))


def test_what_may_change_when_a_run_goes_on() -> None:
    stored = recipe.load("scenes-micro", BUDGET).resolved()
    free = [
        "compute.strategy=fsdp",
        "compute.micro_batch=2",
        "run.log_every=1",
        "loss.chunk=3",
        "data.path=x",
    ]
    assert recipe.load("scenes-micro", [*BUDGET, *free]).differences(stored) == []
    for change in ("run.seed=1", "compute.precision=bf16", "optimiser.lr=1", "data.max_tokens=3"):
        (only,) = recipe.load("scenes-micro", [*BUDGET, change]).differences(stored)
        assert only.startswith(change.split("=")[0])


def test_a_key_that_came_later_had_its_default() -> None:
    stored = recipe.load("scenes-micro", BUDGET).resolved()
    for key in ("sizes", "patch_sizes", "token_budget"):
        del stored["augment"][key]
    assert recipe.load("scenes-micro", BUDGET).differences(stored) == []
    changed = recipe.load("scenes-micro", [*BUDGET, "augment.sizes=[32]"])
    assert changed.differences(stored) == ["augment.sizes [], not [32]"]


def test_resolved_is_read_back_and_has_a_digest() -> None:
    one = recipe.load("scenes-micro")
    again = recipe.validate(one.resolved(), "here")
    assert again == one and again.digest == one.digest
    assert recipe.load("scenes-micro", BUDGET).digest != one.digest
