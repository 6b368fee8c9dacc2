"""Models of other libraries give what those libraries give, and say clearly what is missing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from climp_bench.data.dataset import Dataset
from climp_bench.data.scenes_dataset import ScenesDataset
from climp_bench.embed.batches import prepare
from climp_bench.embed.extract import image_key, text_key
from climp_bench.errors import ClimpError, UsageError, WeightsError
from climp_bench.files import sha256_file
from climp_bench.models import peers
from climp_bench.models.adapters import Encoder, OwnTransform
from climp_bench.models.peers import is_peer, open_peer
from tests.fake_hub import COMMIT, FakeHub, serve
from tests.fakes import ToyEncoder
from tests.tiny_peers import ARCH, TEXTS, open_clip_checkpoint, register_arch, save_hf

RNG = np.random.default_rng(0)
PICTURES = [RNG.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((40, 61), (32, 32), (90, 50))]


@pytest.fixture(autouse=True)
def _tiny_arch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register_arch(tmp_path, monkeypatch)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))


@pytest.fixture
def checkpoint(tmp_path: Path) -> tuple[Path, Any]:
    """A state dict on disk, and OpenCLIP's model with it."""
    path = tmp_path / "weights" / "tiny.pt"
    path.parent.mkdir()
    return path, open_clip_checkpoint(path)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """An empty hub; a test fills ``repos``."""
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    with serve(FakeHub({})) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


def images_of(encoder: Encoder) -> np.ndarray:
    return encoder.encode_images([prepare(picture, encoder) for picture in PICTURES])


def texts_of(encoder: Encoder) -> np.ndarray:
    return encoder.encode_tokens(encoder.tokenize(TEXTS))


def unit(features: Any) -> np.ndarray:
    features = getattr(features, "pooler_output", features)
    return F.normalize(features, dim=-1).detach().numpy()


def theirs(model: Any, transform: Any) -> tuple[np.ndarray, np.ndarray]:
    """Images and texts by OpenCLIP alone."""
    pixels = torch.stack([transform(Image.fromarray(picture)) for picture in PICTURES])
    return unit(model.encode_image(pixels)), unit(model.encode_text(open_clip.get_tokenizer(ARCH)(TEXTS)))


