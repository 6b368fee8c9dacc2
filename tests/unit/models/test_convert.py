"""Key layouts of other projects become ours, and every key is accounted for."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    Mamba2ForCausalLM,
    Mamba2Model,
    MambaForCausalLM,
    MambaModel,
)

from climp_bench.errors import WeightsError
from climp_bench.models import catalogue
from climp_bench.models.catalogue import Tower, build, build_tower, register_tower
from climp_bench.models.convert import to_model, to_tower
from climp_bench.models.foreign import ForeignWeights, read_tensors
from climp_bench.models.mamba1 import Mamba1Config
from climp_bench.models.spec import ModelSpec
from climp_bench.models.weights import load
from tests.peer_towers import (
    FLEXI,
    IDS,
    IMAGES,
    LLAMA,
    M1,
    M2,
    MAMBA1,
    MAMBA2,
    MIXED,
    NAFLEX,
    ROPE,
    VMAMBA,
    State,
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


def loaded(config: Any, state: State) -> Any:
    tower = build_tower(config).eval()
    tower.load_state_dict(to_tower(state, config, "here"))
    return tower


@pytest.mark.parametrize("config", [MAMBA1, MAMBA2], ids=["mamba1", "mamba2"])
def test_state_spaces_layout(tmp_path: Path, config: Any) -> None:
    """``backbone.`` and ``embedding``, the tied head stored twice, in a pickle of torch."""
    theirs = shaken(mamba1(MambaModel) if config is MAMBA1 else mamba2(Mamba2Model))
    state = {
        f"backbone.{key.replace('embeddings.', 'embedding.')}": tensor
        for key, tensor in theirs.state_dict().items()
    }
    state["lm_head.weight"] = state["backbone.embedding.weight"]
    torch.save(state, tmp_path / "pytorch_model.bin")
    tower = loaded(config, read_tensors(tmp_path))
    with torch.no_grad():
        expected = theirs(input_ids=IDS).last_hidden_state
        assert relative(tower.forward_features(IDS), expected) < 1e-5


def test_old_llama_checkpoints_store_their_frequencies() -> None:
    state = dict(shaken(llama(True).model).state_dict())
    old = {f"model.{key}": tensor for key, tensor in state.items()}
    old |= {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(4) for i in (0, 1)}
    assert equal(to_tower(old, LLAMA, "here"), to_tower(state, LLAMA, "here"))


def test_naflexvit_from_a_plain_vit() -> None:
    """timm's ViT with mean pooling and registers is the same function under other names and shapes."""
    theirs = shaken(
        plain_vit(class_token=False, reg_tokens=4, no_embed_class=True, global_pool="avg", init_values=1e-5)
    )
    state = dict(theirs.state_dict())
    before = {key: tensor.clone() for key, tensor in state.items()}
    tower = loaded(NAFLEX, state)
    with torch.no_grad():
        expected = theirs.forward_head(theirs.forward_features(IMAGES), pre_logits=True)
        assert relative(tower(IMAGES), expected) < 1e-5
    assert equal(state, before)


def test_a_plain_vit_with_other_positions_is_not_resampled() -> None:
    state = plain_vit(class_token=False, reg_tokens=4, global_pool="avg", init_values=1e-5).state_dict()
    with pytest.raises(
        WeightsError, match="holds a plain ViT tower alone, and a NaFlexViT tower alone is ne"
    ):
        to_tower(state, NAFLEX, "here")


@pytest.mark.parametrize("old_names", [False, True])
@pytest.mark.parametrize("convolutions", [False, True])
def test_official_vmamba_checkpoints(tmp_path: Path, old_names: bool, convolutions: bool) -> None:
    official = official_vmamba(old_names=old_names, convolutions=convolutions)
    torch.save({"model": official, "epoch": 237}, tmp_path / "vssm.pth")
    got = to_tower(read_tensors(tmp_path / "vssm.pth"), VMAMBA, "here")
    assert equal(got, state_of(VMAMBA))
    assert all(tensor.is_contiguous() for tensor in got.values())


