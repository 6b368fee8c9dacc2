"""Weights that come from elsewhere: fetched or imported, checked, stored whole or not at all."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save as to_bytes
from torch import Tensor

from climp_bench.errors import UsageError, WeightsError
from climp_bench.models import catalogue
from climp_bench.models import store as stores
from climp_bench.models.acquire import import_weights, open_weights, published, pull
from climp_bench.models.adapters import CatalogueEncoder
from climp_bench.models.catalogue import build
from climp_bench.models.dual_encoder import DualEncoder
from climp_bench.models.mamba1 import Mamba1Config
from climp_bench.models.spec import ModelSpec, Origin, Source
from climp_bench.models.store import locate, open_folder, save
from climp_bench.models.tokenizer import Tokenizer, train_bpe
from climp_bench.models.vmamba import VMambaConfig
from climp_bench.models.weights import Choice, load
from climp_bench.registry import Registry
from climp_bench.specs import ImagePreprocess
from tests.fake_hub import COMMIT, FakeHub, serve

TEXTS = ["a red square", "two small stars on a blue ground", "x"]
SPEC = ModelSpec(
    family="nut",
    scale="base",
    image=VMambaConfig(dims=(16, 32), depths=(1, 1)),
    text=Mamba1Config(vocab_size=300, d_model=16, n_layer=2),
    embed_dim=12,
    preprocess=ImagePreprocess(size=(32, 32)),
    tokenizer="nut-bpe",
    description="A nut",
    source="a test",
    origin=Origin(
        weights=Source("ann/nut", "model.safetensors", "MIT"),
        tokenizer=Source("ann/nut-text", "tokenizer.json", "MIT"),
    ),
)


@pytest.fixture
def tokenizer() -> Tokenizer:
    return train_bpe(TEXTS, 290)


@pytest.fixture
def model() -> DualEncoder:
    return build(SPEC, seed=5).eval()


def release(model: DualEncoder) -> dict[str, Tensor]:
    """The tensors as another project may publish them: 1x1 projections stored as convolutions."""
    state = {key: tensor.detach().clone() for key, tensor in model.state_dict().items()}
    for key in state:
        if key.startswith("vision_encoder.") and key.endswith(("_proj.weight", "fc1.weight", "fc2.weight")):
            state[key] = state[key][:, :, None, None].clone()
    return state


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty user store and a catalogue with this family at two scales."""
    registry: Registry[ModelSpec] = Registry("model")
    registry.add("nut@micro", dataclasses.replace(SPEC, scale="micro", origin=Origin()))
    registry.add("nut@base", SPEC)
    monkeypatch.setattr(catalogue, "MODELS", registry)
    monkeypatch.setattr(catalogue, "entry_points", lambda group: [])
    monkeypatch.setattr(stores, "SHIPPED", tmp_path / "shipped")
    monkeypatch.setenv("CLIMP_BENCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
    catalogue._load_entry_points.cache_clear()
    yield tmp_path / "home" / "weights"
    catalogue._load_entry_points.cache_clear()


@pytest.fixture
def server(model: DualEncoder, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    repos = {
        "ann/nut": {"model.safetensors": to_bytes(release(model))},
        "ann/nut-text": {"tokenizer.json": tokenizer.to_json().encode()},
    }
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    with serve(FakeHub(repos)) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


@pytest.fixture
def checkpoint(tmp_path: Path, model: DualEncoder, tokenizer: Tokenizer) -> Path:
    """A folder as the hub's, on disk."""
    folder = tmp_path / "nut-folder"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(to_bytes(release(model)))
    (folder / "tokenizer.json").write_text(tokenizer.to_json())
    return folder


def assert_same_embeddings(model: DualEncoder, encoder: CatalogueEncoder, tokenizer: Tokenizer) -> None:
    images = torch.randn(2, 3, 32, 48)
    ids, lengths = tokenizer.pad(tokenizer.encode(TEXTS))
    with torch.no_grad():
        image_BP, text_BP = model.encode_image(images).numpy(), model.encode_text(ids, lengths).numpy()
    assert abs(encoder.encode_images(list(images)) - image_BP).max() < 1e-6
    assert abs(encoder.encode_tokens(encoder.tokenize(TEXTS)) - text_BP).max() < 1e-6


def test_what_is_pulled_is_what_was_published(
    server: FakeHub, model: DualEncoder, tokenizer: Tokenizer, home: Path
) -> None:
    said: list[str] = []
    ref = pull(SPEC, announce=said.append)
    assert ref == locate(SPEC) == open_folder(home / "nut-base")
    assert ref.source == f"hf:ann/nut@{COMMIT}"
    assert [text.partition(",")[0] for text in said] == [
        f"hf:ann/nut@{COMMIT[:12]}: model.safetensors",
        f"hf:ann/nut-text@{COMMIT[:12]}: tokenizer.json",
    ]
    recorded = json.loads((ref.directory / "origin.json").read_text())
    assert recorded["licence"] == "apache-2.0" and recorded["commit"] == COMMIT
    assert recorded["sha256"] == server.sha256(server.repos["ann/nut"]["model.safetensors"])
    assert ref.directory.joinpath("README.md").read_text().count(COMMIT) >= 1
    assert [path.name for path in home.iterdir() if path.name != ".downloads"] == ["nut-base"]
    assert not list((home / ".downloads").iterdir())
    assert_same_embeddings(model, CatalogueEncoder(Choice(SPEC, ref, "")), tokenizer)


def test_what_was_fetched_before_a_failure_is_not_fetched_again(server: FakeHub, home: Path) -> None:
    text = server.repos.pop("ann/nut-text")
    with pytest.raises(WeightsError, match="no such repository"):
        pull(SPEC, announce=lambda text: None)
    assert locate(SPEC) is None
    server.repos["ann/nut-text"] = text
    pull(SPEC, announce=lambda text: None)
    assert locate(SPEC) is not None
    assert [name for name, _ in server.served].count("model.safetensors") == 1


def test_a_wrong_digest_installs_nothing(server: FakeHub) -> None:
    server.lie = True
    with pytest.raises(WeightsError, match="the hub states"):
        pull(SPEC, announce=lambda text: None)
    assert locate(SPEC) is None


def test_published_content_of_another_model_installs_nothing(server: FakeHub) -> None:
    other = dataclasses.replace(SPEC, embed_dim=10)
    server.repos["ann/nut"]["model.safetensors"] = to_bytes(release(build(other, seed=1)))
    with pytest.raises(WeightsError, match="misshapen vision_projection"):
        pull(SPEC, announce=lambda text: None)
    assert locate(SPEC) is None


def test_offline_and_unpublished_are_explained(server: FakeHub) -> None:
    with pytest.raises(WeightsError, match="--offline"):
        pull(SPEC, offline=True, announce=lambda text: None)
    with pytest.raises(UsageError, match="no weights of it are published"):
        pull(dataclasses.replace(SPEC, origin=Origin()), announce=lambda text: None)
    assert not server.served


def test_the_published_scale_of_a_family() -> None:
    assert published("nut").name == "nut@base"
    assert published("nut", "micro").name == published("nut@micro").name == "nut@micro"
    with pytest.raises(UsageError):
        published("nit")


@pytest.mark.parametrize("form", ["folder", "file", "pth"])
def test_importing(
    checkpoint: Path, form: str, model: DualEncoder, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    path, beside = checkpoint, None
    if form == "file":
        path = checkpoint / "model.safetensors"
    if form == "pth":
        path, beside = tmp_path / "release.pth", checkpoint / "tokenizer.json"
        torch.save({"model": release(model), "epoch": 3}, path)
    ref = import_weights(SPEC, path, tokenizer=beside)
    assert ref == locate(SPEC) and ref.source == f"imported from {path.name}"
    assert_same_embeddings(model, CatalogueEncoder(Choice(SPEC, ref, "")), tokenizer)


def test_importing_a_folder_that_was_saved_here(model: DualEncoder, tmp_path: Path) -> None:
    micro = catalogue.find("nut", "micro")
    saved = save(model, micro, tmp_path / "mine", half=False, card={})
    ref = import_weights(micro, tmp_path / "mine")
    assert ref.digest == saved.digest and ref == locate(micro)
    with pytest.raises(WeightsError, match="of another model"):
        import_weights(SPEC, tmp_path / "mine")


def test_without_a_tokenizer_nothing_is_stored(checkpoint: Path) -> None:
    (checkpoint / "tokenizer.json").unlink()
    with pytest.raises(WeightsError, match="nut-bpe") as caught:
        import_weights(SPEC, checkpoint)
    assert "--tokenizer" in caught.value.remedy and "ann/nut-text" in caught.value.remedy
    assert locate(SPEC) is None


@pytest.mark.parametrize("damage", ["truncated", "code", "other model", "not a tokenizer", "nan"])
def test_a_bad_file_changes_nothing(
    checkpoint: Path, damage: str, model: DualEncoder, tmp_path: Path
) -> None:
    kept = import_weights(SPEC, checkpoint)
    path = checkpoint / "model.safetensors"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "code":
        path.unlink()
        path = checkpoint / "model.pth"
        torch.save({"model": Bomb(tmp_path / "executed")}, path)
    elif damage == "other model":
        path.write_bytes(to_bytes({"some.weight": torch.ones(3)}))
    elif damage == "nan":
        state = release(model)
        state["text_projection.bias"][1] = torch.nan
        path.write_bytes(to_bytes(state))
    else:
        (checkpoint / "tokenizer.json").write_text("{}")
    with pytest.raises(WeightsError):
        import_weights(SPEC, path, tokenizer=checkpoint / "tokenizer.json")
    assert not (tmp_path / "executed").exists()
    assert locate(SPEC) == kept and load(SPEC, kept)


class Bomb:
    """Unpickling it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return io.open, (str(self.path), "w")


def test_weights_for_one_run_are_read_where_they_lie(
    server: FakeHub, checkpoint: Path, model: DualEncoder, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    saved = save(model, SPEC, tmp_path / "mine", half=False, card={})
    named = {
        f"file {checkpoint}": str(checkpoint),
        f"hf:ann/nut@{COMMIT}": "hf:ann/nut@main",
    }
    for source, text in named.items():
        ref = open_weights(text, SPEC, tokenizer=None, offline=False, announce=lambda text: None)
        assert ref.source == source
        assert_same_embeddings(model, CatalogueEncoder(Choice(SPEC, ref, "")), tokenizer)
    own = open_weights(str(tmp_path / "mine"), SPEC, tokenizer=None, offline=True, announce=print)
    assert own.digest == saved.digest
    assert locate(SPEC) is None