def close(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(np.abs(a - b).max() < 1e-5)


def problem(name: str, **options: bool) -> ClimpError:
    """The error that opening ``name`` raises."""
    with pytest.raises(ClimpError) as caught:
        open_peer(name, "cpu", "float32", **options)
    return caught.value


def test_open_clip_from_a_file_is_open_clip(checkpoint: tuple[Path, Any]) -> None:
    path, model = checkpoint
    encoder = open_peer(f"open_clip:{ARCH}/{path}", "cpu", "float32", offline=True)
    images, texts = theirs(model, open_clip.create_model_and_transforms(ARCH)[2])
    assert close(images_of(encoder), images) and close(texts_of(encoder), texts)
    assert np.abs(images[0] - images[1]).max() > 0.01 and np.abs(texts[0] - texts[1]).max() > 0.01
    assert (encoder.name, encoder.scale) == (f"open_clip:{ARCH}/{path}", None)
    assert encoder.weights_digest == sha256_file(path) and str(path) in encoder.weights_source
    assert encoder.preprocess.size == (32, 32) and encoder.preprocess.mode == "center_crop"
    assert encoder.backends == {"open_clip": open_clip.__version__}
    assert {len(row) for row in encoder.tokenize(TEXTS)} == {77}
    assert images_of(encoder).dtype == np.float32


def test_low_precision_stays_near_and_several_threads_agree(checkpoint: tuple[Path, Any]) -> None:
    name = f"open_clip:{ARCH}/{checkpoint[0]}"
    exact, rough = (open_peer(name, "cpu", dtype) for dtype in ("float32", "bfloat16"))
    difference = np.abs(images_of(rough) - images_of(exact)).max()
    assert 0 < difference < 0.05
    assert np.allclose(np.linalg.norm(images_of(rough), axis=1), 1, atol=1e-6)
    fresh = open_peer(name, "cpu", "float32")
    with ThreadPoolExecutor(4) as pool:
        rows = list(pool.map(lambda _: images_of(fresh), range(8)))
    assert all(close(row, images_of(exact)) for row in rows)


def test_a_tag_is_fetched_and_brings_its_own_preprocessing_and_activation(
    checkpoint: tuple[Path, Any], hub: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path, _ = checkpoint
    save_file(torch.load(path, weights_only=True), tmp_path / "tiny.safetensors")
    content = (tmp_path / "tiny.safetensors").read_bytes()
    hub.repos["ann/tiny"] = {"open_clip_model.safetensors": content}
    facts = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4), "interpolation": "bilinear"}
    tag = {"hf_hub": "ann/tiny/", "quick_gelu": True, "resize_mode": "squash", **facts}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, ARCH, {"ours_v1": tag})
    said: list[str] = []
    encoder = open_peer(f"open_clip:{ARCH}/ours_v1", "cpu", "float32", announce=said.append)
    assert encoder.weights_digest == hashlib.sha256(content).hexdigest()
    assert encoder.weights_source == f"hf:ann/tiny@{COMMIT}"
    assert len(said) == 1 and "open_clip_model.safetensors" in said[0] and "MB" in said[0]
    model, _, transform = open_clip.create_model_and_transforms(
        ARCH,
        pretrained=str(path),
        force_quick_gelu=True,
        image_mean=facts["mean"],
        image_std=facts["std"],
        image_interpolation="bilinear",
        image_resize_mode="squash",
    )
    images, texts = theirs(model.eval(), transform)
    assert close(images_of(encoder), images) and close(texts_of(encoder), texts)
    plain = theirs(open_clip.create_model(ARCH, pretrained=str(path)).eval(), transform)
    assert not close(plain[0], images) and not close(plain[1], texts)

    served = len(hub.served)
    again = open_peer(f"open_clip:{ARCH}/ours_v1", "cpu", "float32", offline=True)
    assert again.weights_digest == encoder.weights_digest and len(hub.served) == served
    near = problem(f"open_clip:{ARCH}/ours_v2")
    assert isinstance(near, UsageError) and "'ours_v1'" in near.remedy
    del hub.repos["ann/tiny"]
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    unreachable = problem(f"open_clip:{ARCH}/ours_v1")
    assert isinstance(unreachable, WeightsError) and "cannot be reached" in unreachable.what


def test_an_uncached_tag_offline_says_how_to_go_on() -> None:
    error = problem("open_clip:ViT-B-32/openai", offline=True)
    assert isinstance(error, WeightsError) and "cache" in error.what
    assert "open_clip:ARCH/PATH" in error.remedy and "--offline" in error.remedy


def test_random_weights_are_asked_for_seeded_and_leave_the_callers_state() -> None:
    refused = problem(f"open_clip:{ARCH}")
    assert isinstance(refused, UsageError) and "--random-weights" in refused.remedy
    assert "laion2b_s34b_b79k" in problem("open_clip:ViT-B-32").remedy
    first, second = (open_peer(f"open_clip:{ARCH}", "cpu", "float32", random_weights=True) for _ in range(2))
    assert (first.weights_digest, first.weights_source) == (f"random-0:{ARCH}", "random")
    state = torch.random.get_rng_state()
    assert np.array_equal(images_of(first), images_of(second))
    assert torch.equal(torch.random.get_rng_state(), state)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, _, transform = open_clip.create_model_and_transforms(ARCH)
    assert close(images_of(first), theirs(model.eval(), transform)[0])


def test_unknown_architectures_and_missing_files_are_explained(tmp_path: Path) -> None:
    near = problem("open_clip:ViT-B32/openai")
    assert isinstance(near, UsageError) and "'ViT-B-32'" in near.remedy
    missing = problem(f"open_clip:{ARCH}/{tmp_path}/none.pt")
    assert isinstance(missing, WeightsError) and missing.where == f"{tmp_path}/none.pt"


