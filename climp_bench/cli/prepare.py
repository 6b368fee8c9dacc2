"""From model names to encoders: choose weights, say what was chosen, train what has none."""

from __future__ import annotations

from collections.abc import Sequence

from climp_bench.cli import console
from climp_bench.errors import UsageError
from climp_bench.models.adapters import DTYPES, CatalogueEncoder, Encoder, pick_device
from climp_bench.models.weights import Choice, resolve
from climp_bench.registry import unknown

FAMILIES = ("climp-m1", "climp-m2", "rope-vit", "flexivit", "naflexvit")


def make_encoders(
    names: Sequence[str] | None, scale: str | None, device: str, dtype: str, *, retrain: bool, quiet: bool
) -> list[Encoder]:
    """One encoder per named model (default: the five families).

    A model without weights at scale micro is trained first, on the embedded data; at a larger scale that is
    an error, because it takes real data.

    Raises:
        UsageError: an unknown model, scale or dtype. BackendError: no such device.
    """
    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    where = pick_device(device)
    encoders: dict[str, Encoder] = {}
    for name in names or FAMILIES:
        choice = resolve(name, scale)
        if choice.spec.name in encoders:
            continue
        if not quiet:
            console.note(choice.reason)
        if choice.ref is None or retrain:
            choice = _train(choice, where, quiet, fresh=retrain)
        encoders[choice.spec.name] = CatalogueEncoder(choice, where, dtype)
    return list(encoders.values())


def _train(choice: Choice, device: str, quiet: bool, *, fresh: bool) -> Choice:
    from climp_bench.cli.train import train_model

    if choice.spec.scale != "micro":
        raise UsageError(
            f"{choice.spec.name} has no weights in the store",
            where="--model",
            remedy="Use --scale micro, or train it: `climp-bench train --help`.",
        )
    train_model(choice.spec, device=device, quiet=quiet, resume=not fresh)
    return resolve(choice.spec.name)
