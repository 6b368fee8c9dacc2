"""Checkpoints out of any container: all tensors or an error that says what is wrong, and nothing executed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from climp_bench.errors import WeightsError
from climp_bench.models import tokenizer as tokenizers
from climp_bench.models.catalogue import build
from climp_bench.models.foreign import ForeignWeights, checkpoint_files, digest, read_tensors
from climp_bench.models.weights import Weights, load
from tests.peer_towers import M1, equal

STATE = {
    "a.weight": torch.arange(6.0).reshape(2, 3),
    "b.bias": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "scale": torch.tensor(2.5),
}
SPEC = dataclasses.replace(M1, text=dataclasses.replace(M1.text, vocab_size=300), tokenizer="peas-bpe")


def same(got: dict[str, Tensor]) -> bool:
    return got.keys() == STATE.keys() and all(
        tensor.dtype == STATE[key].dtype and torch.equal(tensor, STATE[key]) for key, tensor in got.items()
    )


def write_shards(folder: Path, name: str = "model", ending: str = "safetensors") -> Path:
    """STATE as two shards and an index, in transformers' form; the index."""
    folder.mkdir(exist_ok=True)
    names = [f"{name}-0000{i}-of-00002.{ending}" for i in (1, 2)]
    parts = [{"a.weight": STATE["a.weight"]}, {key: STATE[key] for key in ("b.bias", "scale")}]
    for file, part in zip(names, parts, strict=True):
        if ending == "safetensors":
            save_file(part, folder / file)
        else:
            torch.save(part, folder / file)
    table = {key: file for file, part in zip(names, parts, strict=True) for key in part}
    index = folder / f"{name}.{ending}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 32}, "weight_map": table}))
    return index


def edit_index(index: Path, change: Callable[[dict[str, str]], object]) -> None:
    content = json.loads(index.read_text())
    change(content["weight_map"])
    index.write_text(json.dumps(content))


def single(folder: Path, name: str, state: dict[str, Tensor] = STATE) -> Path:
    path = folder / name
    if name.endswith(".safetensors"):
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization="legacy" not in name)
    return path


@pytest.mark.parametrize("name", ["x.safetensors", "x.pth", "x.pt", "x.bin", "x.ckpt", "legacy.pth"])
def test_single_files(tmp_path: Path, name: str) -> None:
    path = single(tmp_path, name)
    assert same(read_tensors(path))
    assert checkpoint_files(path) == (path,)
    assert digest(path) == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_folders_with_one_file(tmp_path: Path, name: str) -> None:
    path = single(tmp_path, name)
    assert same(read_tensors(tmp_path))
    assert checkpoint_files(tmp_path) == (path,)
    assert digest(tmp_path) == digest(path)


@pytest.mark.parametrize(("name", "ending"), [("model", "safetensors"), ("pytorch_model", "bin")])
def test_shards(tmp_path: Path, name: str, ending: str) -> None:
    index = write_shards(tmp_path / "x", name, ending)
    assert same(read_tensors(tmp_path / "x"))
    assert same(read_tensors(index))
    files = checkpoint_files(tmp_path / "x")
    assert [file.name for file in files] == sorted(file.name for file in (tmp_path / "x").iterdir())
    lines = [f"{file.name} {hashlib.sha256(file.read_bytes()).hexdigest()}\n" for file in files]
    assert digest(tmp_path / "x") == digest(index) == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_the_digest_of_shards_does_not_depend_on_the_place_but_on_every_file(tmp_path: Path) -> None:
    write_shards(tmp_path / "x")
    index = write_shards(tmp_path / "y")
    assert digest(tmp_path / "x") == digest(tmp_path / "y")
    save_file({"a.weight": STATE["a.weight"] + 1}, index.parent / "model-00001-of-00002.safetensors")
    assert digest(tmp_path / "x") != digest(tmp_path / "y")


def test_safetensors_come_before_pickles(tmp_path: Path) -> None:
    single(tmp_path, "model.safetensors")
    torch.save({"other": torch.ones(1)}, tmp_path / "pytorch_model.bin")
    assert same(read_tensors(tmp_path))


