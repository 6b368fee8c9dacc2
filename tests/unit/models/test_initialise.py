"""Training starts from pretrained towers: ours then compute what the projects' own code computes."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    Mamba2ForCausalLM,
    Mamba2Model,
    MambaForCausalLM,
    MambaModel,
)

from climp_bench.errors import WeightsError
from climp_bench.models.catalogue import build
from climp_bench.models.convert import to_tower
from climp_bench.models.initialise import initialise
from climp_bench.models.zoo import paper_models
from tests.peer_towers import (
    FLEXI,
    IDS,
    IMAGES,
    LLAMA,
    M1,
    MAMBA1,
    MAMBA2,
    MIXED,
    NAFLEX,
    ROPE,
    VMAMBA,
    equal,
    eva,
    llama,
    mamba1,
    mamba2,
    naflex,
    official_vmamba,
    plain_vit,
    relative,
    shaken,
    state_of,
)

TEXT_TOWERS: dict[str, tuple[Any, Callable[[], Any]]] = {
    "mamba1": (MAMBA1, lambda: mamba1(MambaModel)),
    "mamba1-lm": (MAMBA1, lambda: mamba1(MambaForCausalLM)),
    "mamba2": (MAMBA2, lambda: mamba2(Mamba2Model)),
    "mamba2-lm": (MAMBA2, lambda: mamba2(Mamba2ForCausalLM)),
    "llama-tied": (LLAMA, lambda: llama(True)),
    "llama-untied": (LLAMA, lambda: llama(False)),
    "llama-base": (LLAMA, lambda: llama(True).model),
}


@pytest.mark.parametrize("name", TEXT_TOWERS)
@pytest.mark.parametrize("shard", ["1GB", "20KB"])
def test_text_towers_as_transformers_saves_them(tmp_path: Path, name: str, shard: str) -> None:
    config, make = TEXT_TOWERS[name]
    theirs = shaken(make())
    theirs.save_pretrained(tmp_path, max_shard_size=shard)
    assert (tmp_path / "model.safetensors.index.json").exists() == (shard == "20KB")
    model = build(dataclasses.replace(M1, text=config), seed=0)
    image_before = {key: value.clone() for key, value in model.vision_encoder.state_dict().items()}
    digests = initialise(model, dataclasses.replace(M1, text=config), text=tmp_path)
    assert list(digests) == ["text"]
    with torch.no_grad():
        got = model.text_encoder.forward_features(IDS)
        expected = theirs(input_ids=IDS, output_hidden_states=True)
    final = expected.hidden_states[-1] if "logits" in expected else expected.last_hidden_state
    assert relative(got, final) < 1e-5
    assert equal(dict(model.vision_encoder.state_dict()), image_before)


IMAGE_TOWERS: dict[str, tuple[Any, Callable[[], Any]]] = {
    "axial": (ROPE, lambda: eva("cat")),
    "mixed": (MIXED, lambda: eva("mixed")),
    "flexi": (FLEXI, lambda: plain_vit(no_embed_class=True)),
    "naflex": (NAFLEX, naflex),
}


@pytest.mark.parametrize("name", IMAGE_TOWERS)
def test_image_towers_as_timm_saves_them(tmp_path: Path, name: str) -> None:
    config, make = IMAGE_TOWERS[name]
    theirs = shaken(make())
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    spec = dataclasses.replace(M1, image=config)
    model = build(spec, seed=0).eval()
    digests = initialise(model, spec, image=tmp_path)
    content = (tmp_path / "model.safetensors").read_bytes()
    assert digests == {"image": hashlib.sha256(content).hexdigest()}
    with torch.no_grad():
        expected = theirs.forward_head(theirs.forward_features(IMAGES), pre_logits=True)
        assert relative(model.vision_encoder(IMAGES), expected) < 1e-5


def test_initialise_changes_all_or_nothing(tmp_path: Path) -> None:
    image, text = tmp_path / "vssm.pth", tmp_path / "text.safetensors"
    torch.save({"model": official_vmamba(old_names=True, convolutions=True)}, image)
    bad = state_of(MAMBA1)
    bad["norm_f.weight"][0] = float("nan")
    save_file(bad, text)
    model = build(M1, seed=0)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(WeightsError, match=r"text\.safetensors: 1 tensors hold NaN"):
        initialise(model, M1, image, text)
    assert equal(dict(model.state_dict()), before)
    save_file(state_of(MAMBA1), text)
    digests = initialise(model, M1, image, text)
    assert digests == {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in (("image", image), ("text", text))
    }
    after = model.state_dict()
    assert equal({key: after[f"vision_encoder.{key}"] for key in state_of(VMAMBA)}, state_of(VMAMBA))
    assert equal({key: after[f"text_encoder.{key}"] for key in load_file(text)}, load_file(text))
    assert torch.equal(after["vision_projection.weight"], before["vision_projection.weight"])
    assert initialise(model, M1) == {}


def test_initialising_keeps_parameters_and_dtype(tmp_path: Path) -> None:
    """An optimizer that holds the parameters must go on seeing the model's."""
    save_file({key: tensor.half() for key, tensor in state_of(MAMBA1).items()}, tmp_path / "t.safetensors")
    model = build(M1, seed=0)
    held = dict(model.named_parameters())
    initialise(model, M1, text=tmp_path / "t.safetensors")
    assert all(parameter is held[name] for name, parameter in model.named_parameters())
    assert model.text_encoder.norm_f.weight.dtype == torch.float32
    assert torch.equal(held["text_encoder.norm_f.weight"], state_of(MAMBA1)["norm_f.weight"].half().float())


PUBLISHED = {spec.origin.image.repo: spec for spec in paper_models() if spec.origin.image}


@pytest.mark.parametrize("repo", sorted(repo for repo in PUBLISHED if repo.startswith("timm/")))
def test_the_towers_that_timm_publishes_fit_ours(repo: str) -> None:
    with torch.device("meta"):
        theirs = timm.create_model(repo.removeprefix("timm/"))
    kept = to_tower(theirs.state_dict(), PUBLISHED[repo].image, "here")
    assert {*theirs.state_dict()} - {key.removeprefix("trunk.") for key in kept} == {
        "head.weight",
        "head.bias",
    }
