"""A recipe: everything that decides how a model is trained, as data. ``suites/train/*.toml`` are the shipped
ones.

Unknown keys are errors. Sections of a recipe whose values may change when a run goes on (they do not change
what is learned, only how fast and what is told of it) are ``compute`` and ``run``, but for the fields of
``FIXED``.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator

from climp_bench.errors import UsageError
from climp_bench.registry import unknown
from climp_bench.suite.loader import shipped_dir
from climp_bench.train.shards import ALL, from_catalogue

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FIXED = frozenset({"compute.precision", "run.seed"})
"""Fields of the free sections that do change what is learned."""
OPEN_CLIP_RATIO = (0.75, 4 / 3)
"""Aspect ratios of random crops in OpenCLIP, and in torchvision."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSection(_Section):
    """What is trained.

    Attributes:
        name: ``FAMILY@SCALE``.
        init_image, init_text: checkpoint that a tower starts from: a path, ``published`` for the one that the
            catalogue names (fetched), "" for random weights.
        tokenizer: a ``tokenizer.json``, for a model whose tokenizer is not shipped; "" takes the shipped
            one, or else the published one (fetched).
    """

    name: str
    init_image: str = ""
    init_text: str = ""
    tokenizer: str = ""


class DataSection(_Section):
    """What it is trained on.

    Attributes:
        source: ``scenes`` (drawn here), ``shards`` (tars of images and captions) or ``dataset`` (a captioned
            data set of the catalogue or a folder).
        path: folder of the shards, or the data root of the data set.
        repo, revision: in place of a path, the data set on the hub that shards are fetched from, and its
            commit of 40 hexadecimal digits.
        files: names of the shards, such as ``{0000..2175}.tar``: all must be there. ``*.tar`` takes what is
            there.
        name: of the data set. Of shards without a path: as in the catalogue, which knows the three above.
        max_tokens: a longer caption is cut (scenes show a shorter one instead).
        held_out: pairs that are never trained on and measure retrieval.
        max_bad: share of samples that may fail to decode, each replaced by its neighbour, before the run
            stops.
        window: shards whose samples are mixed with each other; more mixes better and reads less in sequence.
        pool_size, dense_every, lowres_prob: of scenes, see ``train.config.TrainConfig``.
    """

    source: Literal["scenes", "shards", "dataset"]
    path: str = ""
    repo: str = ""
    revision: str = ""
    files: str = ALL
    name: str = ""
    max_tokens: int = Field(default=128, ge=1)
    held_out: int = Field(default=1000, ge=2)
    max_bad: float = Field(default=0.01, ge=0, le=1)
    window: int = Field(default=64, ge=1)
    pool_size: int = Field(default=200_000, ge=2)
    dense_every: int = Field(default=5, ge=0)
    lowres_prob: float = Field(default=0.15, ge=0, le=1)

    _named = model_validator(mode="before")(from_catalogue)

    @model_validator(mode="after")
    def _complete(self) -> DataSection:
        if self.source == "dataset" and not self.name:
            raise ValueError("a dataset needs its `name`")
        if self.repo and (self.path or self.source != "shards"):
            raise ValueError("only shards have a `repo`, in place of a `path`: leave one of them out")
        if bool(self.repo) != bool(re.fullmatch("[0-9a-f]{40}", self.revision)):
            raise ValueError("`repo` needs its `revision`, a commit of 40 hexadecimal digits")
        return self


class AugmentSection(_Section):
    """What is done to pictures: of ``shards`` and ``dataset`` all of it, of ``scenes`` only their sizes.

    Attributes:
        crop_scale: least and largest share of the area that a random crop keeps.
        crop_ratio: least and largest aspect ratio of the crop.
        flip: mirror half of the pictures. Captions that say left and right become wrong.
        sizes: sides of the pictures in pixels, of which each step draws one (``naflexvit``: side of a square
            of as many pixels); empty for the model's own.
        patch_sizes: sides of the patches in pixels, of which each step draws one (``flexivit`` only: Beyer et
            al. 2023, arXiv:2212.08013, section 3); empty for the model's own.
        token_budget: patches of a picture at most (``naflexvit`` only: Dehghani et al. 2023,
            arXiv:2307.06304); crops then have the picture's own aspect ratio. 0 for as many as fill the
            model's own size.
    """

    crop_scale: tuple[float, float] = (0.9, 1.0)
    crop_ratio: tuple[float, float] = OPEN_CLIP_RATIO
    flip: bool = False
    sizes: tuple[PositiveInt, ...] = ()
    patch_sizes: tuple[PositiveInt, ...] = ()
    token_budget: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _ordered(self) -> AugmentSection:
        if not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise ValueError("crop_scale must be two shares in (0, 1], the smaller first")
        if not 0 < self.crop_ratio[0] <= self.crop_ratio[1]:
            raise ValueError("crop_ratio must be two positive ratios, the smaller first")
        if self.token_budget and (self.sizes or self.patch_sizes):
            raise ValueError("token_budget decides the sizes; leave `sizes` and `patch_sizes` empty")
        if self.token_budget and self.crop_ratio != OPEN_CLIP_RATIO:
            raise ValueError("with a token_budget crops have the picture's own ratio; leave out `crop_ratio`")
        return self