@pytest.mark.parametrize("name", ["x.safetensors", "x.pth"])
def test_tensors_are_mapped_and_the_file_is_never_written(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    big = {"w": torch.ones(1 << 20)}
    if path.suffix == ".pth":
        torch.save(big, path)
    else:
        save_file(big, path)
    before = path.read_bytes()
    state = read_tensors(path)
    address = state["w"].data_ptr()
    spans = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if str(path) in line]
    assert any(
        int(start, 16) <= address < int(end, 16) for start, end in (span[0].split("-") for span in spans)
    )
    state["w"].add_(1)
    assert path.read_bytes() == before


@pytest.mark.parametrize("wrapper", ["model", "state_dict"])
def test_a_wrapping_dictionary_is_taken_off(tmp_path: Path, wrapper: str) -> None:
    beside = {"model_ema": {"a.weight": torch.zeros(1)}, "optimizer": {"state": {}}, "epoch": 237}
    torch.save({wrapper: STATE, **beside}, tmp_path / "x.pth")
    assert same(read_tensors(tmp_path / "x.pth"))


def test_two_sets_of_weights_are_ambiguous(tmp_path: Path) -> None:
    torch.save({"model": STATE, "state_dict": STATE}, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match="two sets of weights lie under model and state_dict"):
        read_tensors(tmp_path / "x.pth")


def test_parameters_come_out_as_plain_tensors(tmp_path: Path) -> None:
    torch.save({"w": torch.nn.Parameter(torch.ones(2))}, tmp_path / "x.pth")
    assert not read_tensors(tmp_path / "x.pth")["w"].requires_grad


def test_the_settings_in_vmambas_checkpoints_are_read_without_running_yacs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their ``config`` is a yacs object: a dictionary with attributes, in which others nest."""

    class CfgNode(dict[str, object]):
        def __init__(self, **content: object) -> None:
            super().__init__(content)
            self.__dict__.update({"__immutable__": True, "__deprecated_keys__": set()})

    CfgNode.__module__, CfgNode.__qualname__ = "yacs.config", "CfgNode"
    module = ModuleType("yacs.config")
    module.CfgNode = CfgNode  # type: ignore[attr-defined]
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "yacs", ModuleType("yacs"))
        patch.setitem(sys.modules, "yacs.config", module)
        settings = CfgNode(MODEL=CfgNode(TYPE="vssm", DIMS=[96, 192]), AMP=True)
        torch.save({"model": STATE, "config": settings}, tmp_path / "x.pth")
        torch.save(
            {"model": STATE, "config": settings}, tmp_path / "y.pth", _use_new_zipfile_serialization=False
        )
    monkeypatch.setitem(sys.modules, "yacs", None)  # an attempt to import it fails
    assert same(read_tensors(tmp_path / "x.pth"))
    assert same(read_tensors(tmp_path / "y.pth"))
    assert "CfgNode" not in {kind.__name__ for kind in torch.serialization.get_safe_globals()}


class Bomb:
    """Makes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


class SystemBomb(Bomb):
    def __reduce__(self) -> tuple[object, tuple[str]]:  # type: ignore[override]
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("kind", [Bomb, SystemBomb])
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("beside", [False, True])
def test_pickled_code_is_not_executed(tmp_path: Path, kind: type[Bomb], legacy: bool, beside: bool) -> None:
    trace = tmp_path / "exploded"
    content = {"model": STATE, "config": kind(trace)} if beside else {"w": kind(trace)}
    path = tmp_path / "x.pth"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(WeightsError, match=r"nothing of it was executed.*weights_only=False.*save_file"):
        read_tensors(path)
    assert not trace.exists()


def test_the_bomb_is_live(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Bomb(tmp_path / "exploded")))
    assert (tmp_path / "exploded").exists()


def test_a_whole_module_is_code(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=r"torch\.nn\.modules\.linear\.Linear.*nothing of it was executed"):
        read_tensors(tmp_path / "x.pth")


