"""What a recipe names is fetched: shards and the first weights of a tower, once, pinned, never offline."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from climp_bench.data.published import published
from climp_bench.data.remote_shards import default_root
from climp_bench.errors import DataError, UsageError, WeightsError
from climp_bench.files import sha256_file
from climp_bench.models.catalogue import build
from climp_bench.models.spec import ModelSpec, Origin, Source
from climp_bench.models.store import open_folder, user_store
from climp_bench.ops.dispatch import preferred
from climp_bench.train import Quiet, engine, recipe
from climp_bench.train.starting import TOWERS, check_data, start_towers
from tests.conftest import png, write_tar
from tests.fake_hub import COMMIT, FakeHub, serve
from tests.unit.train.small import PLAIN, metrics, small_spec, train_small

REPO, NAME = "ann/pairs-wds", "vssm.pth"
SHARDS = [
    "data.source=shards", f"data.repo={REPO}", f"data.revision={COMMIT}", "data.files=p-{00..02}.tar",
    "data.held_out=4", "budget.batch_size=8", "budget.samples=32",
]  # fmt: skip


@pytest.fixture(scope="module")
def tars(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder, files = tmp_path_factory.mktemp("tars"), {}
    for shard in range(4):
        members = []
        for i in range(shard * 8, shard * 8 + 8):
            members += [(f"{i:05d}.png", png(i)), (f"{i:05d}.txt", f"picture {i}".encode())]
        write_tar(folder / f"p-{shard:02d}.tar", members)
        files[f"p-{shard:02d}.tar"] = (folder / f"p-{shard:02d}.tar").read_bytes()
    return files


@pytest.fixture
def server(tars: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setenv("CLIMP_BENCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(engine, "find", engine.find)
    with serve(FakeHub({REPO: {**tars, "README.md": b"pairs"}})) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


def test_shards_are_fetched_once_and_train_as_from_a_folder(
    server: FakeHub, tars: dict[str, bytes], tmp_path: Path
) -> None:
    weights = train_small(str(tmp_path / "hub"), str(tmp_path / "pool"), *SHARDS)
    assert [name for name, _ in server.served] == ["README.md", "p-00.tar", "p-01.tar", "p-02.tar"]
    (copy,) = default_root().glob("*/pulled.json")
    assert json.loads(copy.read_text())["commit"] == COMMIT
    origin = json.loads((open_folder(Path(weights)).directory / "origin.json").read_text())
    assert (origin["recipe"]["data"]["repo"], origin["recipe"]["data"]["revision"]) == (REPO, COMMIT)
    assert f"hf:datasets/{REPO}@{COMMIT}" in (Path(weights) / "README.md").read_text()
    for name, content in tars.items():
        (tmp_path / "mine").mkdir(exist_ok=True)
        (tmp_path / "mine" / name).write_bytes(content)
    local = [*SHARDS, "data.repo=", "data.revision=", f"data.path={tmp_path / 'mine'}"]
    train_small(str(tmp_path / "local"), str(tmp_path / "pool"), *local)
    mine, theirs = metrics(tmp_path / "local"), metrics(tmp_path / "hub")
    assert [mine[k]["seen"] for k in mine] == [theirs[k]["seen"] for k in theirs]
    assert [mine[k]["loss"] for k in mine] == pytest.approx([theirs[k]["loss"] for k in theirs])


def test_offline_takes_what_is_here_and_no_more(server: FakeHub) -> None:
    chosen = recipe.load("scenes-micro", SHARDS)
    with pytest.raises(DataError, match="--offline was given") as caught:
        check_data(chosen, small_spec(), offline=True)
    assert "--set data.path=DIR" in caught.value.remedy
    said: list[str] = []
    check_data(chosen, small_spec(), said.append)
    assert len(said) == 1 and "3 files" in said[0] and COMMIT[:12] in said[0]
    fetched = len(server.served)
    check_data(chosen, small_spec(), offline=True)
    check_data(recipe.load("scenes-micro", [*SHARDS, "data.files=p-01.tar"]), small_spec(), offline=True)
    assert len(server.served) == fetched
    with pytest.raises(DataError, match=r"1 of 5 files are not there: p-04\.tar"):
        check_data(recipe.load("scenes-micro", [*SHARDS, "data.files=p-{00..04}.tar"]), small_spec())


@pytest.mark.parametrize("name", ["cc3m", "cc12m"])
def test_shards_of_the_catalogue_go_by_their_name(name: str) -> None:
    (entry,) = [entry for entry in published() if entry.name == name]
    changes = ["data.source=shards", f"data.name={name}"]
    data = recipe.load("climp-cc12m", changes).data
    assert (data.repo, data.revision, data.files) == (entry.repo, entry.commit, entry.files)
    some = recipe.load("climp-cc12m", [*changes, "data.files=x-{0..3}.tar"])
    assert some.data.files == "x-{0..3}.tar"
    assert recipe.validate(some.resolved(), "here") == some
    local = recipe.load("climp-cc12m", [*changes, "data.path=/data"]).data
    assert (local.repo, local.path, local.files) == ("", "/data", "*.tar")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["data.path=/data"], "in place of a `path`: leave one of them out"),
        (["data.source=scenes"], "only shards have a `repo`"),
        (["data.revision=main"], "a commit of 40 hexadecimal digits"),
        (["data.revision="], "a commit of 40 hexadecimal digits"),
        (["data.name=cc1m"], r"called 'cc1m' \(known: cc3m, cc12m\)"),
    ],
)
def test_what_contradicts_itself_is_refused(changes: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        recipe.load("scenes-micro", [*SHARDS, *changes])


def test_another_commit_is_another_run() -> None:
    stored = recipe.load("scenes-micro", SHARDS).resolved()
    other = recipe.load("scenes-micro", [*SHARDS, f"data.revision={'f' * 40}"])
    assert [line.partition(" ")[0] for line in other.differences(stored)] == ["data.revision"]


def release(tmp_path: Path, content: object) -> bytes:
    torch.save(content, tmp_path / NAME)
    return (tmp_path / NAME).read_bytes()


@pytest.fixture
def spec(server: FakeHub) -> ModelSpec:
    source = Source("", NAME, "MIT", url=f"{server.url}/web/{NAME}")
    return replace(small_spec(), origin=Origin(image=source))


def start(spec: ModelSpec, said: list[str], offline: bool = False) -> tuple[dict[str, str], torch.nn.Module]:
    chosen = recipe.load("scenes-micro", ["model.init_image=published"])
    model = build(spec, seed=0)
    return start_towers(model, spec, chosen, said.append, offline), model.vision_encoder


def test_a_tower_starts_from_a_file_that_is_not_on_the_hub(
    server: FakeHub, spec: ModelSpec, tmp_path: Path
) -> None:
    given = build(spec, seed=7).vision_encoder
    server.web[NAME] = release(tmp_path, {"model": given.state_dict(), "epoch": 3})
    with pytest.raises(WeightsError, match=r"--offline was given.*--set model\.init_image=PATH"):
        start(spec, [], offline=True)
    said: list[str] = []
    digests, tower = start(spec, said)
    for key, tensor in given.state_dict().items():
        assert torch.equal(tower.state_dict()[key], tensor)
    kept = user_store() / TOWERS / NAME
    assert digests == {"image": sha256_file(kept)}
    assert "MB" in said[0] and digests["image"] in said[1]
    again, _ = start(spec, said, offline=True)
    assert again == digests and len(said) == 2 and len(server.served) == 1


def test_a_stated_digest_is_held_to(server: FakeHub, spec: ModelSpec, tmp_path: Path) -> None:
    server.web[NAME] = release(tmp_path, build(spec, seed=7).vision_encoder.state_dict())
    image = spec.origin.image
    assert image is not None
    stated = replace(spec, origin=Origin(image=replace(image, sha256="0" * 64)))
    with pytest.raises(WeightsError, match="the catalogue states 000"):
        start(stated, [])
    assert not (user_store() / TOWERS / NAME).exists()


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_code_in_a_fetched_file_is_not_run(server: FakeHub, spec: ModelSpec, tmp_path: Path) -> None:
    server.web[NAME] = release(tmp_path, {"model": _Bomb(tmp_path / "executed")})
    with pytest.raises(WeightsError, match="nothing of it was executed"):
        start(spec, [])
    assert not (tmp_path / "executed").exists()


def test_the_card_and_a_resumed_run_keep_the_digest(server: FakeHub, spec: ModelSpec, tmp_path: Path) -> None:
    server.web[NAME] = release(tmp_path, build(spec, seed=7).vision_encoder.state_dict())
    changes = ["model.init_image=published", "budget.samples=16", "budget.batch_size=8", "data.pool_size=16",
               "data.held_out=4", "data.max_tokens=64", "run.workers=1"]  # fmt: skip
    chosen = recipe.load("scenes-micro", changes)
    with preferred(PLAIN):
        folders = [
            engine.train_recipe(
                chosen, tmp_path / "run", "cpu", progress=Quiet(), pool_dir=tmp_path / "pool", spec=spec,
                offline=offline,
            )
            for offline in (False, True)
        ]  # fmt: skip
    digest = sha256_file(user_store() / TOWERS / NAME)
    assert all(digest in (folder / "README.md").read_text() for folder in folders)