class BudgetSection(_Section):
    """How long.

    Attributes:
        batch_size: pairs that are contrasted with each other, on all processes together.
        epochs: passes over the data (whole batches only), or
        samples: pairs seen in all.
    """

    batch_size: int = Field(ge=2)
    epochs: int | None = Field(default=None, ge=1)
    samples: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _one_of_two(self) -> BudgetSection:
        if (self.epochs is None) == (self.samples is None):
            raise ValueError("give either `epochs` or `samples`")
        return self

    def steps(self, pairs: int) -> int:
        """Optimiser steps over a data set of so many pairs."""
        if self.epochs is not None:
            return self.epochs * (pairs // self.batch_size)
        assert self.samples is not None
        return max(1, self.samples // self.batch_size)


class LossSection(_Section):
    """``infonce`` or ``siglip``, and how many rows of logits exist at a time."""

    kind: Literal["infonce", "siglip"] = "infonce"
    chunk: int = Field(default=1024, ge=1)


class OptimiserSection(_Section):
    """AdamW under a linear warm-up and a cosine to zero.

    Attributes:
        lr: peak learning rate.
        weight_decay: of matrices; vectors, scan parameters, logit scale and bias have none.
        betas, eps: of AdamW.
        warmup: steps in which the rate rises, or below 1 the share of all steps.
        grad_clip: largest norm of all gradients together.
    """

    lr: float = Field(gt=0)
    weight_decay: float = Field(default=0.2, ge=0)
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = Field(default=1e-6, gt=0)
    warmup: float = Field(default=2000, ge=0)
    grad_clip: float = Field(default=1.0, gt=0)

    @model_validator(mode="after")
    def _in_range(self) -> OptimiserSection:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError("betas must be in [0, 1)")
        return self

    def warmup_steps(self, steps: int) -> int:
        """Steps in which the rate rises, of so many."""
        return round(self.warmup * steps if self.warmup < 1 else self.warmup)


class ComputeSection(_Section):
    """With what.

    Attributes:
        precision: ``fp32``, ``bf16`` (autocast), or ``auto``: bf16 on a GPU that has it.
        strategy: ``ddp`` copies the model to every process, ``fsdp`` shards it (FSDP2).
        micro_batch: pairs that a process holds activations of at a time; 0 for its whole share of the batch.
            The gradients are those of the whole batch all the same, at the price of a second forward pass.
        checkpoint_activations: keep only the inputs of blocks, and compute the rest again.
        compile: pass both towers through torch.compile.
    """

    precision: Literal["auto", "fp32", "bf16"] = "auto"
    strategy: Literal["ddp", "fsdp"] = "ddp"
    micro_batch: int = Field(default=0, ge=0)
    checkpoint_activations: bool = False
    compile: bool = False


class RunSection(_Section):
    """How it is run and watched.

    Attributes:
        seed: of the first weights, the order of samples and every choice.
        workers: processes that decode or draw, for each process that trains; 0 for its share of the cores.
        log_every, eval_every, checkpoint_every: in steps.
        keep: checkpoints that are kept, the newest.
        max_rise: the run stops where the loss, averaged since the last line of the log, is so much above the
            lowest such average so far (in its own unit; nats for InfoNCE); 0 for never.
        timeout_s: seconds to wait for a process that does not answer.
        watch: ``tensorboard`` and ``wandb``, which are extras; metrics.jsonl is written always.
        zeroshot: data sets of classification that the model is scored on every ``eval_every`` steps, of the
            catalogue or folders.
        data_root: folder with data sets for ``zeroshot``.
        zeroshot_limit: images of each that are scored, drawn at random once; 0 for all.
    """

    seed: int = Field(default=0, ge=0)
    workers: int = Field(default=0, ge=0)
    log_every: int = Field(default=50, ge=1)
    eval_every: int = Field(default=1000, ge=1)
    checkpoint_every: int = Field(default=1000, ge=1)
    keep: int = Field(default=2, ge=1)
    max_rise: float = Field(default=2.0, ge=0)
    timeout_s: float = Field(default=600, gt=0)
    watch: tuple[Literal["tensorboard", "wandb"], ...] = ()
    zeroshot: tuple[str, ...] = ()
    data_root: str = ""
    zeroshot_limit: int = Field(default=0, ge=0)


class Recipe(_Section):
    """A whole recipe. ``schema`` is its version."""

    schema_: Literal[1] = Field(alias="schema")
    name: str = Field(pattern=r"^[\w.-]+$")
    about: str = ""
    model: ModelSection
    data: DataSection
    augment: AugmentSection = AugmentSection()
    budget: BudgetSection
    loss: LossSection = LossSection()
    optimiser: OptimiserSection
    compute: ComputeSection = ComputeSection()
    run: RunSection = RunSection()

    def resolved(self) -> dict[str, Any]:
        """Every value, defaults too, as plain JSON."""
        plain: dict[str, Any] = json.loads(self.model_dump_json(by_alias=True))
        return plain

    @property
    def digest(self) -> str:
        """sha256 of ``resolved``, hexadecimal."""
        return hashlib.sha256(json.dumps(self.resolved(), sort_keys=True).encode()).hexdigest()

    def differences(self, stored: dict[str, Any]) -> list[str]:
        """What of ``stored`` (a ``resolved``) would make this another run: ``key THERE, not HERE``.

        A key that came after it was stored has its default.

        Raises:
            UsageError: it has keys that are not known here.
        """
        mine, theirs = _flat(self.resolved()), _flat(validate(stored, "stored recipe").resolved())
        fixed = {key for key in {*mine, *theirs} if key not in ("name", "about") and _is_fixed(key)}
        return [
            f"{key} {theirs.get(key)!r}, not {mine.get(key)!r}"
            for key in sorted(fixed)
            if mine.get(key) != theirs.get(key)
        ]


def available() -> dict[str, Path]:
    """Shipped recipes by name."""
    return {path.stem: path for path in sorted((shipped_dir() / "train").glob("*.toml"))}


def load(name_or_path: str, changes: Sequence[str] = ()) -> Recipe:
    """Read a recipe, shipped or a file, and change it.

    Args:
        name_or_path: a shipped name or the path of a TOML file.
        changes: ``key=value``, such as ``optimiser.lr=1e-4``; the value as TOML writes it, or a bare word.

    Raises:
        UsageError: no such recipe, unreadable TOML, or keys and values that are not a recipe's (all are
            named, with near matches).
    """
    shipped = available()
    path = shipped.get(name_or_path, Path(name_or_path).expanduser())
    if not path.is_file():
        if path.suffix == ".toml":
            raise UsageError("no such recipe file", where=str(path), remedy="Check the path.")
        raise unknown("recipe", name_or_path, shipped)
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot be read ({error})", where=str(path), remedy="Check the file.") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"not valid TOML ({error})", where=str(path), remedy="Mend that line.") from error
    for change in changes:
        _apply(raw, change)
    return validate(raw, str(path))


def validate(raw: dict[str, Any], where: str) -> Recipe:
    """A recipe from plain values. Raises ``UsageError`` naming every fault."""
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        faults = "; ".join(_explain(fault) for fault in error.errors())
        names = ", ".join(available())
        raise UsageError(
            f"not a valid recipe: {faults}", where=where, remedy=f"Compare it with a shipped one: {names}."
        ) from error


def _apply(raw: dict[str, Any], change: str) -> None:
    key, equals, text = change.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        remedy = "Write key=value, such as optimiser.lr=1e-4."
        raise UsageError(f"{change!r} changes nothing", where="--set", remedy=remedy)
    place = raw
    for part in parts[:-1]:
        place = place.setdefault(part, {})
        if not isinstance(place, dict):
            raise UsageError(f"{part!r} has no keys", where=f"--set {change}", remedy="See the recipe.")
    try:
        place[parts[-1]] = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        place[parts[-1]] = text.strip()
    if key.strip() in ("budget.samples", "budget.epochs"):
        place.pop({"samples": "epochs", "epochs": "samples"}[parts[-1]], None)


def _explain(fault: Any) -> str:
    place = ".".join(str(part) for part in fault["loc"]) or "recipe"
    if fault["type"] != "extra_forbidden":
        return f"{place}: {fault['msg'].removeprefix('Value error, ')}"
    section: type[BaseModel] = Recipe
    for part in fault["loc"][:-1]:
        annotation = section.model_fields[str(part)].annotation
        assert isinstance(annotation, type) and issubclass(annotation, BaseModel)
        section = annotation
    known = [field.alias or name for name, field in section.model_fields.items()]
    near = difflib.get_close_matches(str(fault["loc"][-1]), known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else "known: " + ", ".join(known)
    return f"unknown key {place!r} ({hint})"


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _is_fixed(key: str) -> bool:
    free = key.startswith(("compute.", "run.")) or key in ("loss.chunk", "data.path", "data.max_bad")
    return key in FIXED or not free
