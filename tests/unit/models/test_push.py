"""Weights go to the hub as planned and nothing else does; what was pushed comes back the same."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from climp_bench.cli.main import app
from climp_bench.errors import ClimpError, UsageError, WeightsError
from climp_bench.models import catalogue
from climp_bench.models import store as stores
from climp_bench.models.acquire import import_weights, open_weights, pull
from climp_bench.models.catalogue import build
from climp_bench.models.configs import LlamaTextConfig
from climp_bench.models.push import find_weights, plan_push, push
from climp_bench.models.spec import ModelSpec
from climp_bench.models.store import locate, open_folder, save_state
from climp_bench.models.tokenizer import train_bpe
from climp_bench.models.vmamba import VMambaConfig
from climp_bench.registry import Registry
from climp_bench.specs import ImagePreprocess
from tests.fake_hub import COMMIT, FakeHub, serve

SPEC = ModelSpec(
    family="nut",
    scale="micro",
    image=VMambaConfig(dims=(16, 32), depths=(1, 1)),
    text=LlamaTextConfig(vocab_size=300, d_model=16, n_layer=1, n_head=2, n_kv_head=1, mlp_dim=24),
    embed_dim=12,
    preprocess=ImagePreprocess(size=(32, 32)),
    tokenizer="nut-bpe",
    description="A nut",
)
NAMES = ["model.safetensors", "config.json", "README.md", "tokenizer.json", "origin.json", "manifest.json"]
REPO = "ann/nut"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty user store, a catalogue of one model, and nobody's token."""
    registry: Registry[ModelSpec] = Registry("model")
    registry.add("nut@micro", SPEC)
    monkeypatch.setattr(catalogue, "MODELS", registry)
    monkeypatch.setattr(catalogue, "entry_points", lambda group: [])
    monkeypatch.setattr(stores, "SHIPPED", tmp_path / "shipped")
    monkeypatch.setenv("CLIMP_BENCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_TOKEN", "hf_ann")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
    catalogue._load_entry_points.cache_clear()
    yield tmp_path / "home" / "weights"
    catalogue._load_entry_points.cache_clear()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    repos = {"bob/nut": {"x": b"x"}, "ann/open": {"notes.txt": b"mine"}}
    with serve(FakeHub(repos, tokens={"hf_ann": "ann"})) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Weights as a run by recipe leaves them, and a file that is none of them."""
    state = {key: value.detach().clone() for key, value in build(SPEC, seed=5).state_dict().items()}
    words = train_bpe(["a red square", "two small stars"], 290)
    ref = save_state(
        state, SPEC, tmp_path / "run" / "nut-micro", card={}, tokenizer=words,
        origin={"source": "local", "recipe": {"name": "mine"}},
    )  # fmt: skip
    (ref.directory / "secret.txt").write_text("not to be seen")
    return ref.directory


def files_of(server: FakeHub, branch: str = "main") -> dict[str, bytes]:
    _, files = server.resolve(REPO, branch) or ("", {})
    return {name: content for name, content in files.items() if name != ".gitattributes"}


def test_a_plan_changes_nothing_and_lists_all(server: FakeHub, folder: Path) -> None:
    plan = plan_push(open_folder(folder), REPO)
    assert [file.name for file in plan.files] == NAMES
    assert {file.change for file in plan.files} == {"new"}
    assert (plan.there, plan.account, plan.untouched) == (None, "ann", ())
    assert REPO not in server.repos and not server.sent and not server.lfs


def test_exactly_what_is_listed_goes_up_and_comes_back(server: FakeHub, folder: Path, home: Path) -> None:
    remarks: list[str] = []
    commit = push(plan_push(open_folder(folder), REPO), "first", remarks.append)
    assert files_of(server) == {name: (folder / name).read_bytes() for name in NAMES}
    assert any("empty metadata" in remark for remark in remarks)
    ref = pull(SPEC, repo=REPO, announce=lambda text: None)
    assert ref == locate(SPEC) and ref.source == f"hf:{REPO}@{commit}" and ref.directory.parent == home
    assert sorted(path.name for path in ref.directory.iterdir()) == sorted(NAMES)
    origin = json.loads((ref.directory / "origin.json").read_text())
    assert origin["recipe"] == {"name": "mine"} and origin["commit"] == commit
    mine, its = open_folder(folder), ref
    assert (
        mine.digest == its.digest
        and (its.directory / "README.md").read_bytes() == files_of(server)["README.md"]
    )
    for key, tensor in mine.read(SPEC).items():
        assert torch.equal(tensor, its.read(SPEC)[key])
    assert its.tokenizer(SPEC).encode(["a red square"]) == mine.tokenizer(SPEC).encode(["a red square"])


def test_what_was_pushed_serves_one_run_and_as_a_download(
    server: FakeHub, folder: Path, tmp_path: Path
) -> None:
    commit = push(plan_push(open_folder(folder), REPO), "first")
    used = open_weights(f"hf:{REPO}", SPEC, tokenizer=None, offline=False, announce=lambda text: None)
    assert used.source == f"hf:{REPO}@{commit}" and used.digest == open_folder(folder).digest
    assert used.read(SPEC) and used.tokenizer(SPEC) and locate(SPEC) is None
    copy = tmp_path / "copy"
    (copy / ".cache").mkdir(parents=True)
    for name, content in files_of(server).items():
        (copy / name).write_bytes(content)
    ref = import_weights(SPEC, copy)
    assert ref.digest == used.digest and not (ref.directory / ".cache").exists()


def test_only_what_differs_is_sent_again(server: FakeHub, folder: Path) -> None:
    first = push(plan_push(open_folder(folder), REPO), "first")
    again = plan_push(open_folder(folder), REPO)
    assert again.changes == () and push(again, "again") == first and len(server.sent) == 1
    words = (folder / "origin.json").read_text()
    state = open_folder(folder).read(SPEC)
    save_state(state, SPEC, folder, card={"seed": 3}, tokenizer=open_folder(folder).tokenizer(SPEC),
               origin=json.loads(words))  # fmt: skip
    changed = plan_push(open_folder(folder), REPO)
    assert [file.name for file in changed.changes] == ["README.md", "manifest.json"]
    assert changed.untouched == (".gitattributes",)
    push(changed, "card")
    assert server.sent[-1] == ["README.md", "manifest.json"]
    assert files_of(server)["README.md"] == (folder / "README.md").read_bytes()


def test_a_branch_is_made_and_the_others_stay(server: FakeHub, folder: Path) -> None:
    plan = plan_push(open_folder(folder), "ann/open", branch="trial")
    assert plan.new_branch and plan.untouched == ("notes.txt",)
    commit = push(plan, "trial")
    assert server.heads["ann/open"] == {"main": COMMIT, "trial": commit}
    assert "notes.txt" in server.history[commit]
    with pytest.raises(UsageError, match="a commit cannot be pushed to"):
        plan_push(open_folder(folder), "ann/open", branch=COMMIT)


def test_private_means_private(server: FakeHub, folder: Path) -> None:
    with pytest.raises(UsageError, match="is there, and public"):
        plan_push(open_folder(folder), "ann/open", private=True)
    push(plan_push(open_folder(folder), REPO, private=True), "first")
    assert server.private == {REPO}
    assert plan_push(open_folder(folder), REPO, private=True).changes == ()
    late = plan_push(open_folder(folder), "ann/late", private=True)
    server.repos["ann/late"] = {}
    with pytest.raises(WeightsError, match="somebody else changed it meanwhile"):
        push(late, "first")
    assert not files_of(server).keys() - set(NAMES) and server.repos["ann/late"] == {}


def test_a_repository_that_moved_on_is_left_alone(server: FakeHub, folder: Path) -> None:
    plan = plan_push(open_folder(folder), "ann/open")
    other = server.commit("ann/open", "main", [{"key": "header", "value": {}}])
    with pytest.raises(WeightsError, match="somebody else changed it meanwhile"):
        push(plan, "late")
    assert server.heads["ann/open"]["main"] == other


@pytest.mark.parametrize(
    ("token", "repo", "says"),
    [
        (None, REPO, "no token of the hub is here.*may write to ann"),
        ("hf_wrong", REPO, "the hub refuses.*HF_TOKEN"),
        ("hf_ann", "bob/nut", "the hub refuses.*403.*HF_TOKEN"),
        ("hf_ann", "bob/new", "the hub refuses.*403.*HF_TOKEN"),
        ("hf_ann", "no name", "OWNER/NAME"),
    ],
)
def test_who_may_not_write_is_told_so(
    token: str | None, repo: str, says: str, server: FakeHub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN") if token is None else monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(WeightsError, match=says):
        push(plan_push(open_folder(folder), repo), "first")
    assert not server.sent and "bob/new" not in server.repos


def test_without_a_connection(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(WeightsError, match=r"cannot be reached.*changes only once everything is there"):
        plan_push(open_folder(folder), REPO)


def test_files_that_change_under_the_upload_are_found_out(server: FakeHub, folder: Path) -> None:
    plan = plan_push(open_folder(folder), REPO)
    (folder / "config.json").write_text("{}")
    with pytest.raises(WeightsError, match=r"does not hold what was planned: config\.json"):
        push(plan, "first")
    with pytest.raises(WeightsError, match="its manifest says"):
        plan_push(open_folder(folder), REPO)


def test_what_can_be_pushed(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no weights in the store"):
        find_weights("nut")
    import_weights(SPEC, folder)
    assert find_weights("nut@micro").digest == find_weights(str(folder)).digest
    for text, error in (("nit", UsageError), ("runs/none", UsageError), (str(tmp_path), WeightsError)):
        with pytest.raises(error):
            find_weights(text)


def test_shipped_weights_bring_a_manifest_of_their_own(
    server: FakeHub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "SHIPPED", tmp_path / "run")
    stores.update_shipped_manifest(tmp_path / "run")
    ref = find_weights("nut@micro")
    assert ref.source == "shipped" and not (ref.directory / "manifest.json").exists()
    push(plan_push(ref, REPO), "first")
    assert sorted(files_of(server)) == sorted(NAMES)
    assert pull(SPEC, repo=REPO, announce=lambda text: None).digest == ref.digest


def test_weights_of_another_model_are_not_stored(server: FakeHub, folder: Path) -> None:
    push(plan_push(open_folder(folder), REPO), "first")
    with pytest.raises(ClimpError, match="another model"):
        pull(dataclasses.replace(SPEC, embed_dim=10), repo=REPO, announce=lambda text: None)
    assert locate(SPEC) is None


def test_the_command_says_before_it_does(server: FakeHub, folder: Path) -> None:
    call = ["models", "push", str(folder), REPO]
    done = CliRunner().invoke(app, call)
    digest = open_folder(folder).digest
    for fact in ("nut@micro (local)", "is not there", "account     ann", digest, "--yes uploads"):
        assert fact in done.stdout, done.stdout
    assert done.exit_code == 0 and "secret" not in done.stdout and not server.sent
    plan = json.loads(CliRunner().invoke(app, [*call, "--json"]).stdout)
    assert plan["dry_run"] and not plan["exists"] and [row["name"] for row in plan["files"]] == NAMES
    done = CliRunner().invoke(app, [*call, "--yes", "--message", "Take one"])
    commit = server.heads[REPO]["main"]
    assert "Uploaded 6 files" in done.stdout and f"hf:{REPO}@{commit}" in done.stdout
    again = json.loads(CliRunner().invoke(app, [*call, "--yes", "--json"]).stdout)
    assert again["exists"] and {row["change"] for row in again["files"]} == {"same"} and len(server.sent) == 1
    done = CliRunner().invoke(app, ["models", "pull", "nut@micro", "--repo", REPO])
    assert done.exit_code == 0 and locate(SPEC) is not None