def official_release(spec: ModelSpec) -> State:
    """A dual encoder in the form of the CLIMP release: towers by the projects' own names and modules."""
    model = build(spec, seed=3)
    text = shaken(mamba1(MambaModel) if spec is M1 else mamba2(Mamba2Model)).state_dict()
    state = {f"vision_encoder.{key}": tensor for key, tensor in state_of(VMAMBA).items()}
    state |= {f"text_encoder.{key}": tensor for key, tensor in text.items()}
    for part in ("vision_projection", "text_projection"):
        state |= {f"{part}.{key}": value for key, value in getattr(model, part).state_dict().items()}
    state["logit_scale"] = torch.tensor(4.2)
    return state


VARIANTS: dict[str, Callable[[State], State]] = {
    "plain": lambda state: state,
    "scale of one axis": lambda state: {**state, "logit_scale": state["logit_scale"].reshape(1)},
    "data parallel": lambda state: {f"module.{key}": tensor for key, tensor in state.items()},
    "compiled": lambda state: {f"_orig_mod.{key}": tensor for key, tensor in state.items()},
    "both": lambda state: {f"module._orig_mod.{key}": tensor for key, tensor in state.items()},
    "tower compiled": lambda state: {
        key.replace("vision_encoder.", "vision_encoder._orig_mod."): tensor for key, tensor in state.items()
    },
    "convolutions": lambda state: {
        key: tensor[:, :, None, None] if re.search(r"vision.*fc1\.weight", key) else tensor
        for key, tensor in state.items()
    },
    "half": lambda state: {key: tensor.half() for key, tensor in state.items()},
}


