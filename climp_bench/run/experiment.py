"""Experiments that train many models alike and score each: ``ablation`` and ``scaling``."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from climp_bench.embed.batches import do_share
from climp_bench.errors import ClimpError, TrainingError, UsageError
from climp_bench.files import write_text
from climp_bench.models.adapters import CatalogueEncoder, pick_device
from climp_bench.models.catalogue import describe, find
from climp_bench.models.spec import ModelSpec
from climp_bench.models.store import open_folder
from climp_bench.models.weights import Choice
from climp_bench.ranks import DEFAULT_TIMEOUT, exchange, joined, place
from climp_bench.results import Problem, RunRecord
from climp_bench.run.execute import execute
from climp_bench.run.plan import Settings, make_plan
from climp_bench.suite import Suite
from climp_bench.train import Progress, Quiet, recipe
from climp_bench.train import spread_checkpoint as checkpoint
from climp_bench.train.engine import train_recipe
from climp_bench.train.sharing import settled
from climp_bench.train.thumbnail import thumbnail

PAIRS = ("climp-m1", "climp-m2", "climp-llama", "rope-vit-m1", "rope-vit-m2", "rope-vit")
"""Two image towers by three text towers."""
_SET_ANYWAY = frozenset({"model.name", "run.seed", "data.path", "run.data_root"})


@dataclass(frozen=True)
class Trial:
    """One model to train and score.

    Attributes:
        family: the pair of towers, as the catalogue calls it.
        point: what the experiment varies beside it (pairs, or the size of the image tower), or 0.
        recipe: of the training; its ``run.seed`` is the trial's.
        spec: what is trained.
    """

    family: str
    point: int
    recipe: recipe.Recipe
    spec: ModelSpec

    @property
    def label(self) -> str:
        """For people."""
        point = f", {self.point:,}" if self.point else ""
        return f"{self.family}{point}, seed {self.recipe.run.seed}"

    def at(self, point: int) -> Trial:
        """The same at another point."""
        return replace(self, point=point)


def make_trial(
    name: str, changes: Sequence[str], family: str, seed: int, *, point: int = 0,
    width: int | None = None, scale: str | None = None,
) -> Trial:  # fmt: skip
    """A trial by a recipe.

    Args:
        name: of the recipe, or its path.
        changes: to the recipe, ``key=value``.
        family: what is trained, at ``scale``, or else at the scale of the recipe's model.
        seed: of the weights and the order of samples.
        point: see ``Trial``.
        width: take the thumbnail of the model, of this width.
        scale: another than the recipe's.

    Raises:
        UsageError: there is no such recipe or model, or no thumbnail of it.
    """
    scale = scale or recipe.load(name, changes).model.name.partition("@")[2] or None
    spec = find(family, scale)
    made = recipe.load(name, [*changes, f"model.name={spec.name}", f"run.seed={seed}"])
    return Trial(family, point, made, spec if width is None else thumbnail(spec, width))


def pairs_edits(name: str, changes: Sequence[str], pairs: int) -> list[str]:
    """The changes to a recipe that make it train on so many pairs: see ``climp-bench scaling data``.

    Raises:
        UsageError: there is no such recipe, or not one batch of pairs.
    """
    loaded = recipe.load(name, changes)
    if pairs < loaded.budget.batch_size:
        raise UsageError(
            f"{pairs} pairs are no batch of {loaded.budget.batch_size}", where="--pairs",
            remedy="Ask for more, or --set budget.batch_size.",
        )  # fmt: skip
    if loaded.data.source != "scenes":
        return [f"budget.samples={pairs}"]
    return [f"data.pool_size={pairs}", f"budget.epochs={loaded.budget.epochs or 1}"]


def departures(name: str, trials: Sequence[Trial]) -> list[str]:
    """Settings of the trials that are not those of a recipe, each with what the recipe has.

    Not the model and the seed, which every trial sets, nor folders of data.

    Args:
        name: of the recipe, or its path.
        trials: made by it.

    Raises:
        UsageError: there is no such recipe.
    """
    named, own = recipe.load(name).resolved(), [trial.recipe.resolved() for trial in trials]
    found = []
    for section, values in named.items():
        for key in values if isinstance(values, dict) else ():
            made = list(dict.fromkeys(json.dumps(one[section][key]) for one in own))
            was, place = json.dumps(values[key]), f"{section}.{key}"
            if made != [was] and made != ["null"] and place not in _SET_ANYWAY:
                there = "none" if was == "null" else was
                found.append(f"{place} = {' / '.join(made)} (recipe: {there})")
    return found


def run_trials(
    trials: Sequence[Trial], suite: Suite, out: Path, device: str = "auto", *,
    data_roots: tuple[Path, ...] = (), fresh: bool = False, watcher: Any,
    report: Callable[[str], None] = lambda what: None, progress: Callable[[], Progress] = Quiet,
) -> list[dict[str, Any]]:  # fmt: skip
    """Train and score every trial that ``out`` has no result of, one after the other.

    The processes that torchrun started share thumbnails out, each training its own alone; whole models are
    trained and scored by all together. The first process then returns the results, the others none.

    Args:
        trials: what to train.
        suite: what each is scored on.
        out: gets ``runs/FAMILY-POINT-SEED-DIGEST/`` with ``result.json``, weights and records; the digest is
            of recipe, towers and suite. A run that was stopped goes on from its checkpoint, which goes once
            the result is there. ``pool`` holds drawn scenes.
        device: ``auto``, ``cpu`` or ``cuda``.
        data_roots: folders with the suite's data sets.
        fresh: run everything again.
        watcher: of the evaluations, as ``run.execute`` takes one.
        report: told of each trial that is done.
        progress: makes what a training reports to.

    Returns:
        ``family``, ``image``, ``text``, ``point``, ``seed``, ``parameters``, ``image_parameters``, ``pairs``
        and ``scores`` of each; a score as ``task``, ``kind``, ``metric``, ``value``, ``low``, ``high``,
        ``n``, ``chance``.

    Raises:
        ClimpError: of training (``TrainingStopped`` after a checkpoint), or what made an evaluation fail;
            ``RankError`` if that was in another process.
    """
    device, here = pick_device(device), place()
    small = all(trial.spec.family.startswith(f"{trial.family}-thumbnail") for trial in trials)
    folders = [out / "runs" / _folder(trial, suite) for trial in trials]
    results = [folder / "result.json" for folder in folders]
    if fresh and here.rank == 0:
        for folder in filter(Path.exists, folders):
            shutil.rmtree(folder)
    todo = exchange([k for k, kept in enumerate(results) if not kept.is_file()])[0]
    run = _Run(suite, out / "pool", device, data_roots, watcher, progress, small)
    own = todo[here.rank :: here.size] if small else todo
    for k in set(range(len(trials))) - set(todo):
        report(trials[k].label)
    with settled() if small else nullcontext():
        for k in own:
            weights = run.train(trials[k], folders[k])
            with nullcontext() if small else settled():
                run.score(trials[k], folders[k], weights)
            report(trials[k].label)
    for k in set(todo) - set(own):
        report(trials[k].label)
    return [_read(kept) for kept in results] if here.rank == 0 else []


@dataclass(frozen=True)
class _Run:
    """What the trials of an experiment share; ``small`` ones are trained and scored by one process each."""

    suite: Suite
    pool: Path
    device: str
    data_roots: tuple[Path, ...]
    watcher: Any
    progress: Callable[[], Progress]
    small: bool

    def train(self, trial: Trial, folder: Path) -> Path:
        """The folder of the weights."""
        with _one_thread(self.small), _named(trial):
            return train_recipe(
                trial.recipe, folder, self.device, True, self.progress(), self.pool, spec=trial.spec,
                alone=self.small,
            )  # fmt: skip

    def score(self, trial: Trial, folder: Path, weights: Path) -> None:
        """Keep the result of a trained trial, and nothing else that it no longer needs."""
        with _one_thread(self.small), _named(trial):
            records = self._scores(trial, folder, weights)
            if records is None:
                return
            result = _result(trial, folder, records)
            write_text(folder / "result.json", json.dumps(result, indent=1) + "\n", TrainingError)
        checkpoint.discard(folder / "checkpoints")
        shutil.rmtree(folder / "embeddings", ignore_errors=True)

    def _scores(self, trial: Trial, folder: Path, weights: Path) -> list[RunRecord] | None:
        """All scores; None if this process only helped with them. Raises what made one fail."""
        encoder = CatalogueEncoder(Choice(trial.spec, open_folder(weights), "trained here"), self.device)
        with nullcontext() if self.small else joined(DEFAULT_TIMEOUT) as team:
            if team is not None and team.rank > 0:
                team.serve(partial(do_share, rank=team.rank, encoders={encoder.name: encoder}))
                return None
            settings = Settings(
                out=folder, cache=folder / "embeddings", data_roots=self.data_roots, team=team
            )
            records = execute(make_plan([encoder], [self.suite]), settings, self.watcher).records
        for record in records:
            if record.status == "failed":
                problem = record.error or Problem(what="an evaluation failed")
                remedy = problem.remedy or "Mend that and run the same command again: it goes on."
                raise ClimpError(problem.what, where=record.task, remedy=remedy)
        return records


@contextmanager
def _named(trial: Trial) -> Iterator[None]:
    """Errors say which trial they are of."""
    try:
        yield
    except ClimpError as error:
        error.where = f"{trial.label}: {error.where}".removesuffix(": ")
        raise


@contextmanager
def _one_thread(wanted: bool) -> Iterator[None]:
    """Thumbnails are too small to be shared by cores; where others use them too, sharing costs tenfold."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if wanted else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _folder(trial: Trial, suite: Suite) -> str:
    towers = [
        [type(part).__name__, asdict(part)]
        for part in (trial.spec.image, trial.spec.text, trial.spec.preprocess)
    ]
    described = [trial.recipe.resolved(), towers, trial.spec.embed_dim, suite.model_dump(mode="json")]
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:12]
    return f"{trial.family}-{trial.point}-{trial.recipe.run.seed}-{digest}"


