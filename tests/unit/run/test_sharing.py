"""Experiments on two processes: the files and numbers of one, and failures that all hear of."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from climp_bench.cli.console import RunWatcher
from climp_bench.errors import ClimpError, DataError, RankError, TrainingError
from climp_bench.models.configs import LlamaTextConfig, RopeVitConfig
from climp_bench.models.spec import ModelSpec
from climp_bench.ranks import DEFAULT_TIMEOUT, connect, exchange, place
from climp_bench.run import experiment
from climp_bench.run.experiment import Trial, run_trials
from climp_bench.specs import ImagePreprocess
from climp_bench.suite import Suite
from climp_bench.train import TrainingStopped, bias, recipe
from climp_bench.train.bias_data import SIDE, Thumbnails
from climp_bench.train.engine import train_recipe
from climp_bench.train.sharing import settled
from tests.unit.train.processes import spread
from tests.unit.train.small import SMALL_RUN

CONFIG = bias.BiasConfig(epochs=1, batch_size=4)


def spec(family: str) -> ModelSpec:
    return ModelSpec(
        family=family, scale="micro", embed_dim=8, tokenizer="scenes-bpe", description="",
        image=RopeVitConfig(embed_dim=16, depth=1, num_heads=2, patch_size=16, img_size=32),
        text=LlamaTextConfig(vocab_size=1024, d_model=16, n_layer=1, n_head=2, n_kv_head=1, mlp_dim=16),
        preprocess=ImagePreprocess(size=(32, 32)),
    )  # fmt: skip


def trials(*seeds: int, small: bool) -> list[Trial]:
    changes = [*SMALL_RUN, "budget.samples=32", "run.workers=1"]
    made = recipe.load("scenes-micro", changes)
    model = spec("toy-thumbnail" if small else "toy")
    seeded = (made.model_copy(update={"run": made.run.model_copy(update={"seed": seed})}) for seed in seeds)
    return [Trial("toy", 0, one, model) for one in seeded]


def suite(*names: str) -> Suite:
    tasks = [{"dataset": name, "n": 80} for name in names]
    return Suite.model_validate({"schema": 1, "name": "few", "task": tasks})


def trained(out: Path, small: bool, *seeds: int, data: str = "scenes-colour", **more: Any) -> Any:
    return run_trials(
        trials(*seeds, small=small), suite(data), out, "cpu", watcher=RunWatcher(0, None), **more
    )


def made_up(data: Any, config: Any, tower: str, order: Any, seed: int, device: str) -> bias.BiasRun:
    if seed == 7:
        raise TrainingError("unlucky", where=f"{tower}, seed {seed}")
    return bias.BiasRun(tower, order, seed, os.getpid(), (2.0,), 50 + seed, 100, 1.0)


def biased(out: Path, seeds: int, told: list[str]) -> list[bias.BiasRun]:
    pixels, labels = np.zeros((4, SIDE, SIDE, 3), np.uint8), np.zeros(4, np.int64)
    data = Thumbnails("toy", pixels, labels, pixels, labels, ("a",))
    return bias.run_bias(data, CONFIG, seeds, out, "cpu", lambda run: told.append(run.label))


def said(do: Callable[[], Any]) -> tuple[str, str]:
    """The kind of error and what it says; what was returned, if nothing was raised."""
    try:
        return "", str(do())
    except ClimpError as error:
        return type(error).__name__, str(error)


def fails_on(rank: int, error: ClimpError) -> Any:
    with settled():
        if place().rank == rank:
            raise error
    return "went on"


def both(base: str) -> dict[str, Any]:
    """Everything that the tests look at, as one of two processes does it."""
    out, found = Path(base), dict[str, Any]()
    found["exchanged"] = exchange(f"of {place().rank}"), exchange(place().rank)
    found["fine"] = said(lambda: fails_on(9, DataError("never")))
    found["failed"] = said(lambda: fails_on(1, DataError("bad", where="shard 3", remedy="Fetch it.")))
    told: list[str] = []
    patch = pytest.MonkeyPatch()
    patch.setattr(bias, "train_one", made_up)
    patch.setattr("os.cpu_count", lambda: 1)
    found["bias"], found["told"] = biased(out / "bias", 3, told), told
    found["bias failed"] = said(lambda: biased(out / "bias8", 8, []))
    found["small"] = trained(out / "small", True, 0, 1)
    found["whole"] = trained(out / "whole", False, 0, 1)
    found["again"] = trained(out / "whole", False, 0, 1), trained(out / "whole", False, 0, fresh=True)
    found["no data"] = said(lambda: trained(out / "none", False, 0, data="scenes-colours"))

    def broken(made: Any, *rest: Any, **options: Any) -> Path:
        if made.run.seed == 1:
            raise TrainingError("the loss became nan", where="toy at step 1")
        return train_recipe(made, *rest, **options)

    patch.setattr(experiment, "train_recipe", broken)
    found["trial failed"] = said(lambda: trained(out / "some", True, 0, 1, 2))
    found["stopped"] = said(lambda: fails_on(place().rank, TrainingStopped("stopped on request")))
    store = connect(DEFAULT_TIMEOUT)  # the first process holds it here, and torchrun elsewhere
    store.get("read") if place().rank == 0 else store.set("read", b"")
    return found


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    out = tmp_path_factory.mktemp("shared")
    return out, spread(2, both, str(out))


def test_all_hear_what_each_brings_in_order(shared: tuple[Path, list[dict[str, Any]]]) -> None:
    for found in shared[1]:
        assert found["exchanged"] == (["of 0", "of 1"], [0, 1])
        assert found["fine"] == ("", "went on")


def test_a_failure_reaches_all_with_its_name(shared: tuple[Path, list[dict[str, Any]]]) -> None:
    first, second = (found["failed"] for found in shared[1])
    assert second == ("DataError", "shard 3: bad. Fetch it.")
    assert first[0] == "RankError" and "(rank 1: shard 3: bad. Fetch it)" in first[1]
    assert [found["stopped"][0] for found in shared[1]] == ["TrainingStopped"] * 2


def test_runs_of_bias_are_shared_out(shared: tuple[Path, list[dict[str, Any]]]) -> None:
    out, (first, second) = shared
    runs = first["bias"]
    assert second["bias"] == [] and len(runs) == 12 == len(list((out / "bias").glob("runs-*/*.json")))
    by = [run.parameters for run in runs]
    assert len(set(by)) == 2 and by == [by[0], by[1]] * 6
    assert len(set(first["told"])) == len(first["told"]) == 12
    assert first["bias failed"][0] == second["bias failed"][0] == "TrainingError"
    assert len(list((out / "bias8").glob("runs-*/*.json"))) == 28


@pytest.mark.parametrize("kind", ["small", "whole"])
def test_trials_leave_the_files_and_numbers_of_one_process(
    kind: str, shared: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    out, (first, second) = shared
    alone = trained(tmp_path, kind == "small", 0, 1)
    assert first[kind] == alone and second[kind] == []
    assert [run["seed"] for run in alone] == [0, 1] and alone[0]["scores"][0]["n"] == 80

    def files(root: Path) -> set[str]:
        names = (path.relative_to(root).as_posix() for path in root.glob("runs/*/**/*") if path.is_file())
        return {name for name in names if "records" not in name or name.endswith("results.json")}

    def kept(root: Path) -> dict[str, Any]:
        return {path.parent.name: json.loads(path.read_text()) for path in root.glob("runs/*/result.json")}

    assert kept(out / kind) == kept(tmp_path)
    assert files(out / kind) == files(tmp_path)
    assert first["again"] == (first["whole"], first["whole"][:1]) and second["again"] == ([], [])


def test_a_trial_that_fails_is_named_everywhere_and_the_others_stay(
    shared: tuple[Path, list[dict[str, Any]]],
) -> None:
    out, (first, second) = shared
    assert second["trial failed"] == ("TrainingError", "toy, seed 1: toy at step 1: the loss became nan")
    assert (
        first["trial failed"][0] == "RankError" and "rank 1: toy, seed 1: toy at" in first["trial failed"][1]
    )
    done = [json.loads(path.read_text())["seed"] for path in (out / "some").glob("runs/*/result.json")]
    assert sorted(done) == [0, 2]
    assert first["no data"][0] == "ClimpError" and "toy, seed 0: scenes-colours" in first["no data"][1]
    assert second["no data"][0] == "RankError" and "rank 0: toy, seed 0: scenes-col" in second["no data"][1]


def test_errors_of_the_ranks_themselves_do_not_wait_for_the_others() -> None:
    with pytest.raises(RankError, match="lost"), settled():
        raise RankError("lost")
