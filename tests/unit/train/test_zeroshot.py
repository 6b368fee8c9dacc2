"""Zero-shot classification while training: the scores of ``climp-bench zeroshot``, on any processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from climp_bench.cli.console import RunWatcher
from climp_bench.data.digits import SklearnDigits
from climp_bench.data.scenes_dataset import ScenesDataset
from climp_bench.errors import DataError, UsageError
from climp_bench.models import weights
from climp_bench.models.adapters import CatalogueEncoder
from climp_bench.models.catalogue import find
from climp_bench.models.store import open_folder
from climp_bench.models.tokenizer import load
from climp_bench.ops.dispatch import preferred
from climp_bench.run.execute import execute
from climp_bench.run.plan import Settings, make_plan
from climp_bench.suite import Suite
from climp_bench.train import engine, watching
from climp_bench.train.learner import Learner
from climp_bench.train.recipe import RunSection
from climp_bench.train.world import World, open_world
from climp_bench.train.zeroshot import Zeroshot
from tests.data_copies import write_image_folder, write_webdataset
from tests.unit.train.processes import spread
from tests.unit.train.small import PLAIN, Acting, small_spec, train_small

FAMILY = "rope-vit@micro"


class Few(SklearnDigits):
    """The first 61 of them."""

    def __len__(self) -> int:
        return 61


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits, two classes of which have one name, and pictures, two of which are damaged."""
    root = tmp_path_factory.mktemp("sets")
    write_webdataset(root / "digits", Few())
    named = root / "digits" / "classnames.txt"
    classes = named.read_text().splitlines()
    named.write_text("\n".join([*classes[:3], classes[8], *classes[4:]]))
    write_image_folder(root / "pictures", ScenesDataset("scenes-shape", 40))
    images = sorted((root / "pictures").rglob("*.png"))
    for damaged in images[3], images[-1]:
        damaged.write_bytes(damaged.read_bytes()[:60])
    return root


def run_section(root: Path | str, *names: str, **more: Any) -> RunSection:
    return RunSection(zeroshot=names, data_root=str(root), **more)


def scored(
    root: str, strategy: Any, *names: str, **more: Any
) -> tuple[dict[str, float], dict[str, int], bool]:
    """In the world that the environment names, of the shipped model; and whether it is in training again."""
    spec, ref = find(FAMILY), weights.resolve(FAMILY).ref
    assert ref is not None
    with open_world("cpu", 60) as world:
        model = weights.load(spec, ref, "cpu").train()
        learner = Learner(model, world, strategy=strategy)
        sets = Zeroshot(run_section(root, *names, **more), spec, load(spec.tokenizer), world, 0)
        found = sets.scores(learner.model)
    return *found, model.training and model.vision_encoder.training


def oracle(root: Path, tmp_path: Path, *names: str) -> dict[str, Any]:
    """``acc1`` and n of each data set by the command's own way, float32."""
    tasks = [{"dataset": name} for name in names]
    suite = Suite.model_validate({"schema": 1, "name": "few", "task": tasks})
    settings = Settings(tmp_path / "out", tmp_path / "cache", (root,), skip_corrupt=True)
    plan = make_plan([CatalogueEncoder(weights.resolve(FAMILY))], [suite])
    records = execute(plan, settings, RunWatcher(0, None)).records
    return {r.task: (r.value, r.n_evaluated) for r in records if r.metric == "acc1"}


def test_scores_are_those_of_the_command_on_any_number_of_processes(root: Path, tmp_path: Path) -> None:
    scores, counts, training = scored(str(root), "ddp", "digits", "pictures")
    expected = oracle(root, tmp_path, "digits", "pictures")
    assert {name: (scores[f"{name} acc@1"], n) for name, n in counts.items()} == expected
    assert counts == {"digits": 61, "pictures": 38} and scores["pictures acc@1"] > 0.5 and training
    assert spread(2, scored, str(root), "fsdp", "digits", "pictures") == [(scores, counts, True)] * 2


def test_a_limit_draws_the_same_images_each_time(root: Path) -> None:
    first, second = (scored(str(root), "ddp", "sklearn-digits", zeroshot_limit=50) for _ in range(2))
    assert first == second and first[1] == {"sklearn-digits": 50}
    assert scored(str(root), "ddp", "digits", zeroshot_limit=62)[1] == {"digits": 61}


def refused(root: Path | str, *names: str) -> Zeroshot:
    spec = find(FAMILY)
    return Zeroshot(run_section(root, *names), spec, load(spec.tokenizer), World(), 0)


def test_what_cannot_be_scored_is_refused_before_training(root: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"run\.zeroshot.*unknown dataset 'digit'.*'digits'.*Looked .* in: /"
    ):
        refused(root, "pictures", "digit")
    with pytest.raises(UsageError, match=r"give run\.data_root, the folder that holds digit/"):
        refused("", "digit")
    with pytest.raises(UsageError, match=r"run\.data_root .*gone: no such folder"):
        refused(tmp_path / "gone", "digits")
    with pytest.raises(UsageError, match=r"run\.zeroshot: scenes-captions: a retrieval data set"):
        refused(root, "scenes-captions")
    with pytest.raises(DataError, match=r"vtab/dtd.* run\.data_root"):
        refused(root, "vtab/dtd")
    with pytest.raises(UsageError, match="'sklearn-digits'"):
        train_small(str(tmp_path), str(tmp_path / "pool"), 'run.zeroshot=["sklearn-digit"]')
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_set_without_one_good_image_stops_the_run(tmp_path: Path) -> None:
    write_image_folder(tmp_path / "bad", Few())
    for image in (tmp_path / "bad").rglob("*.png"):
        image.write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"run\.zeroshot: bad: no image decodes"):
        scored(str(tmp_path), "ddp", "bad")


def test_a_run_logs_its_scores_and_they_are_those_of_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told: dict[int, dict[str, float]] = {}

    class Fake:
        def __init__(self, *_: Any) -> None: ...

        def record(self, step: int, values: dict[str, float]) -> None:
            told.setdefault(step, {}).update(values)

        def close(self) -> None: ...

    monkeypatch.setitem(watching._KNOWN, "tensorboard", Fake)
    monkeypatch.setattr(Acting, "note", lambda self, text: print(text))
    monkeypatch.setattr(engine, "find", lambda _: small_spec())  # put back at the end
    changes = ('run.zeroshot=["sklearn-digits"]', "run.zeroshot_limit=200", 'run.watch=["tensorboard"]')
    folder = Path(train_small(str(tmp_path), str(tmp_path / "pool"), *changes))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    logged = {line["step"]: line["zeroshot"]["sklearn-digits acc@1"] for line in lines if "zeroshot" in line}
    assert logged.keys() == {6, 12} and logged[6] != logged[12]
    assert all(line["zeroshot_n"] == {"sklearn-digits": 200} for line in lines if "zeroshot" in line)
    assert {step: told[step]["sklearn-digits acc@1"] for step in logged} == logged
    assert f"sklearn-digits acc@1 {logged[12]:.1%}" in capsys.readouterr().out
    spec = small_spec()
    run = RunSection(zeroshot=("sklearn-digits",), zeroshot_limit=200)
    model = weights.load(spec, open_folder(folder), "cpu")
    with preferred(PLAIN):
        scores, _ = Zeroshot(run, spec, load(spec.tokenizer), World(), 0).scores(model)
    assert scores["sklearn-digits acc@1"] == pytest.approx(logged[12], abs=2 / 200), "weights are float16"
    train_small(str(tmp_path), str(tmp_path / "pool"), "run.zeroshot_limit=9")  # may change
