"""Looking after the cache: what is listed, what goes, what is found damaged, and what is left alone."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from climp_bench.data.webdataset import WebDataset
from climp_bench.embed.cache import CacheEntry
from climp_bench.embed.cache_admin import (
    Policy,
    StoredEntry,
    choose,
    entries,
    leftovers,
    remove,
    sweep_up,
    verify,
    weights_here,
)
from climp_bench.embed.extract import embed_images, embed_texts, image_key, text_key
from climp_bench.embed.key import EmbeddingKey
from climp_bench.errors import CacheError
from climp_bench.models.adapters import OwnTransform
from climp_bench.specs import ImagePreprocess
from tests.fakes import ToyEncoder

NOW = 1_000_000_000.0
DAY = 86_400.0
KEY = EmbeddingKey("text", "w", "m@micro", "t", "float32", "torch", "cpu", "d")


def _put(root: Path, *, model: str = "m@micro", weights: str = "w", days: float = 0.0, rows: int = 5) -> str:
    """A whole entry of two parts, last used so many days before NOW; returns its digest."""
    entry = CacheEntry(root, replace(KEY, model=model, weights=weights), "pets")
    with entry.locked():
        for part in range(2):
            entry.write_part(part, np.full((rows, 4), part, np.float32))
        entry.finish(2, 2 * rows)
    for path in entry.folder.iterdir():
        os.utime(path, (NOW - days * DAY, NOW - days * DAY))
    return entry.folder.name


def _unfinished(root: Path, *, days: float = 0.0) -> Path:
    entry = CacheEntry(root, replace(KEY, data="cut short"))
    with entry.locked():
        entry.write_part(0, np.zeros((5, 4), np.float32))
    for path in entry.folder.iterdir():
        os.utime(path, (NOW - days * DAY, NOW - days * DAY))
    return entry.folder


def _one(root: Path, digest: str) -> StoredEntry:
    (entry,) = (entry for entry in entries(root) if entry.digest == digest)
    return entry


def _part(root: Path, digest: str) -> Path:
    return root / digest[:2] / digest / "part-00001.npy"


def test_a_list_says_what_the_embeddings_are(make_wds: Callable[..., Path], tmp_path: Path) -> None:
    encoder = ToyEncoder(size=(8, 6))
    embed_images(WebDataset(make_wds("pets")), [encoder], tmp_path / "cache")
    embed_texts(["a", "bb", "a"], encoder, tmp_path / "cache")
    images, texts = sorted(entries(tmp_path / "cache"), key=lambda entry: entry.key.side)
    assert (images.label, images.rows, images.size, images.state) == ("pets", 10, (8, 6), "whole")
    assert (texts.rows, texts.size) == (2, None)
    assert images.key is not None and images.key.digest() == images.digest
    assert images.key.model == "toy@micro" and images.key.backend == "toy=numpy"
    held = sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*") if path.is_file())
    assert images.bytes + texts.bytes == held
    assert entries(tmp_path / "nowhere") == []


def test_reading_counts_as_use(tmp_path: Path) -> None:
    digest = _put(tmp_path, days=50)
    assert _one(tmp_path, digest).used == NOW - 50 * DAY
    CacheEntry(tmp_path, KEY, "pets").read()
    assert _one(tmp_path, digest).used > NOW


def test_age_model_and_weights_decide(tmp_path: Path) -> None:
    old, named = _put(tmp_path, days=40), _put(tmp_path, model="hf:x/y", days=1)
    orphan = _put(tmp_path, model="climp-m1@micro", weights="gone", days=1)
    peer = _put(tmp_path, model="open_clip:a/b", weights="gone", days=1)
    found = entries(tmp_path)

    def gone(policy: Policy) -> dict[str, str]:
        return {one.entry.digest: one.reason for one in choose(found, policy, NOW)}

    assert gone(Policy()) == {}
    assert gone(Policy(older_than=30 * DAY)) == {old: "not used for long"}
    assert gone(Policy(models=("hf:*",))) == {named: "model named"}
    known = frozenset({"climp-m1@micro", "m@micro"})
    assert gone(Policy(present={"w"}, known=known)) == {orphan: "its weights are gone"}
    assert peer not in gone(Policy(present=frozenset(), known=known))


def test_a_budget_keeps_what_was_used_last(tmp_path: Path) -> None:
    digests = [_put(tmp_path, weights=f"w{days}", days=days) for days in range(5)]
    found = entries(tmp_path)
    each = found[0].bytes
    assert {entry.bytes for entry in found} == {each}
    doomed = choose(found, Policy(max_bytes=3 * each), NOW)
    assert [one.entry.digest for one in doomed] == [digests[4], digests[3]]
    assert choose(found, Policy(max_bytes=5 * each), NOW) == []
    assert len(choose(found, Policy(max_bytes=0), NOW)) == 5
    both = choose(found, Policy(max_bytes=3 * each, older_than=1.5 * DAY), NOW)
    assert len(both) == 3, "what goes for its age does not count against the budget"


def test_leftovers_of_killed_runs(tmp_path: Path) -> None:
    _put(tmp_path)
    recent = _unfinished(tmp_path, days=0.5)
    stray = recent / ".part-00001.npy.abc"
    stray.write_bytes(b"half")
    os.utime(stray, (NOW - DAY / 2, NOW - DAY / 2))
    assert choose(entries(tmp_path), Policy(), NOW) == []
    (doomed,) = choose(entries(tmp_path), Policy(unfinished_after=DAY / 4), NOW)
    assert (doomed.entry.folder, doomed.reason) == (recent, "left by an interrupted run")
    assert leftovers(tmp_path) == [stray]
    with FileLock(f"{recent}.lock"):
        assert leftovers(tmp_path) == [], "a file that is being written is no leftover"
    assert sweep_up(leftovers(tmp_path)) == 4 and not stray.exists()
    assert (recent / "part-00000.npy").exists(), "finished parts serve the next run"


def test_what_is_in_use_stays(tmp_path: Path) -> None:
    digest = _put(tmp_path, days=40)
    entry = _one(tmp_path, digest)
    with FileLock(f"{entry.folder}.lock"):
        assert not remove(entry)
    CacheEntry(tmp_path, KEY).read()
    assert not remove(entry), "read after it was looked at"
    assert entry.folder.is_dir()
    assert remove(_one(tmp_path, digest))
    assert not entry.folder.exists() and entries(tmp_path) == [] and leftovers(tmp_path) == []


def test_half_removed_entries_are_leftovers(tmp_path: Path) -> None:
    digest = _put(tmp_path)
    trash = tmp_path / digest[:2] / f".trash-{digest}-1"
    _one(tmp_path, digest).folder.rename(trash)
    assert entries(tmp_path) == [] and leftovers(tmp_path) == [trash]
    assert sweep_up([trash]) > 0 and not trash.exists()


def test_a_removed_entry_is_made_again(make_wds: Callable[..., Path], tmp_path: Path) -> None:
    dataset, encoder = WebDataset(make_wds()), ToyEncoder()
    first = embed_images(dataset, [encoder], tmp_path / "cache")["toy@micro"]
    assert remove(entries(tmp_path / "cache")[0])
    again = embed_images(dataset, [encoder], tmp_path / "cache")["toy@micro"]
    assert not again.cached
    np.testing.assert_array_equal(again.rows, first.rows)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def _change(path: Path, **facts: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_flip, "part-00001.npy does not match its digest"),
        (Path.unlink, "part-00001.npy is missing"),
        (lambda part: _change(part.with_name("manifest.json"), rows=11), "10 rows instead of 11"),
        (lambda part: part.with_name("manifest.json").write_text("{"), "its manifest cannot be read"),
        (
            lambda part: _change(part.with_name("manifest.json"), key={**KEY.__dict__, "data": "x"}),
            "its manifest is of another key",
        ),
    ],
)
def test_damage_is_named_and_can_be_removed(
    tmp_path: Path, damage: Callable[[Path], object], says: str
) -> None:
    digest, good = _put(tmp_path), _put(tmp_path, weights="good")
    assert verify(_one(tmp_path, digest)) is None
    damage(_part(tmp_path, digest))
    entry = _one(tmp_path, digest)
    assert verify(entry) == says and entry.folder.is_dir()
    assert verify(_one(tmp_path, good), delete=True) is None
    assert verify(entry, delete=True) == says
    assert [left.digest for left in entries(tmp_path)] == [good]


def test_unfinished_parts_are_verified_too(tmp_path: Path) -> None:
    folder = _unfinished(tmp_path)
    assert verify(entries(tmp_path)[0]) is None
    _flip(folder / "part-00000.npy")
    assert verify(entries(tmp_path)[0]) == "part-00000.npy does not match its digest"


def test_an_entry_that_is_being_written_is_not_judged(tmp_path: Path) -> None:
    digest = _put(tmp_path)
    _flip(_part(tmp_path, digest))
    entry = _one(tmp_path, digest)
    with FileLock(f"{entry.folder}.lock"):
        assert verify(entry, delete=True) is None
    assert entry.folder.is_dir()


def test_a_cache_that_cannot_be_written_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = _put(tmp_path)

    def refuse(*args: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(CacheError, match=r"cannot be removed \(Read-only file system\)"):
        remove(_one(tmp_path, digest))


def test_the_shipped_weights_are_here() -> None:
    present, known = weights_here()
    assert len(present) >= 5 and "climp-m1@base" in known


OTHER = {
    "weights_digest": "other",
    "preprocess": ImagePreprocess(size=(8, 9)),
    "own_transform": OwnTransform("theirs", lambda image: image),
    "dtype": "bfloat16",
    "backends": {"toy": "other"},
    "device": "cuda",
    "family": "other",
}


@pytest.mark.parametrize("name", [*OTHER, "text_transform", "code"])
def test_whatever_shapes_an_embedding_is_in_its_key(
    name: str, make_wds: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, encoder = WebDataset(make_wds()), ToyEncoder()
    before = image_key(dataset, encoder).digest(), text_key(["a"], encoder).digest()
    if name == "code":
        monkeypatch.setattr(EmbeddingKey.__init__, "__defaults__", ("other",))
    else:
        setattr(encoder, name, OTHER.get(name, "other tokenizer"))
    after = image_key(dataset, encoder).digest(), text_key(["a"], encoder).digest()
    images_only = name in ("preprocess", "own_transform")
    texts_only = name == "text_transform"
    assert (before[0] == after[0], before[1] == after[1]) == (texts_only, images_only)


@pytest.mark.parametrize("field", [field.name for field in fields(ImagePreprocess)])
def test_every_detail_of_preprocessing_is_in_the_key(field: str, make_wds: Callable[..., Path]) -> None:
    dataset, encoder = WebDataset(make_wds()), ToyEncoder()
    before = image_key(dataset, encoder).digest()
    other = {"size": (9, 9), "mode": "native", "interpolation": "bicubic", "mean": (0.0, 0.0, 0.0),
             "std": (1.0, 1.0, 1.0), "crop_fraction": 0.9, "multiple": 2}  # fmt: skip
    encoder.preprocess = replace(encoder.preprocess, **{field: other[field]})
    assert image_key(dataset, encoder).digest() != before


def test_other_data_have_another_key(make_wds: Callable[..., Path], tmp_path: Path) -> None:
    encoder, dataset = ToyEncoder(), WebDataset(make_wds())
    keys = {image_key(dataset, encoder).digest()}
    dataset.split = "val"
    keys.add(image_key(dataset, encoder).digest())
    keys.add(image_key(WebDataset(make_wds("longer", per_shard=6)), encoder).digest())
    renewed = make_wds("toy")
    (renewed / "test/1.tar").write_bytes((renewed / "test/1.tar").read_bytes() + b"\0" * 512)
    keys.add(image_key(WebDataset(renewed), encoder).digest())
    keys.add(text_key(["a", "b"], encoder).digest())
    keys.add(text_key(["a", "c"], encoder).digest())
    assert len(keys) == 6
