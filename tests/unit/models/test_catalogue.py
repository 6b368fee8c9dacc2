"""The catalogue: comparable micro models, names that explain themselves, models of other packages."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch

from climp_bench.errors import UsageError, WeightsError
from climp_bench.models import catalogue
from climp_bench.models.catalogue import MODELS, Tower, build, describe, find, operators
from climp_bench.models.configs import LlamaTextConfig, RopeScaling
from climp_bench.models.spec import ModelSpec, defaults
from climp_bench.models.store import CONFIG, SHIPPED, check_config
from climp_bench.models.tokenizer import load as load_tokenizer
from climp_bench.registry import Registry
from climp_bench.specs import HALF, IMAGENET_MEAN, IMAGENET_STD, ImagePreprocess

COMPARED = ("climp-m1", "climp-m2", "rope-vit", "flexivit", "naflexvit")
ABLATION = ("climp-llama", "rope-vit-m1", "rope-vit-m2")
MICRO = [spec.name for spec in MODELS if spec.scale == "micro"]
IDS, LENGTHS = torch.tensor([[5, 9, 0], [7, 0, 3]]), torch.tensor([3, 1])


@pytest.fixture
def other_package(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, object]]:
    """An installed package's entry points, by value; the catalogue is put back afterwards."""
    objects: dict[str, object] = {}

    class Point(EntryPoint):
        def load(self) -> object:
            loaded = objects[self.value]
            if isinstance(loaded, Exception):
                raise loaded
            return loaded

    def points(group: str) -> list[EntryPoint]:
        return [Point(name=value.partition(":")[2], value=value, group=group) for value in objects]

    registry: Registry[ModelSpec] = Registry("model")
    for spec in MODELS:
        registry.add(spec.name, spec)
    monkeypatch.setattr(catalogue, "MODELS", registry)
    monkeypatch.setattr(catalogue, "entry_points", points)
    catalogue._load_entry_points.cache_clear()
    yield objects
    catalogue._load_entry_points.cache_clear()


def test_the_families() -> None:
    assert [name.removesuffix("@micro") for name in MICRO] == [*COMPARED, *ABLATION]


def test_the_compared_towers_are_of_one_size() -> None:
    """All image towers within 10% of each other, and all text towers; both in the range of a micro model."""
    sizes = [describe(find(family, "micro")) for family in (*COMPARED, *ABLATION)]
    images, texts = [size.image for size in sizes], [size.text for size in sizes]
    assert 1.4e6 <= min(images) <= max(images) <= 1.6e6
    assert 0.8e6 <= min(texts) <= max(texts) <= 1.0e6
    assert max(images) <= 1.1 * min(images)
    assert max(texts) <= 1.1 * min(texts)


@pytest.mark.parametrize("name", MICRO)
def test_it_builds_and_runs(name: str) -> None:
    spec = find(name)
    model = build(spec, seed=0)
    counted = sum(parameter.numel() for parameter in model.parameters())
    assert describe(spec).total == counted
    with torch.no_grad():
        image_BP, text_BP, _ = model(torch.randn(2, 3, 64, 64), IDS, LENGTHS)
    assert image_BP.shape == text_BP.shape == (2, 128)
    assert torch.isfinite(image_BP).all()
    assert torch.isfinite(text_BP).all()


@pytest.mark.parametrize("name", MICRO)
def test_the_same_seed_gives_the_same_weights(name: str) -> None:
    spec = find(name)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first, again, other = build(spec, seed=1), build(spec, seed=1), build(spec, seed=2)
    assert torch.equal(torch.rand(3), expected), "building must not disturb the caller's random state"
    assert all(map(torch.equal, first.state_dict().values(), again.state_dict().values()))
    assert not all(map(torch.equal, first.state_dict().values(), other.state_dict().values()))


