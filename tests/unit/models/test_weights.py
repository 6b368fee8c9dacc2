"""The store of weights: whole or not at all, verified before parsed, every misfit named."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from climp_bench.errors import UsageError, WeightsError
from climp_bench.models import catalogue
from climp_bench.models import store as stores
from climp_bench.models.card import render_card
from climp_bench.models.catalogue import build
from climp_bench.models.configs import FlexiVitConfig, LlamaTextConfig
from climp_bench.models.dual_encoder import DualEncoder
from climp_bench.models.spec import ModelSpec
from climp_bench.models.store import WeightsRef, locate, open_folder, save
from climp_bench.models.weights import load, resolve
from climp_bench.registry import Registry
from climp_bench.specs import ImagePreprocess

SPEC = ModelSpec(
    family="pea",
    scale="micro",
    image=FlexiVitConfig(16, 1, 2, 8, 32, patch_sizes=(8, 16)),
    text=LlamaTextConfig(vocab_size=30, d_model=16, n_layer=1, n_head=2, n_kv_head=1, mlp_dim=20),
    embed_dim=8,
    preprocess=ImagePreprocess(size=(32, 32)),
    tokenizer="scenes-bpe",
    description="A pea",
)
CARD = {"data": {"name": "scenes", "images": 1000}, "seed": 3}


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty user store, an empty shipped folder and a catalogue with one family at three scales."""
    registry: Registry[ModelSpec] = Registry("model")
    for scale in ("base", "micro", "small"):
        registry.add(f"pea@{scale}", dataclasses.replace(SPEC, scale=scale))
    monkeypatch.setattr(catalogue, "MODELS", registry)
    monkeypatch.setattr(catalogue, "entry_points", lambda group: [])
    monkeypatch.setattr(stores, "SHIPPED", tmp_path / "shipped")
    monkeypatch.setenv("CLIMP_BENCH_HOME", str(tmp_path / "home"))
    (tmp_path / "shipped").mkdir()
    catalogue._load_entry_points.cache_clear()
    yield tmp_path / "home" / "weights"
    catalogue._load_entry_points.cache_clear()


@pytest.fixture
def model() -> DualEncoder:
    return build(SPEC, seed=5)


def tampered(ref: WeightsRef, change: Callable[[dict[str, torch.Tensor]], object]) -> WeightsRef:
    """Change the stored tensors, with a manifest that agrees."""
    path = ref.directory / "model.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path)
    return resigned(ref)


def resigned(ref: WeightsRef) -> WeightsRef:
    manifest = ref.directory / "manifest.json"
    table = json.loads(manifest.read_text())
    for name, entry in table.items():
        content = (ref.directory / name).read_bytes()
        entry.update(size=len(content), sha256=hashlib.sha256(content).hexdigest())
    manifest.write_text(json.dumps(table))
    return open_folder(ref.directory)


@pytest.mark.parametrize("half", [False, True])
def test_what_is_loaded_is_what_was_saved(model: DualEncoder, tmp_path: Path, half: bool) -> None:
    ref = save(model, SPEC, tmp_path / "a" / "pea", half=half, card=CARD)
    loaded = load(SPEC, ref)
    assert not loaded.training
    for key, value in model.state_dict().items():
        got = loaded.state_dict()[key]
        assert got.dtype == value.dtype
        assert torch.equal(got, value.half().float() if half else value), key
    content = (ref.directory / "model.safetensors").read_bytes()
    assert ref.digest == hashlib.sha256(content).hexdigest()
    assert ref.files["model.safetensors"].size == len(content)
    assert sorted(path.name for path in ref.directory.iterdir()) == [
        "README.md",
        "config.json",
        "manifest.json",
        "model.safetensors",
    ]
    assert open_folder(ref.directory) == ref


def test_the_digest_names_the_weights(model: DualEncoder, tmp_path: Path) -> None:
    first = save(model, SPEC, tmp_path / "a", half=True, card={})
    again = save(model, SPEC, tmp_path / "b", half=True, card=CARD)
    other = save(build(SPEC, seed=6), SPEC, tmp_path / "c", half=True, card={})
    assert first.digest == again.digest != other.digest


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_weights_are_not_saved(model: DualEncoder, tmp_path: Path, value: float) -> None:
    model.vision_projection.weight.data[1, 2] = value
    with pytest.raises(
        WeightsError, match=r"1 tensors hold NaN or infinite values: vision_projection\.weight"
    ):
        save(model, SPEC, tmp_path / "a", half=False, card={})
    assert not (tmp_path / "a").exists()


def test_half_precision_must_hold_the_weights(model: DualEncoder, tmp_path: Path) -> None:
    model.text_projection.bias.data[0] = 1e6
    save(model, SPEC, tmp_path / "a", half=False, card={})
    with pytest.raises(WeightsError, match=r"text_projection\.bias"):
        save(model, SPEC, tmp_path / "a", half=True, card={})
    assert load(SPEC, open_folder(tmp_path / "a")).text_projection.bias[0] == 1e6