@pytest.mark.parametrize("spec", [M1, M2], ids=["m1", "m2"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_release_and_its_wrappers(tmp_path: Path, spec: ModelSpec, variant: str) -> None:
    release = official_release(spec)
    state = VARIANTS[variant](release)
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, tmp_path / "model.safetensors")
    model = load(spec, ForeignWeights(tmp_path, "file"))
    reference = build(spec).eval()
    with torch.no_grad():
        for key, tensor in reference.state_dict().items():
            tensor.copy_(release[key].half().float() if variant == "half" else release[key])
        assert torch.equal(model.encode_image(IMAGES), reference.encode_image(IMAGES))
        lengths = torch.tensor([9, 4, 1])
        assert torch.equal(model.encode_text(IDS, lengths), reference.encode_text(IDS, lengths))
        assert torch.equal(model.logit_scale, reference.logit_scale)


@pytest.mark.parametrize("image", [VMAMBA, ROPE, MIXED, FLEXI, NAFLEX])
@pytest.mark.parametrize("text", [MAMBA1, MAMBA2, LLAMA])
def test_our_own_names_pass_unchanged(image: Any, text: Any) -> None:
    spec = dataclasses.replace(M1, image=image, text=text)
    state = dict(build(spec, seed=1).state_dict())
    assert equal(to_model(dict(reversed(state.items())), spec, "here"), state)
    assert equal(to_tower(state_of(image), image, "here"), state_of(image))
    assert equal(to_tower(state_of(text), text, "here"), state_of(text))


def test_memory_is_shared(tmp_path: Path) -> None:
    state = official_release(M1)
    got = to_model(state, M1, "here")
    assert all(got[key].data_ptr() == state[key].data_ptr() for key in got)


def change_keys(state: State) -> None:
    del state["text_projection.bias"]
    state["text_encoder.layers.0.mixer.extra"] = torch.zeros(2)
    state["vision_projection.weight"] = torch.zeros(3, 4)
    state["logit_scale"] = torch.tensor(3)


def test_every_misfit_is_in_one_error() -> None:
    state = official_release(M1)
    change_keys(state)
    with pytest.raises(WeightsError) as caught:
        to_model(state, M1, "here")
    assert str(caught.value) == (
        "here: 4 keys do not fit the model: missing text_projection.bias, "
        "unexpected text_encoder.layers.0.mixer.extra, "
        "misshapen vision_projection.weight: (3, 4) instead of (8, 32), "
        "mistyped logit_scale: torch.int64 instead of floating point. "
        "Name the model they were made for, or train this one."
    )


def test_long_listings_are_cut() -> None:
    state = {f"strange.{i}": torch.zeros(1) for i in range(30)}
    with pytest.raises(WeightsError, match=r"strange\.7 and 22 more unexpected\.") as caught:
        to_model(state, M1, "here")
    missing = len(build(M1).state_dict())
    assert f"{missing + 30} keys do not fit" in str(caught.value)
    assert f" and {missing - 8} more missing, unexpected strange.0" in str(caught.value)
    assert "holds" not in str(caught.value), "nothing is known of it, so nothing is said"


CLIP = {"visual.conv1.weight": torch.ones(1), "transformer.resblocks.0.ln_1.weight": torch.ones(1)}
HF_CLIP = {"vision_model.a": torch.ones(1), "text_model.b": torch.ones(1)}


@pytest.mark.parametrize(
    ("state", "holds"),
    [
        (lambda: official_release(M2), "a dual encoder of VMamba and Mamba-2"),
        (
            lambda: dict(build(dataclasses.replace(M1, image=ROPE, text=LLAMA), seed=0).state_dict()),
            "a dual encoder of RoPE-ViT and LLaMA",
        ),
        (lambda: official_vmamba(old_names=False, convolutions=False), "a VMamba tower alone"),
        (lambda: official_vmamba(old_names=True, convolutions=True), "a VMamba tower alone"),
        (lambda: dict(mamba1(MambaForCausalLM).state_dict()), "a Mamba-1 tower alone"),
        (lambda: dict(mamba2(Mamba2Model).state_dict()), "a Mamba-2 tower alone"),
        (lambda: dict(llama(False).state_dict()), "a LLaMA tower alone"),
        (lambda: dict(plain_vit().state_dict()), "a plain ViT tower alone"),
        (lambda: dict(naflex().state_dict()), "a NaFlexViT tower alone"),
        (lambda: dict(eva("cat").state_dict()), "a RoPE-ViT tower alone"),
        (lambda: CLIP, "an OpenCLIP model"),
        (lambda: HF_CLIP, "a dual encoder of transformers"),
    ],
)
def test_another_kind_of_checkpoint_is_told_in_words(state: Callable[[], State], holds: str) -> None:
    with pytest.raises(WeightsError) as caught:
        to_model(state(), M1, "here")
    start = f"here: the file holds {holds}, and a dual encoder of VMamba and Mamba-1 is needed; "
    assert str(caught.value).startswith(start)
    peer = holds in ("an OpenCLIP model", "a dual encoder of transformers")
    assert ("--model open_clip:" in str(caught.value)) == peer


def test_a_tower_of_another_kind_is_told_in_words() -> None:
    with pytest.raises(
        WeightsError, match=r"holds a Mamba-2 tower alone, and a Mamba-1 tower alone is needed"
    ):
        to_tower(dict(mamba2(Mamba2ForCausalLM).state_dict()), MAMBA1, "here")
    with pytest.raises(
        WeightsError, match=r"dual encoder of VMamba and Mamba-1, and a VMamba tower alone is n"
    ):
        to_tower(official_release(M1), VMAMBA, "here")


@pytest.mark.parametrize(
    ("config", "key"),
    [
        (VMAMBA, "classifier.fc.weight"),
        (MAMBA1, "lm_head.bias"),
        (MAMBA2, "backbone.extra"),
        (LLAMA, "score.weight"),
        (ROPE, "head_dist.weight"),
        (NAFLEX, "fc_norm.extra"),
    ],
)
def test_what_is_not_on_the_list_is_not_dropped(config: Any, key: str) -> None:
    state = {**state_of(config), key: torch.ones(1)}
    with pytest.raises(WeightsError, match=rf"1 keys do not fit the model: unexpected {re.escape(key)}\."):
        to_tower(state, config, "here")


def test_two_tensors_for_one_key() -> None:
    state = state_of(MAMBA1)
    state["backbone.embedding.weight"] = state["embeddings.weight"]
    with pytest.raises(WeightsError, match=r"two tensors stand for embeddings\.weight"):
        to_tower(state, MAMBA1, "here")


def test_towers_of_other_packages_load_by_their_own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    class OtherConfig(Mamba1Config):
        pass

    monkeypatch.setattr(catalogue, "_TOWERS", dict(catalogue._TOWERS))
    register_tower(OtherConfig, Tower("climp_bench.models.mamba1:Mamba1"))
    config = OtherConfig(vocab_size=40, d_model=32, n_layer=2)
    assert equal(to_tower(state_of(MAMBA1), config, "here"), state_of(MAMBA1))
    with pytest.raises(WeightsError, match=r"unexpected lm_head\.weight"):
        to_tower({**state_of(MAMBA1), "lm_head.weight": torch.ones(1)}, config, "here")
