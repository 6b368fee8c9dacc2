"""Scores with per-sample outcomes, made up, for the tests of gates and comparisons."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from climp_bench.gate.measured import Condition, Measured

CONDITION: dict[str, Any] = {
    "protocol": "corrected",
    "kind": "classification",
    "dataset": "toy",
    "split": "test",
    "fingerprint": "f" * 64,
    "resolution": (64, 64),
    "dtype": "float32",
}


def score(right: Any = None, *, condition: dict[str, Any] | None = None, **facts: Any) -> Measured:
    """A score from outcomes, or, without, from ``value``."""
    facts = {"suite": "s", "task": "t", "metric": "acc1", "model": "m@micro"} | facts
    if right is not None:
        right = np.asarray(right, bool)
        bits = base64.b64encode(np.packbits(right).tobytes()).decode()
        facts = {"value": float(right.mean()), "right": bits, "samples": "ids"} | facts
    n = len(right) if right is not None else 100
    return Measured(condition=Condition(**{**CONDITION, "n": n, **(condition or {})}), **facts)


def outcomes(right: int, n: int = 100) -> np.ndarray:
    """The first ``right`` of ``n`` samples right."""
    return np.arange(n) < right