def test_saving_again_replaces_everything(model: DualEncoder, tmp_path: Path) -> None:
    target = tmp_path / "store" / "pea"
    save(model, SPEC, target, half=True, card={})
    (target / "stray").write_text("x")
    ref = save(build(SPEC, seed=9), SPEC, target, half=True, card={})
    load(SPEC, ref)
    assert not (target / "stray").exists()
    assert list(target.parent.iterdir()) == [target]


def test_a_failed_save_keeps_what_was_there(
    model: DualEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "store" / "pea"
    before = save(model, SPEC, target, half=True, card={})

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stores, "save_file", full_disk)
    with pytest.raises(
        WeightsError, match=r"cannot be written.*No space left.*what was there before is kept"
    ):
        save(build(SPEC, seed=9), SPEC, target, half=True, card={})
    assert open_folder(target) == before
    load(SPEC, before)
    assert list(target.parent.iterdir()) == [target]


def test_a_failed_swap_puts_the_old_weights_back(
    model: DualEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "store" / "pea"
    before = save(model, SPEC, target, half=True, card={})
    rename = os.replace
    calls: list[object] = []

    def fail_second(source: Path, destination: Path) -> None:
        if destination == target:
            calls.append(source)
            if len(calls) == 1:
                raise PermissionError("not now")
        rename(source, destination)

    monkeypatch.setattr(os, "replace", fail_second)
    with pytest.raises(WeightsError, match="not now"):
        save(build(SPEC, seed=9), SPEC, target, half=True, card={})
    assert open_folder(target) == before
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("damage", ["cut", "flip", "delete"])
def test_damaged_files_are_refused_before_parsing(
    model: DualEncoder, tmp_path: Path, name: str, damage: str
) -> None:
    ref = save(model, SPEC, tmp_path / "a", half=True, card={})
    path = ref.directory / name
    content = path.read_bytes()
    middle = len(content) // 2
    if damage == "delete":
        path.unlink()
    else:
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        path.write_bytes(content[:middle] if damage == "cut" else flipped)
    message = {
        "cut": rf"{middle} bytes, its manifest says {len(content)}",
        "flip": "SHA-256",
        "delete": "missing",
    }
    with pytest.raises(WeightsError, match=rf"{name}: .*{message[damage]}"):
        load(SPEC, ref)


def test_a_truncated_file_with_a_fitting_manifest(model: DualEncoder, tmp_path: Path) -> None:
    ref = save(model, SPEC, tmp_path / "a", half=True, card={})
    path = ref.directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="not a readable safetensors file"):
        load(SPEC, resigned(ref))


def test_pickles_are_never_opened(model: DualEncoder, tmp_path: Path) -> None:
    ref = save(model, SPEC, tmp_path / "a", half=True, card={})

    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return Path.touch, (tmp_path / "exploded",)

    torch.save({"weights": Bomb()}, ref.directory / "model.safetensors")
    with pytest.raises(WeightsError, match="not a readable safetensors file"):
        load(SPEC, resigned(ref))
    assert not (tmp_path / "exploded").exists()


def test_every_misfit_is_listed(model: DualEncoder, tmp_path: Path) -> None:
    def change(state: dict[str, torch.Tensor]) -> None:
        del state["logit_scale"], state["text_projection.bias"]
        state["extra.weight"] = torch.zeros(2)
        state["vision_projection.weight"] = torch.zeros(3, 4)

    ref = tampered(save(model, SPEC, tmp_path / "a", half=True, card={}), change)
    with pytest.raises(WeightsError) as caught:
        load(SPEC, ref)
    for part in (
        "4 keys do not fit",
        "missing logit_scale",
        "missing text_projection.bias",
        "unexpected extra.weight",
        "misshapen vision_projection.weight: (3, 4) instead of (8, 16)",
    ):
        assert part in str(caught.value)


def test_stored_nan_is_refused(model: DualEncoder, tmp_path: Path) -> None:
    ref = save(model, SPEC, tmp_path / "a", half=True, card={})
    ref = tampered(ref, lambda state: state["vision_projection.bias"].fill_(float("nan")))
    with pytest.raises(WeightsError, match=r"NaN or infinite values: vision_projection\.bias"):
        load(SPEC, ref)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"family": "bean"}, "family: 'pea', not 'bean'"),
        ({"preprocess": ImagePreprocess(size=(64, 64))}, "preprocess"),
        ({"tokenizer": "other"}, "tokenizer"),
        ({"image": dataclasses.replace(SPEC.image, num_heads=4)}, "image"),
    ],
)
def test_weights_of_another_model(
    model: DualEncoder, tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    """Some of these would fit by shape, and give wrong embeddings silently."""
    ref = save(model, SPEC, tmp_path / "a", half=True, card={})
    with pytest.raises(WeightsError, match="of another model") as caught:
        load(dataclasses.replace(SPEC, **change), ref)
    assert named in str(caught.value)
    load(dataclasses.replace(SPEC, description="the same, told otherwise"), ref)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"model.safetensors": {"size": 3}}'])
def test_a_damaged_manifest(model: DualEncoder, store: Path, text: str) -> None:
    save(model, SPEC, store / "pea-micro", half=True, card={})
    (store / "pea-micro" / "manifest.json").write_text(text)
    with pytest.raises(WeightsError, match=r"manifest\.json: "):
        locate(SPEC)


