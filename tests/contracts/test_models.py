"""Every model can be built and fed, every op has its reference, shipped weights are whole."""

from __future__ import annotations

import inspect
import json
import re
from importlib import import_module
from pathlib import Path

import pytest
import torch

from climp_bench.data.catalogue import DATASETS
from climp_bench.files import sha256_file
from climp_bench.models import tokenizer
from climp_bench.models.card import SECTIONS
from climp_bench.models.catalogue import MODELS, build, operators
from climp_bench.models.spec import ModelSpec
from climp_bench.models.store import CARD, FILES, MANIFEST, MODEL, SHIPPED, folder_name
from climp_bench.ops import dispatch, reference
from tests.contracts.checks import card_fact, card_sections

FAMILIES = ("climp-m1", "climp-m2", "rope-vit", "flexivit", "naflexvit")
"""The families whose weights are shipped: those of the short table."""

TABLE = json.loads((SHIPPED / MANIFEST).read_text(encoding="utf-8"))
OPS = sorted(dispatch._BACKENDS)
each_model = pytest.mark.parametrize("spec", MODELS, ids=lambda spec: spec.name)
each_with_a_shipped_tokenizer = pytest.mark.parametrize(
    "spec", [spec for spec in MODELS if tokenizer.is_shipped(spec.tokenizer)], ids=lambda spec: spec.name
)
each_shipped = pytest.mark.parametrize("name", sorted(TABLE))


@each_model
def test_a_model_builds_without_allocating(spec: ModelSpec) -> None:
    with torch.device("meta"):
        model = build(spec)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert model.embed_dim == spec.embed_dim
    assert MODELS.get(spec.name) is spec
    assert spec.description.strip() and spec.source.strip()


@each_model
def test_its_parts_can_be_come_by(spec: ModelSpec) -> None:
    """A micro model comes with all it needs; the others say where their parts are published."""
    origin = spec.origin
    published = [part for part in (origin.weights, origin.image, origin.text, origin.tokenizer) if part]
    assert (spec.scale == "micro") == tokenizer.is_shipped(spec.tokenizer) == (not published)
    assert tokenizer.is_shipped(spec.tokenizer) or origin.tokenizer
    for part in published:
        assert part.licence and part.filename
        assert bool(part.repo) != bool(part.url), "on the hub or elsewhere, not both"
        assert not part.url or (part.url.startswith("https://") and part.url.endswith(f"/{part.filename}"))


@each_with_a_shipped_tokenizer
def test_its_tokenizer_loads_and_fits_its_vocabulary(spec: ModelSpec) -> None:
    loaded = tokenizer.load(spec.tokenizer)
    assert loaded.vocab_size <= spec.text.vocab_size
    scenes = DATASETS.get("scenes-dense").open(3)
    texts = [caption for i in range(3) for caption in scenes.captions(i)]
    ids = [i for row in loaded.encode([*texts, "Füße 漢字 🙂"]) for i in row]
    assert min(ids) >= 0 and max(ids) < spec.text.vocab_size


def patch_sides(spec: ModelSpec) -> set[int]:
    """What each side of an input must be a multiple of: every patch size, or VMamba's total stride."""
    image = spec.image
    if hasattr(image, "depths"):
        return {4 * 2 ** (len(image.depths) - 1)}
    return {image.patch_size, *getattr(image, "patch_sizes", ())}


@each_model
def test_its_input_is_whole_patches(spec: ModelSpec) -> None:
    preprocess = spec.preprocess
    sides = patch_sides(spec)
    assert [(s, p) for s in preprocess.size for p in sides if s % p] == []
    if preprocess.mode == "native":
        assert sides == {preprocess.multiple}
    assert all(std > 0 for std in preprocess.std)


@each_model
def test_its_operators_run_on_a_cpu(spec: ModelSpec) -> None:
    for op in operators(spec):
        kernel, name, reason = dispatch.resolve(op, "cpu")
        assert callable(kernel) and reason
        assert name != "reference", "the reference is for checking, too slow to evaluate with"


@pytest.mark.parametrize("op", OPS)
def test_every_backend_has_the_reference_beside_it(op: str) -> None:
    names = [status.name for status in dispatch.backends(op, "cpu")]
    assert names[-1] == "reference" and len(names) == len(set(names)) >= 2
    kernel, _, _ = dispatch.resolve(op, "cpu", "reference")
    assert kernel is getattr(reference, op)
    for entry in dispatch._BACKENDS[op]:
        backend = getattr(import_module(entry.module), op)
        assert list(inspect.signature(backend).parameters) == list(inspect.signature(kernel).parameters)


def test_every_op_is_used_by_a_model_and_every_model_asks_for_known_ones() -> None:
    assert sorted({op for spec in MODELS for op in operators(spec)}) == OPS


def test_the_manifest_names_every_shipped_folder_and_no_other() -> None:
    folders = {path.name for path in SHIPPED.iterdir() if path.is_dir()}
    assert folders == set(TABLE) == {f"{family}-micro" for family in FAMILIES}
    assert {path.name for path in SHIPPED.iterdir() if path.is_file()} == {MANIFEST}


@each_shipped
def test_shipped_files_are_those_of_the_manifest(name: str) -> None:
    folder = SHIPPED / name
    assert {path.name for path in folder.iterdir()} == set(TABLE[name]) == set(FILES)
    assert {file: described(folder / file) for file in FILES} == TABLE[name]


def described(path: Path) -> dict[str, object]:
    return {"size": path.stat().st_size, "sha256": sha256_file(path)}


def test_no_two_models_ship_the_same_weights() -> None:
    assert len({entry[MODEL]["sha256"] for entry in TABLE.values()}) == len(TABLE)


@each_shipped
def test_a_card_states_how_the_weights_came_about(name: str) -> None:
    text = (SHIPPED / name / CARD).read_text(encoding="utf-8")
    (spec,) = (spec for spec in MODELS if folder_name(spec) == name)
    assert text.startswith(f"# {spec.name}\n")
    sections = card_sections(text)
    assert [s for s in SECTIONS if sections.get(s, "not recorded") in ("", "not recorded")] == []
    assert sections["seed"].isdigit()
    assert re.match(r"[0-9a-f]{40}\b", sections["commit"])
    budget, data = sections["budget"], sections["data"]
    pairs, steps, batch = (int(card_fact(budget, key)) for key in ("pairs seen", "steps", "batch size"))
    assert pairs == steps * batch > 0
    assert int(card_fact(data, "distinct scenes")) > 0
    scores = [float(line.strip("| ").split(" | ")[-1]) for line in sections["scores"].splitlines()[2:]]
    assert scores and all(0 < score <= 1 for score in scores)


def test_all_shipped_models_had_one_budget() -> None:
    cards = [card_sections((SHIPPED / name / CARD).read_text(encoding="utf-8")) for name in TABLE]
    for section in ("data", "optimiser", "seed", "commit"):
        assert len({card[section] for card in cards}) == 1, section
    for key in ("pairs seen", "steps", "batch size", "precision"):
        assert len({card_fact(card["budget"], key) for card in cards}) == 1, key