@pytest.mark.filterwarnings("ignore")
def test_torchscript_is_code(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "x.pt"))
    with pytest.raises(WeightsError, match="TorchScript program, which is not executed"):
        read_tensors(tmp_path / "x.pt")


@pytest.mark.parametrize("name", ["x.safetensors", "x.pth", "legacy.pth"])
@pytest.mark.parametrize("kept", [0.5, 0.95])
def test_truncated_files(tmp_path: Path, name: str, kept: float) -> None:
    path = single(tmp_path, name, {"w": torch.ones(5000)})
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(WeightsError, match=rf"{name}: not a readable .*fetch"):
        read_tensors(path)


@pytest.mark.parametrize("name", ["x.safetensors", "x.pth"])
@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "the file is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "pointer of Git LFS"),
        (b"<html>404</html>" * 9, "not a readable"),
    ],
)
def test_files_that_are_no_checkpoints(tmp_path: Path, name: str, content: bytes, what: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=what):
        read_tensors(tmp_path / name)


def test_no_tensors(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "x.pth")
    save_file({}, tmp_path / "x.safetensors")
    for name in ("x.pth", "x.safetensors"):
        with pytest.raises(WeightsError, match="no tensors"):
            read_tensors(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ([torch.ones(1)], "holds a list"),
        (torch.ones(1), "holds a Tensor"),
        ({"w": torch.ones(1), "epoch": 3, "tags": ["x"]}, r"2 entries.*epoch \(int\), tags \(list\)"),
        ({"model": {"w": torch.ones(1), "lr": 0.1}}, r"1 entries.*lr \(float\)"),
    ],
)
def test_content_that_is_not_tensors_by_name(tmp_path: Path, content: object, what: str) -> None:
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=what):
        read_tensors(tmp_path / "x.pth")


@pytest.mark.parametrize("act", [read_tensors, checkpoint_files, digest])
def test_what_is_not_there(tmp_path: Path, act: Callable[[Path], object]) -> None:
    with pytest.raises(WeightsError, match=r"nowhere\.pth: there is no such file or folder"):
        act(tmp_path / "nowhere.pth")
    with pytest.raises(
        WeightsError, match=r"looked for model\.safetensors, .*pytorch_model\.bin\.index\.json"
    ):
        act(tmp_path)
    for name in ("model.safetensors.incomplete", "x.pth.part"):
        single(tmp_path, "x.pth").rename(tmp_path / name)
        with pytest.raises(WeightsError, match=f"{name}: this is an unfinished download"):
            act(tmp_path / name)
    with pytest.raises(
        WeightsError, match=r"unfinished downloads: model\.safetensors\.incomplete, x\.pth\.part"
    ):
        act(tmp_path)


def test_an_unknown_ending(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    with pytest.raises(WeightsError, match=r"ending '\.gguf'.*\.safetensors"):
        read_tensors(tmp_path / "x.gguf")


@pytest.mark.parametrize("act", [read_tensors, checkpoint_files, digest])
def test_missing_shards_are_listed(tmp_path: Path, act: Callable[[Path], object]) -> None:
    index = write_shards(tmp_path / "x")
    edit_index(index, lambda table: table.update(more="model-00003-of-00003.safetensors"))
    (tmp_path / "x" / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"2 of 3 shards are missing: model-00001-of-\S+, model-00003-of"):
        act(tmp_path / "x")


def test_a_shard_alone(tmp_path: Path) -> None:
    index = write_shards(tmp_path / "x")
    with pytest.raises(WeightsError, match="one shard of several"):
        read_tensors(index.parent / "model-00001-of-00002.safetensors")
    save_file(STATE, tmp_path / "model-00001-of-00001.safetensors")
    assert same(read_tensors(tmp_path / "model-00001-of-00001.safetensors"))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda table: table.pop("scale"), "scale"),
        (lambda table: table.update(extra="model-00002-of-00002.safetensors"), "extra"),
        (lambda table: table.update(scale="model-00001-of-00002.safetensors"), "scale"),
    ],
)
def test_shards_that_contradict_their_index(
    tmp_path: Path, change: Callable[[dict[str, str]], object], named: str
) -> None:
    edit_index(write_shards(tmp_path / "x"), change)
    with pytest.raises(WeightsError, match=rf"1 keys are in the shard or in its index, not in both: {named}"):
        read_tensors(tmp_path / "x")


