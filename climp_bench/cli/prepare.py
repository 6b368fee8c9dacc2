"""From model names to encoders: choose weights, say what was chosen, fetch or train what has none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from climp_bench.cli import console
from climp_bench.errors import UsageError, WeightsError
from climp_bench.models.adapters import DTYPES, CatalogueEncoder, Encoder, pick_device
from climp_bench.models.weights import Choice, RandomWeights, resolve, ways_to_get
from climp_bench.registry import unknown

if TYPE_CHECKING:
    from climp_bench.ops.wanted import WantedBackends
    from climp_bench.run.dry_run import Unready

FAMILIES = ("climp-m1", "climp-m2", "rope-vit", "flexivit", "naflexvit")


@dataclass(frozen=True)
class Selection:
    """What the command line says of models.

    Attributes:
        names: models; none is the five families.
        scale: of every name that has none of its own.
        device, dtype: where and in which precision they run.
        backend: of the state-space operators, as ``WantedBackends.parse`` reads it.
        weights: a path or ``hf:REPO`` for the one named model, in place of stored weights.
        tokenizer: a ``tokenizer.json`` that goes with ``weights``.
        random_weights: use initial weights where there are none.
        offline: never ask the hub.
        retrain: train the micro models here first.
        quiet: no notes.
    """

    names: Sequence[str] | None = None
    scale: str | None = None
    device: str = "auto"
    dtype: str = "float32"
    backend: str = "auto"
    weights: str | None = None
    tokenizer: Path | None = None
    random_weights: bool = False
    offline: bool = False
    retrain: bool = False
    quiet: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise unknown("dtype", self.dtype, DTYPES)
        if self.weights and len(self.names or FAMILIES) != 1:
            remedy = "Name one: --model climp-m1@base --weights PATH."
            raise UsageError("it goes with one model", where="--weights", remedy=remedy)
        if self.tokenizer and not self.weights:
            remedy = (
                "Add --weights PATH, or store both: `climp-bench models import NAME PATH --tokenizer FILE`."
            )
            raise UsageError("it goes with --weights", where="--tokenizer", remedy=remedy)


def make_encoders(selection: Selection) -> list[Encoder]:
    """One encoder per named model.

    Without weights, a model of scale micro is trained first, on the embedded data; one whose scale was named
    outright is fetched if its weights are published, and so is nothing else.

    Raises:
        UsageError: an unknown model, scale, dtype or backend, or a backend for an operator that no model has.
        WeightsError: there are no weights.
        BackendError: no such device, or the backend cannot run on it.
    """
    from climp_bench.ops.wanted import WantedBackends

    device = pick_device(selection.device)
    wanted = WantedBackends.parse(selection.backend)
    encoders: dict[str, Encoder] = {}
    for name in selection.names or FAMILIES:
        encoder = _encoder(name, replace(selection, device=device), wanted)
        encoders.setdefault(encoder.name, encoder)
    own = [encoder.backends for encoder in encoders.values() if isinstance(encoder, CatalogueEncoder)]
    wanted.check_used(op for backends in own for op in backends)
    return list(encoders.values())


def _encoder(name: str, selection: Selection, wanted: WantedBackends) -> Encoder:
    from climp_bench.models.peers import is_peer, open_peer

    if is_peer(name):
        if selection.weights:
            remedy = "Name them in the model: open_clip:ARCH/PATH or hf:PATH."
            raise UsageError("a peer brings its own weights", where="--weights", remedy=remedy)
        return open_peer(
            name,
            selection.device,
            selection.dtype,
            random_weights=selection.random_weights,
            offline=selection.offline,
            announce=announcer(selection),
        )
    choice = _choose(name, selection)
    _say(choice.reason, selection)
    if choice.ref is None or selection.retrain:
        choice = _obtain(choice, name, selection)
    return CatalogueEncoder(choice, selection.device, selection.dtype, wanted)


def _choose(name: str, selection: Selection) -> Choice:
    choice = resolve(name, selection.scale)
    spec = choice.spec
    if selection.weights:
        from climp_bench.models.acquire import open_weights

        ref = open_weights(
            selection.weights,
            spec,
            tokenizer=selection.tokenizer,
            offline=selection.offline,
            announce=announcer(selection),
        )
        return Choice(spec, ref, f"{spec.name}: weights of {ref.source}, as asked")
    if choice.ref is None and selection.random_weights:
        return Choice(spec, RandomWeights(), f"{spec.name}: random weights, as asked; scores mean nothing")
    return choice


def _obtain(choice: Choice, name: str, selection: Selection) -> Choice:
    """Weights for a model that has none: trained at scale micro, fetched if asked for outright."""
    spec = choice.spec
    if spec.scale == "micro":
        from climp_bench.cli.train import train_model

        train_model(spec, device=selection.device, quiet=selection.quiet, resume=not selection.retrain)
        return resolve(spec.name)
    if selection.retrain:
        raise UsageError(
            "the embedded data trains scale micro only", where="--retrain", remedy="Use --scale micro."
        )
    if spec.origin.weights is None:
        raise WeightsError("it has no weights here", where=spec.name, remedy=ways_to_get(spec))
    from climp_bench.models.acquire import pull

    pull(spec, offline=selection.offline, announce=announcer(selection))
    return resolve(spec.name)


def survey(selection: Selection) -> tuple[list[Encoder], list[Unready]]:
    """As ``make_encoders``, but nothing is trained or fetched: a model that lacks its weights is told apart.

    Raises:
        UsageError, BackendError: as ``make_encoders``.
    """
    from climp_bench.ops.wanted import WantedBackends
    from climp_bench.run.dry_run import Unready

    here = replace(selection, device=pick_device(selection.device), offline=True, quiet=True)
    wanted = WantedBackends.parse(selection.backend)
    encoders: dict[str, Encoder] = {}
    unready = []
    for name in selection.names or FAMILIES:
        reason, blocked = _lacking(name, here, offline=selection.offline)
        if not reason:
            try:
                encoder = _encoder(name, replace(here, retrain=False), wanted)
                encoders.setdefault(encoder.name, encoder)
                continue
            except WeightsError as error:
                reason, blocked = f"its weights are not here ({error.what})", selection.offline
        unready.append(Unready(_named(name, here), reason, blocked))
    return list(encoders.values()), unready


def _named(name: str, selection: Selection) -> str:
    from climp_bench.models.peers import is_peer

    return name if is_peer(name) else resolve(name, selection.scale).spec.name


def _lacking(name: str, selection: Selection, *, offline: bool) -> tuple[str, bool]:
    """What a model of our own catalogue lacks, or nothing, and whether a run would fail for it."""
    from climp_bench.models.peers import is_peer

    if is_peer(name) or selection.weights:
        return "", False
    choice = _choose(name, selection)
    spec = choice.spec
    if choice.ref is not None and not selection.retrain:
        return "", False
    if spec.scale == "micro":
        return "is trained first: `climp-bench train` says how long that takes", False
    if spec.origin.weights is None or selection.retrain:
        return f"has no weights here. {ways_to_get(spec)}", True
    source = spec.origin.weights
    return f"its weights are fetched first (hf:{source.repo}, licence {source.licence})", offline


def announcer(selection: Selection) -> Callable[[str], None]:
    """Tells what is fetched before it is."""
    if selection.quiet:
        console.no_download_bars()
        return lambda text: None
    return lambda text: console.note(f"Fetching {text}", always=True)


def _say(text: str, selection: Selection) -> None:
    if not selection.quiet:
        console.note(text)