def test_without_a_seed_the_callers_random_state_decides() -> None:
    spec = find("rope-vit")
    torch.manual_seed(3)
    first, second = build(spec), build(spec)
    torch.manual_seed(3)
    again = build(spec)
    assert torch.equal(first.vision_projection.weight, again.vision_projection.weight)
    assert not torch.equal(first.vision_projection.weight, second.vision_projection.weight)


@pytest.mark.parametrize(
    ("family", "mode", "mean", "std"),
    [
        ("climp-m1", "squash", IMAGENET_MEAN, IMAGENET_STD),
        ("climp-m2", "squash", IMAGENET_MEAN, IMAGENET_STD),
        ("climp-llama", "squash", IMAGENET_MEAN, IMAGENET_STD),
        ("rope-vit", "squash", IMAGENET_MEAN, IMAGENET_STD),
        ("rope-vit-m1", "squash", IMAGENET_MEAN, IMAGENET_STD),
        ("flexivit", "squash", HALF, HALF),
        ("naflexvit", "native", HALF, HALF),
    ],
)
def test_preprocessing(family: str, mode: str, mean: object, std: object) -> None:
    got = find(family).preprocess
    assert (got.size, got.mode, got.mean, got.std) == ((64, 64), mode, mean, std)
    assert got.interpolation == "bilinear"
    assert got.multiple == (8 if mode == "native" else 1)


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("climp-m1", ("ss2d", "selective_scan")),
        ("climp-m2", ("ss2d", "ssd")),
        ("climp-llama", ("ss2d",)),
        ("rope-vit-m2", ("ssd",)),
        ("flexivit", ()),
    ],
)
def test_operators(family: str, expected: tuple[str, ...]) -> None:
    assert operators(find(family)) == expected


def test_flexivit_patch_sizes_divide_its_training_image() -> None:
    spec = find("flexivit")
    assert spec.image.patch_sizes == (4, 8, 16)
    model = build(spec, seed=0)
    images = torch.randn(1, 3, *spec.preprocess.size)
    outputs = [model.encode_image(images, patch_size=patch) for patch in spec.image.patch_sizes]
    assert all(output.shape == (1, 128) for output in outputs)


def test_scales_of_a_family_smallest_first() -> None:
    scales = [spec.scale for spec in catalogue.scales_of("climp-m1")]
    assert scales == ["micro", "tiny", "small", "base-s1l20", "base"]
    assert [spec.scale for spec in catalogue.scales_of("rope-vit-mixed")] == ["small", "base"]
    assert find("rope-vit-mixed").scale == "small"


def test_find_by_name() -> None:
    assert find("climp-m2").name == find("climp-m2@micro").name == find("climp-m2", "micro").name
    assert find("climp-m2@micro", "micro").family == "climp-m2"