class Trap:
    """Runs code when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return self.path.touch, ()


def test_checkpoints_that_do_not_fit_or_carry_code_are_refused(
    checkpoint: tuple[Path, Any], tmp_path: Path
) -> None:
    path, model = checkpoint
    state = model.state_dict()
    del state["ln_final.weight"]
    torch.save(state, path)
    with pytest.raises(WeightsError, match=r"cannot be built from it .*ln_final\.weight") as caught:
        images_of(open_peer(f"open_clip:{ARCH}/{path}", "cpu", "float32"))
    assert caught.value.where == str(path)
    torch.save({"state_dict": Trap(tmp_path / "sprung")}, path)
    with pytest.raises(WeightsError, match="cannot be built from it"):
        images_of(open_peer(f"open_clip:{ARCH}/{path}", "cpu", "float32"))
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("kind", ["clip", "chinese_clip", "siglip"])
def test_transformers_models_give_what_transformers_gives(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "model@main"
    save_hf(folder, kind)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    encoder = open_peer(f"hf:{folder}", "cpu", "float32", offline=True)
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    pixels = processor(images=[Image.fromarray(p) for p in PICTURES], return_tensors="pt")
    images = unit(model.get_image_features(**pixels))
    length = 16 if kind == "siglip" else 24
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    padding = "max_length" if kind == "siglip" else True
    ids = tokenizer(TEXTS, padding=padding, truncation=True, max_length=length, return_tensors="pt")
    inputs = {"input_ids": ids["input_ids"]} if kind == "siglip" else dict(ids)
    inputs.pop("token_type_ids", None)
    texts = unit(model.get_text_features(**inputs))
    assert close(images_of(encoder), images) and close(texts_of(encoder), texts)
    assert np.abs(images[0] - images[1]).max() > 0.01 and np.abs(texts[0] - texts[2]).max() > 0.01
    one_by_one = np.concatenate([encoder.encode_tokens([row]) for row in encoder.tokenize(TEXTS)])
    assert close(one_by_one, texts)
    lengths = [len(row) for row in encoder.tokenize(TEXTS)]
    assert max(lengths) == length and (min(lengths) == length) == (kind == "siglip")
    assert encoder.name == f"hf:{folder}" and encoder.preprocess.size == (32, 32)
    assert encoder.preprocess.mode == ("squash" if kind == "siglip" else "center_crop")
    assert encoder.weights_digest == sha256_file(folder / "model.safetensors")


def test_sharded_weights_are_the_same_model_with_another_digest(tmp_path: Path) -> None:
    model = save_hf(tmp_path / "whole", "clip")
    save_hf(tmp_path / "shards", "clip")
    (tmp_path / "shards" / "model.safetensors").unlink()
    model.save_pretrained(tmp_path / "shards", max_shard_size="60KB")
    whole, shards = (open_peer(f"hf:{tmp_path / name}", "cpu", "float32") for name in ("whole", "shards"))
    assert close(images_of(whole), images_of(shards))
    parts = sorted((tmp_path / "shards").glob("*.safetensors"))
    lines = "".join(f"{part.name} {sha256_file(part)}\n" for part in parts)
    assert len(parts) > 1 and shards.weights_digest == hashlib.sha256(lines.encode()).hexdigest()
    parts[1].unlink()
    assert problem(f"hf:{tmp_path / 'shards'}").where == str(parts[1])


def test_only_safetensors_are_read_and_every_weight_must_be_there(tmp_path: Path) -> None:
    model = save_hf(tmp_path, "clip")
    path = tmp_path / "model.safetensors"
    state = load_file(path)
    del state["text_projection.weight"]
    save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"text_projection\.weight"):
        texts_of(open_peer(f"hf:{tmp_path}", "cpu", "float32"))
    path.unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    assert "Only safetensors" in problem(f"hf:{tmp_path}").remedy
    encoder = open_peer(f"hf:{tmp_path}", "cpu", "float32", random_weights=True)
    assert encoder.weights_digest.startswith("random-0:clip:") and encoder.weights_source == "random"
    other = open_peer(f"hf:{tmp_path}", "cpu", "float32", random_weights=True)
    assert np.array_equal(texts_of(encoder), texts_of(other))


def test_what_is_not_a_dual_encoder_is_refused_and_its_code_not_run(tmp_path: Path) -> None:
    transformers.BertConfig(hidden_size=16, num_hidden_layers=1).save_pretrained(tmp_path)
    error = problem(f"hf:{tmp_path}")
    assert isinstance(error, UsageError) and "bert model is not a dual encoder" in error.what
    (tmp_path / "theirs.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')\nclass Theirs: pass\n")
    config = {"model_type": "theirs", "auto_map": {"AutoConfig": "theirs.Theirs"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert isinstance(problem(f"hf:{tmp_path}"), WeightsError)
    assert not (tmp_path / "sprung").exists()
    assert "no such folder" in problem(f"hf:{tmp_path}/none").what


def test_a_repository_is_fetched_at_one_commit_and_read_offline(hub: FakeHub, tmp_path: Path) -> None:
    save_hf(tmp_path / "saved", "clip")
    files = {path.name: path.read_bytes() for path in (tmp_path / "saved").iterdir()}
    hub.repos["ann/clip"] = {**files, "pytorch_model.bin": b"never asked for", "README.md": b"nor this"}
    said: list[str] = []
    assert isinstance(problem("hf:ann/clip", offline=True), WeightsError)
    encoder = open_peer(f"hf:ann/clip@{COMMIT}", "cpu", "float32", announce=said.append)
    assert encoder.weights_source == f"hf:ann/clip@{COMMIT}" and encoder.name == f"hf:ann/clip@{COMMIT}"
    assert close(images_of(encoder), images_of(open_peer(f"hf:{tmp_path / 'saved'}", "cpu", "float32")))
    assert len(said) == 1 and "model.safetensors" in said[0]
    assert {name for name, _ in hub.served}.isdisjoint({"pytorch_model.bin", "README.md"})
    served = len(hub.served)
    again = open_peer("hf:ann/clip", "cpu", "float32", offline=True)
    assert again.weights_digest == encoder.weights_digest and len(hub.served) == served
    bert = json.dumps({"model_type": "bert"}).encode()
    hub.repos["ann/bert"] = {"config.json": bert, "model.safetensors": files["model.safetensors"]}
    assert isinstance(problem("hf:ann/bert"), UsageError)
    assert ("model.safetensors", 0) not in hub.served[served:], "fetched before it was refused"
    assert "no such repository" in problem("hf:ann/nothing").what


def test_the_embedding_key_knows_the_models_own_transform(checkpoint: tuple[Path, Any]) -> None:
    encoder = open_peer(f"open_clip:{ARCH}/{checkpoint[0]}", "cpu", "float32")
    data: Dataset = ScenesDataset("scenes-shape", 2)
    key = image_key(data, encoder)
    assert "bicubic" in key.transform and encoder.own_transform is not None
    assert image_key(data, open_peer(encoder.name, "cpu", "float32")) == key
    own = encoder.own_transform
    encoder.own_transform = OwnTransform(own.description.replace("bicubic", "bilinear"), own.apply)
    assert image_key(data, encoder) != key
    assert "77" in text_key(TEXTS, encoder).transform
    assert "own_transform" not in image_key(data, ToyEncoder()).transform


class Plugin:
    """An entry point of another package."""

    value = "pkg.mod:factory"

    def __init__(self, name: str, factory: Any) -> None:
        self.name, self._factory = name, factory

    def load(self) -> Any:
        return self._factory


def test_other_packages_add_prefixes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []

    def make(rest: str, device: str, dtype: str) -> Encoder:
        asked.append((rest, device, dtype))
        return ToyEncoder(rest)

    def broken(rest: str, device: str, dtype: str) -> Encoder:
        raise KeyError(rest)

    points = [Plugin("mine", make), Plugin("bad", broken), Plugin("odd", lambda *words: "not one")]
    monkeypatch.setattr(
        peers, "entry_points", lambda group: points if group == "climp_bench.encoders" else []
    )
    assert open_peer("mine:big:one", "cpu", "bfloat16").family == "big:one"
    assert asked == [("big:one", "cpu", "bfloat16")]
    near = problem("mien:x")
    assert (
        isinstance(near, UsageError) and "'mine'" in near.remedy and "open_clip:, hf:, mine:" in near.remedy
    )
    for name in ("bad:x", "odd:x"):
        error = problem(name)
        assert isinstance(error, UsageError) and "pkg.mod:factory" in error.where
    assert [is_peer(name) for name in ("climp-m1", "climp-m1@base", "hf:a/b", "mien:x")] == [
        False,
        False,
        True,
        True,
    ]