@pytest.mark.parametrize(
    "name", ["../x.safetensors", "/etc/passwd", "..", "", "sub/x.safetensors", "..\\x.pth", "c:x.pth"]
)
def test_an_index_names_only_files_beside_it(tmp_path: Path, name: str) -> None:
    save_file(STATE, tmp_path / "x.safetensors")
    index = write_shards(tmp_path / "x")
    edit_index(index, lambda table: table.update(more=name))
    with pytest.raises(WeightsError, match="names files outside its folder"):
        read_tensors(tmp_path / "x")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": 3}}', "\x00"])
def test_a_damaged_index(tmp_path: Path, text: str) -> None:
    write_shards(tmp_path / "x").write_text(text)
    with pytest.raises(WeightsError, match="not a readable index of shards"):
        read_tensors(tmp_path / "x")


def release(folder: Path) -> Path:
    """A checkpoint in the form of the CLIMP release."""
    folder.mkdir(exist_ok=True)
    save_file(build(SPEC, seed=3).state_dict(), folder / "model.safetensors")
    return folder / "model.safetensors"


def test_a_release_goes_through(tmp_path: Path) -> None:
    path = release(tmp_path)
    weights: Weights = ForeignWeights(path, f"file {path}")
    model = load(SPEC, weights)
    assert weights.source == f"file {path}"
    assert weights.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert equal(dict(model.state_dict()), dict(build(SPEC, seed=3).state_dict()))


def test_the_digest_is_read_once(tmp_path: Path) -> None:
    weights = ForeignWeights(release(tmp_path), "file")
    first = weights.digest
    weights.path.unlink()
    assert weights.digest == first


def test_errors_name_the_source(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match=r"hf:a/b@123: .*keys do not fit"):
        ForeignWeights(tmp_path / "x.safetensors", "hf:a/b@123").read(SPEC)


def test_which_tokenizer_is_taken(tmp_path: Path) -> None:
    path = release(tmp_path)
    with pytest.raises(WeightsError, match=r"needs the tokenizer 'peas-bpe'.*--tokenizer PATH"):
        ForeignWeights(path, "file").tokenizer(SPEC)
    beside, named = (tokenizers.train_bpe([words], 300) for words in ("peas and beans", "green, round"))
    (tmp_path / "tokenizer.json").write_text(beside.to_json())
    (tmp_path / "other.json").write_text(named.to_json())
    assert ForeignWeights(path, "file").tokenizer(SPEC).digest == beside.digest
    assert ForeignWeights(tmp_path, "file").tokenizer(SPEC).digest == beside.digest
    assert ForeignWeights(path, "file", tmp_path / "other.json").tokenizer(SPEC).digest == named.digest
    with pytest.raises(WeightsError, match="not a readable tokenizer"):
        ForeignWeights(path, "file", tmp_path / "absent.json").tokenizer(SPEC)


def test_a_shipped_tokenizer_needs_no_file(tmp_path: Path) -> None:
    spec = dataclasses.replace(SPEC, tokenizer="scenes-bpe")
    shipped = tokenizers.load("scenes-bpe")
    assert ForeignWeights(release(tmp_path), "file").tokenizer(spec).digest == shipped.digest


def test_a_tokenizer_with_more_ids_than_embeddings(tmp_path: Path) -> None:
    path = release(tmp_path)
    (tmp_path / "tokenizer.json").write_text(tokenizers.load("scenes-bpe").to_json())
    with pytest.raises(WeightsError, match=r"has \d+ ids, pea@micro has embeddings for 300"):
        ForeignWeights(path, "file").tokenizer(SPEC)