@pytest.mark.parametrize(
    ("name", "scale", "message"),
    [
        ("climp-m3", None, r"unknown model 'climp-m3'.*Did you mean.*'climp-m2'"),
        ("flexvit@micro", None, r"unknown model 'flexvit'.*Did you mean 'flexivit'"),
        ("climp-m1", "huge", r"climp-m1 has no scale 'huge'.*It has: .*micro"),
        ("climp-m1@huge", None, r"climp-m1 has no scale 'huge'"),
        ("climp-m1@micro", "base", r"'climp-m1@micro' and scale 'base' disagree.*climp-m1@base"),
        ("", None, r"unknown model ''"),
    ],
)
def test_names_that_do_not_exist(name: str, scale: str | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find(name, scale)


def test_a_model_of_another_package(other_package: dict[str, object]) -> None:
    tiny = dataclasses.replace(find("rope-vit"), family="theirs", scale="tiny")
    other_package["theirs.models:TINY"] = tiny
    other_package["theirs.models:MORE"] = [
        dataclasses.replace(tiny, scale="micro"),
        dataclasses.replace(tiny, family="flexivit"),
    ]
    ours = len(catalogue.MODELS)
    assert find("climp-m1").scale == "micro"
    assert "theirs@tiny" not in catalogue.MODELS, "our own models must not load other packages"
    assert find("theirs@tiny") is tiny
    assert find("theirs").scale == "micro"
    assert find("flexivit", "tiny").family == "flexivit"
    assert len(catalogue.all_models()) == ours + 3


@pytest.mark.parametrize("fault", [ImportError("no module named x"), 3, "clash"])
def test_a_broken_plug_in(other_package: dict[str, object], fault: object) -> None:
    other_package["theirs.models:BAD"] = find("flexivit") if fault == "clash" else fault
    assert find("climp-m1").family == "climp-m1"
    with pytest.raises(
        UsageError, match=r"entry point BAD = theirs.models:BAD.*could not be loaded.*uninstall"
    ):
        find("theirs")


@dataclasses.dataclass(frozen=True)
class StubConfig:
    width: int


class StubTower(torch.nn.Module):
    def __init__(self, config: StubConfig) -> None:
        super().__init__()
        self.out_dim = config.width


def test_a_tower_of_a_new_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "_TOWERS", dict(catalogue._TOWERS))
    spec = dataclasses.replace(find("rope-vit"), family="stub", image=StubConfig(width=9))
    with pytest.raises(UsageError, match=r"no tower is registered for a StubConfig.*register_tower"):
        build(spec)
    tower = Tower(f"{__name__}:StubTower", "ssd")
    catalogue.register_tower(StubConfig, tower)
    assert build(spec).vision_projection.in_features == 9
    assert operators(spec) == ("ssd",)
    with pytest.raises(ValueError, match="StubConfig is built by"):
        catalogue.register_tower(StubConfig, tower)


@pytest.mark.parametrize("change", [{"scale": "giant"}, {"family": "a@b"}])
def test_a_spec_must_have_a_sound_name(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="scale"):
        dataclasses.replace(find("rope-vit"), **change)


def test_specs_are_values() -> None:
    spec = find("naflexvit")
    assert dataclasses.replace(spec) == spec
    assert hash(dataclasses.replace(spec)) == hash(spec)
    assert isinstance(spec.preprocess, ImagePreprocess)


def test_weights_from_before_a_field_was_added_mean_its_default(tmp_path: Path) -> None:
    path, spec = SHIPPED / "rope-vit-micro" / CONFIG, find("rope-vit")
    stored = json.loads(path.read_text(encoding="utf-8"))
    stored["text"].pop("rope_scaling", None)  # as the shipped file was before the field
    old = tmp_path / CONFIG
    old.write_text(json.dumps(stored), encoding="utf-8")
    check_config(spec, old)
    scaled = dataclasses.replace(spec.text, rope_scaling=RopeScaling(32.0))
    with pytest.raises(WeightsError, match=r"another model.*'rope_scaling': None.*not .*'factor': 32\.0"):
        check_config(dataclasses.replace(spec, text=scaled), old)
    del stored["text"]["n_layer"]
    old.write_text(json.dumps(stored), encoding="utf-8")
    with pytest.raises(WeightsError, match=r"another model.*'n_layer': 5"):
        check_config(spec, old)


def test_defaults_read_back_from_json() -> None:
    @dataclasses.dataclass(frozen=True)
    class Stretched(LlamaTextConfig):
        rope_scaling: RopeScaling | None = dataclasses.field(default=RopeScaling(2.0))
        sides: tuple[int, ...] = (3, 4)

    scaling = {"factor": 2.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "context": 8192}
    expected = {"rope_theta": 500_000.0, "rope_scaling": scaling, "sides": [3, 4]}
    assert defaults(Stretched(9, 8, 1, 1, 1, 8)) == expected


@pytest.mark.parametrize("name", MICRO)
def test_the_tokenizer_fits_the_embedding_table(name: str) -> None:
    spec = find(name)
    tokenizer = load_tokenizer(spec.tokenizer)
    assert tokenizer.vocab_size <= spec.text.vocab_size
    (ids,) = tokenizer.encode(["A red circle, left of 3 blue squares."])
    assert ids[-1] == 0, "captions of the micro models close with the end token"
