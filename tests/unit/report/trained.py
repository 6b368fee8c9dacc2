"""Made-up experiments as their commands leave them, for the tests of reports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from climp_bench.metrics.uncertainty import wilson
from climp_bench.report.bias import NOTE
from climp_bench.report.experiment import OVER, write_experiment, write_numbers
from climp_bench.results.experiments import LOSS
from tests.unit.results.records import record

TOWERS = {
    "climp-m1": ("VMamba", "Mamba-1"), "climp-llama": ("VMamba", "LLaMA"),
    "rope-vit-m1": ("RoPE-ViT", "Mamba-1"), "rope-vit": ("RoPE-ViT", "LLaMA"),
}  # fmt: skip
N = 200
FACTS = {"recipe": "made-up: of nothing", "batch": 32}


def trial(family: str, seed: int, right: int, *, point: int = 0, task: str = "shapes") -> dict[str, Any]:
    """A run that is right on so many of ``N`` samples, with its record."""
    around = wilson(right, N)
    made = record(
        model={"name": f"{family}-thumbnail@micro", "family": family, "weights_digest": f"{family} {seed}"},
        suite="few", task=task, metric="acc1", value=right / N, interval=around, n_expected=N, n_evaluated=N,
        extra={"chance": 0.25, "training seed": seed, "recipe (sha256)": "d1ce"},
    )  # fmt: skip
    score = {"task": task, "kind": "classification", "metric": "acc1", "value": right / N, "n": N,
             "low": around.low, "high": around.high, "chance": 0.25}  # fmt: skip
    image, text = TOWERS[family]
    return {
        "family": family, "image": image, "text": text, "point": point, "seed": seed, "parameters": 2000,
        "image_parameters": 1500, "pairs": 64, "scores": [score], "recipe_sha256": "d1ce",
        "records": [made.model_dump(mode="json")],
    }  # fmt: skip


def ablation(seeds: int = 2, task: str = "shapes") -> list[dict[str, Any]]:
    """Four pairs of towers."""
    return [
        trial(family, seed, 100 + 20 * k + 4 * k * seed, task=task)
        for k, family in enumerate(TOWERS) for seed in range(seeds)
    ]  # fmt: skip


def scaling(points: Sequence[int] = (100, 200, 400), seeds: int = 2) -> list[dict[str, Any]]:
    """Two families whose errors fall with the number of pairs."""
    return [
        trial(family, seed, round(N * (1 - 2 * n**-0.25)) - 3 * seed - 9 * (family == "rope-vit"), point=n)
        for family in ("climp-m1", "rope-vit") for n in points for seed in range(seeds)
    ]  # fmt: skip


def bias(seeds: int = 2) -> list[dict[str, Any]]:
    """Two towers on both orders of patches."""
    found = []
    for tower in ("VMamba", "ViT"):
        for order in ("natural", "permuted"):
            for seed in range(seeds):
                right = 100 + 20 * (order == "natural") + 10 * seed
                losses = [2.5, 1.0 + 0.25 * seed + 0.5 * (order == "permuted")]
                shared = {
                    "model": {"name": tower, "family": tower}, "suite": "bias", "task": f"{order} patches",
                    "kind": "bias", "n_expected": N, "n_evaluated": N, "extra": {"training seed": seed},
                }  # fmt: skip
                records = [
                    record(metric=LOSS, value=losses[-1], interval=None, no_interval_reason="one", **shared),
                    record(metric="acc1", value=right / N, interval=wilson(right, N), **shared),
                ]
                found.append({
                    "tower": tower, "order": order, "seed": seed, "parameters": 1000, "losses": losses,
                    "correct": right, "n": N, "seconds": 1.0, "accuracy": right / N,
                    "records": [r.model_dump(mode="json") for r in records],
                })  # fmt: skip
    return found


def fill(root: Path, *, small: bool = True, task: str = "shapes") -> None:
    """All four below ``root``, where the commands put them."""
    write_experiment("ablation", ablation(task=task), FACTS, root / "ablation", small=small, remarks=[OVER])
    for name, points in (("scaling-data", (100, 200, 400)), ("scaling-model", (100, 200))):
        out = root / "scaling"
        write_experiment(name, scaling(points), FACTS, out, point="p", small=small, remarks=[OVER])
    write_numbers("bias", bias(), FACTS, root / "bias", small=small, remarks=[NOTE])
