"""Roughly how long encoding takes here: multiply-adds of a model, by how fast this machine multiplies.

An estimate for plans, right within a factor of about three: scans reach a smaller share of that speed than
matrix products do, on a CPU and on a GPU. Texts and scoring come on top.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import lru_cache

import torch

from climp_bench.errors import ClimpError
from climp_bench.models.catalogue import build_tower, count_parameters, find
from climp_bench.models.counting import count_image
from climp_bench.run.dry_run import Forecast

SHARES = {"scan": 0.08, "product": 0.35}
"""Of the speed of large matrix products, what towers of either kind reach."""
PER_IMAGE_S = 0.003
"""Drawing or decoding an image, and the rest of the loop."""
_SIDE, _REPEATS = 768, 3


def seconds(found: Sequence[Forecast], device: str) -> float | None:
    """What encoding the images of a forecast takes; None where no model of it is known.

    Args:
        found: evaluations; those without images to encode take nothing.
        device: where they would run.
    """
    total, known = 0.0, False
    for one in found:
        if one.images is None:
            continue
        try:
            total += one.images * (PER_IMAGE_S + _per_image(one.model, max(one.size or (0,)), device))
            known = True
        except ClimpError:
            continue
    return total if known else None


def _per_image(model: str, side: int, device: str) -> float:
    """Seconds of the image tower; attention that grows with the square of the area is not foreseen."""
    macs, own, kind = _cost(model)
    return macs * ((side or own) / own) ** 2 / (SHARES[kind] * multiply_adds_a_second(device))


@lru_cache(maxsize=64)
def _cost(model: str) -> tuple[int, int, str]:
    family, _, scale = model.partition("@")
    spec = find(family, scale or None)
    height, width = spec.preprocess.size
    cost = count_image(spec.image, (height, width))
    kind = "scan" if "ss2d" in cost.by_operator else "product"
    return cost.macs, max(height, width), kind


@lru_cache(maxsize=64)
def weights_bytes(model: str) -> int:
    """Size of the weights of a model of the catalogue in float32, from its shapes; projections left out.

    Raises:
        UsageError: there is no such model.
    """
    family, _, scale = model.partition("@")
    spec = find(family, scale or None)
    with torch.device("meta"):
        towers = build_tower(spec.image), build_tower(spec.text)
    return 4 * sum(map(count_parameters, towers))


@lru_cache(maxsize=4)
def multiply_adds_a_second(device: str) -> float:
    """How many multiply-adds a second large float32 matrix products reach."""
    a = torch.randn(_SIDE, _SIDE, device=device)
    best = float("inf")
    for _ in range(_REPEATS + 1):
        started = time.perf_counter()
        float((a @ a)[0, 0])  # reading a number waits for the device
        best = min(best, time.perf_counter() - started)
    return float(_SIDE**3 / best)
