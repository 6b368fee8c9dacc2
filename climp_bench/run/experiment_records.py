"""Where the numbers of an experiment come from: its runs with the records of their scores, for its file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from climp_bench.errors import StoreError
from climp_bench.metrics.uncertainty import wilson
from climp_bench.models.adapters import gpu_name, pick_device
from climp_bench.models.catalogue import operator
from climp_bench.ops.dispatch import resolve
from climp_bench.results import DatasetRef, ModelRef, Provenance, ResultStore, RunRecord, collect
from climp_bench.results.experiments import LOSS, read_experiment
from climp_bench.run.experiment import Trial
from climp_bench.train import bias
from climp_bench.train.bias_data import Thumbnails

Run = dict[str, Any]
_EARLIER = "by an earlier command that kept no record; host, versions and time are of the one that went on"


def with_records(trials: Sequence[Trial], runs: Sequence[Mapping[str, Any]], out: Path) -> list[Run]:
    """What ``run_trials`` returned of ``trials``, each with ``recipe_sha256`` and ``records``.

    Raises:
        StoreError: the records of a run that was kept are gone or damaged.
    """
    return [_with(trial, run, out / "runs") for trial, run in zip(trials, runs, strict=True)]


def _with(trial: Trial, run: Mapping[str, Any], folder: Path) -> Run:
    named = f"{run['family']}-{run['point']}-{run['seed']}-*/result.json"
    place = next(path.parent for path in sorted(folder.glob(named)) if json.loads(path.read_text()) == run)
    facts = {
        "training seed": run["seed"], "training pairs": run["pairs"], "parameters": run["parameters"],
        "recipe (sha256)": trial.recipe.digest,
    }  # fmt: skip
    known = {(r.task, r.metric): r for r in ResultStore(place / "records").read()}
    records = []
    for score in run["scores"]:
        record = known.get((score["task"], score["metric"]))
        if record is None or record.value != score["value"]:
            what = f"the record of {score['task']}, {score['metric']} is not there"
            raise StoreError(what, where=str(place), remedy="Delete that folder, and the run is made again.")
        whole = record.model_copy(update={"extra": {**record.extra, **facts}})
        records.append(whole.model_dump(mode="json"))
    return {**run, "recipe_sha256": trial.recipe.digest, "records": records}


def run_bias_with_records(
    data: Thumbnails, config: bias.BiasConfig, seeds: int, out: Path, device: str,
    report: Callable[[str], None], fresh: bool,
) -> list[Run]:  # fmt: skip
    """``train.bias.run_bias``, each run with its accuracy and its ``records``.

    A run that was kept has the records that ``OUT/bias.json`` has of it. Where none are there, because the
    command that trained it was stopped, its records say so. None in a process that is not the first.

    Raises:
        TrainingError, BackendError: as ``run_bias``.
    """
    device, started = pick_device(device), datetime.now(timezone.utc)
    trained: list[bias.BiasRun] = []

    def tell(run: bias.BiasRun) -> None:
        trained.append(run)
        report(run.label)

    done = bias.run_bias(data, config, seeds, out, device, tell, fresh)
    before = _known(out / "bias.json")
    found = []
    for one in done:
        run = {**asdict(one), "losses": list(one.losses), "accuracy": one.accuracy}
        facts: dict[str, Any] = {
            "training seed": one.seed, "parameters": one.parameters, "epochs": config.epochs
        }  # fmt: skip
        records = next(
            (kept["records"] for kept in before if {**kept, "records": 0} == {**run, "records": 0}), None
        )
        if one in trained or records is None:
            origin = _provenance(one, device, started)
            if one not in trained:
                facts["trained"] = _EARLIER
            records = [r.model_dump(mode="json") for r in _records(one, data, config, origin, facts)]
        found.append({**run, "records": records})
    return found


def _known(path: Path) -> list[Run]:
    """The runs of an earlier file, none if there is none that can be read."""
    try:
        return [run.model_dump(mode="json") for run in read_experiment(path).runs]
    except StoreError:
        return []


def _provenance(run: bias.BiasRun, device: str, started: datetime) -> Provenance:
    scan = operator(bias.TOWERS[run.tower])
    backends = {scan: resolve(scan, device)[1]} if scan else {}
    return collect(
        device=device, dtype="float32", seed=run.seed, gpu=gpu_name(device), backends=backends,
        started_at=started,
    )  # fmt: skip


def _records(
    run: bias.BiasRun, data: Thumbnails, config: bias.BiasConfig, origin: Provenance, facts: Mapping[str, Any]
) -> list[RunRecord]:
    shared: dict[str, Any] = {
        "model": ModelRef(name=run.tower, family=run.tower, weights_source="trained here, not kept"),
        "suite": "bias", "task": f"{run.order} patches", "protocol": "bias", "kind": "bias", "status": "ok",
        "provenance": origin, "extra": dict(facts),
    }  # fmt: skip
    drawn = len(data.train_NHWC) // config.batch_size * config.batch_size
    train, test = (
        DatasetRef(name=data.name, split=split, fingerprint=data.fingerprint) for split in ("train", "test")
    )
    return [
        RunRecord(
            metric=LOSS, value=run.losses[-1], dataset=train, n_evaluated=drawn, n_expected=drawn,
            no_interval_reason="a loss of one training", **shared,
        ),
        RunRecord(
            metric="acc1", value=run.accuracy, interval=wilson(run.correct, run.n), dataset=test,
            n_evaluated=run.n, n_expected=run.n, **shared,
        ),
    ]  # fmt: skip