def test_a_folder_without_manifest(store: Path) -> None:
    (store / "pea-micro").mkdir(parents=True)
    with pytest.raises(WeightsError, match=r"manifest\.json: the file is missing"):
        locate(SPEC)


def test_the_users_store_comes_before_the_shipped_one(
    model: DualEncoder, store: Path, tmp_path: Path
) -> None:
    assert locate(SPEC) is None
    shipped = save(build(SPEC, seed=8), SPEC, tmp_path / "shipped" / "pea-micro", half=True, card={})
    assert locate(SPEC) is None, "unlisted in the manifest, so not yet shipped"
    stores.update_shipped_manifest(tmp_path / "shipped")
    found = locate(SPEC)
    assert found is not None
    assert (found.source, found.digest, found.directory) == ("shipped", shipped.digest, shipped.directory)
    load(SPEC, found)
    own = save(model, SPEC, store / "pea-micro", half=True, card={})
    assert locate(SPEC) == own
    assert own.source == "local"


def test_the_shipped_manifest(model: DualEncoder, tmp_path: Path) -> None:
    shipped = tmp_path / "shipped"
    first = save(model, SPEC, shipped / "pea-micro", half=True, card={})
    stores.update_shipped_manifest(shipped)
    assert not (first.directory / "manifest.json").exists()
    small = dataclasses.replace(SPEC, scale="small")
    save(model, small, shipped / "pea-small", half=True, card={})
    path = stores.update_shipped_manifest(shipped)
    table = json.loads(path.read_text())
    assert path == shipped / "manifest.json"
    assert list(table) == ["pea-micro", "pea-small"]
    assert table["pea-micro"]["model.safetensors"]["sha256"] == first.digest
    shutil.rmtree(shipped / "pea-small")
    assert list(json.loads(stores.update_shipped_manifest(shipped).read_text())) == ["pea-micro"]


def test_shipping_checks_what_it_ships(model: DualEncoder, tmp_path: Path) -> None:
    ref = save(model, SPEC, tmp_path / "shipped" / "pea-micro", half=True, card={})
    (ref.directory / "README.md").write_text("changed")
    with pytest.raises(WeightsError, match=r"README\.md: the file has 7 bytes"):
        stores.update_shipped_manifest(tmp_path / "shipped")
    assert (ref.directory / "manifest.json").exists()


def test_resolve_picks_the_largest_stored_scale(model: DualEncoder, store: Path) -> None:
    nothing = resolve("pea")
    assert (nothing.spec.scale, nothing.ref) == ("micro", None)
    assert "no scale of pea has stored weights" in nothing.reason
    assert "climp-bench train pea --scale micro" in nothing.reason
    for scale in ("micro", "small"):
        save(model, dataclasses.replace(SPEC, scale=scale), store / f"pea-{scale}", half=True, card={})
        choice = resolve("pea")
        assert choice.spec.scale == scale
        assert choice.ref is not None
        assert choice.ref.directory == store / f"pea-{scale}"
        assert f"pea@{scale}: the largest scale with stored weights (local)" in choice.reason
        assert "--scale" in choice.reason
        assert "base" in choice.reason


def test_resolve_takes_what_is_named(model: DualEncoder, store: Path) -> None:
    save(model, SPEC, store / "pea-micro", half=True, card={})
    assert resolve("pea@micro").ref == resolve("pea", "micro").ref == locate(SPEC)
    absent = resolve("pea@base")
    assert (absent.spec.scale, absent.ref) == ("base", None)
    assert "no weights are stored" in absent.reason
    assert "as asked" in resolve("pea@micro").reason
    with pytest.raises(UsageError, match=r"unknown model 'pear'.*'pea'"):
        resolve("pear")
    with pytest.raises(UsageError, match="disagree"):
        resolve("pea@micro", "base")


def test_the_store_without_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLIMP_BENCH_HOME")
    path = stores.user_store()
    assert path.name == "weights"
    assert "climp-bench" in str(path)
    assert path.is_absolute()


def test_the_card_says_what_is_known_and_what_is_not(model: DualEncoder, tmp_path: Path) -> None:
    card = {
        "data": {"name": "scenes", "images": 1000},
        "seed": 0,
        "scores": [{"task": "a|b", "accuracy": 0.123456}, {"task": "c", "recall@1": 0.5}],
        "remark": "two\nlines",
    }
    ref = save(model, SPEC, tmp_path / "a", half=True, card=card)
    text = (ref.directory / "README.md").read_text()
    assert text == render_card(SPEC, card)
    assert text.startswith("# pea@micro\n")
    for expected in (
        "| images | 1000 |",
        "## Seed\n\n0\n",
        "| task | accuracy | recall@1 |\n| --- | --- | --- |\n| a\\|b | 0.1235 |  |\n| c |  | 0.5 |",
        "## Optimiser\n\nnot recorded\n",
        "## Commit\n\nnot recorded\n",
        "## Remark\n\ntwo lines\n",
    ):
        assert expected in text