def _result(trial: Trial, folder: Path, records: Sequence[RunRecord]) -> dict[str, Any]:
    size, image, text = describe(trial.spec), *_towers(trial.spec)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = max(line["step"] for line in lines)
    scores = [
        {
            "task": r.task, "kind": r.kind, "metric": r.metric, "value": r.value, "n": r.n_evaluated,
            "low": r.interval.low if r.interval else None, "high": r.interval.high if r.interval else None,
            "chance": r.extra.get("chance"),
        }
        for r in records
        if r.value is not None
    ]  # fmt: skip
    return {
        "family": trial.family, "image": image, "text": text, "point": trial.point,
        "seed": trial.recipe.run.seed, "parameters": size.total, "image_parameters": size.image,
        "pairs": steps * trial.recipe.budget.batch_size, "scores": scores,
    }  # fmt: skip


def _towers(spec: ModelSpec) -> tuple[str, str]:
    names = {"RopeVit": "RoPE-ViT", "Mamba1": "Mamba-1", "Mamba2": "Mamba-2", "LlamaText": "LLaMA"}
    plain = (type(part).__name__.removesuffix("Config") for part in (spec.image, spec.text))
    image, text = (names.get(name, name) for name in plain)
    return image, text


def _read(path: Path) -> dict[str, Any]:
    try:
        result = json.loads(path.read_text())
        if not isinstance(result["scores"], list):
            raise TypeError("no scores")
    except (OSError, ValueError, TypeError, KeyError) as fault:
        remedy = "Delete it, and it is made again."
        raise TrainingError(
            f"not a result that was kept ({fault})", where=str(path), remedy=remedy
        ) from fault
    return dict(result)


def refuse_repeats(values: Sequence[object], option: str) -> None:
    """Raise ``UsageError`` where an option names the same thing twice."""
    if len(set(values)) < len(values):
        raise UsageError("the same is named twice", where=option, remedy="Name each once.")
