"""On a CUDA device: cells of efficiency in their own processes, and training by recipe."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from climp_bench.eval.efficiency import Conditions
from climp_bench.models.catalogue import MODELS
from climp_bench.results import Problem, ResultStore
from climp_bench.run.efficiency_plan import make_cells, run_cells
from climp_bench.train import Quiet, recipe
from climp_bench.train.engine import train_recipe

pytestmark = pytest.mark.gpu
MEASURED = {
    "peak_memory_bytes", "retained_memory_bytes", "peak_memory_without_workspace_bytes", "latency_ms",
    "latency_p95_ms", "latency_graphed_ms", "throughput_images_per_s", "macs",
}  # fmt: skip


class Silent:
    """Watches without a word."""

    def cell(self, label: str) -> None:
        pass

    def failed(self, problem: Problem) -> None:
        pass


def test_every_family_is_measured_eager_and_compiled(tmp_path: Path) -> None:
    families = ("climp-m1", "rope-vit", "flexivit", "naflexvit")
    cells = make_cells([MODELS.get(f"{f}@micro") for f in families], (64,), (), compiled=True)
    conditions = Conditions("cuda", gpu="the one here", dtype="bfloat16", budget_s=5.0, rounds=2)
    outcome = run_cells(cells, conditions, ResultStore(tmp_path), Silent())
    assert [r.error for r in outcome.records if r.status == "failed"] == [] and outcome.done == len(cells)
    for family in families:
        own = [r for r in outcome.records if r.model.family == family and "eager" in r.protocol]
        assert {r.metric for r in own if r.value is not None} >= MEASURED
        workspace = {r.metric: r.value for r in own}
        assert workspace["retained_memory_bytes"] >= workspace["retained_memory_without_workspace_bytes"]


@pytest.mark.parametrize("family", ["climp-m1", "climp-m2", "rope-vit", "naflexvit"])
def test_a_recipe_trains_and_goes_on(family: str, tmp_path: Path) -> None:
    changes = [
        f"model.name={family}@micro", "data.pool_size=64", "data.held_out=16", "budget.samples=256",
        "budget.batch_size=32", "compute.micro_batch=8", "optimiser.lr=1e-5", "run.log_every=1",
        "run.checkpoint_every=3", "run.eval_every=8", 'run.zeroshot=["sklearn-digits"]',
        "run.zeroshot_limit=50", "run.workers=2",
    ]  # fmt: skip
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train_recipe(recipe.load("scenes-micro", changes), whole, "cuda", progress=Quiet())
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 8 and all(0 < loss < 8 for loss in losses)
    assert any(line.get("zeroshot_n") == {"sklearn-digits": 50} for line in lines)

    class Interrupting(Quiet):
        def advance(self, what: str, done: int, total: int, status: object = None) -> None:
            if what.startswith("training") and done == 5:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_recipe(recipe.load("scenes-micro", changes), parts, "cuda", progress=Interrupting())
    train_recipe(recipe.load("scenes-micro", changes), parts, "cuda", progress=Quiet())
    again = [json.loads(line) for line in (parts / "metrics.jsonl").read_text().splitlines()]
    seen = [{line["step"]: line["seen"] for line in told if "seen" in line} for told in (lines, again)]
    assert seen[0] == seen[1]
