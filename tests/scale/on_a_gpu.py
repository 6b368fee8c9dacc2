"""Everything that only a GPU can say, in one command: ``python -m tests.scale.on_a_gpu --out DIR``.

Stages run in order of need, one a GPU at a time, as many side by side as there are GPUs. Each has a limit, a
log ``DIR/STAGE.log`` and, once it has ended well, a mark ``DIR/STAGE.done``: the same command goes on with
what is missing. ``--minutes`` is for all of them: after that nothing is begun, and what runs is ended.
Absolute times of one stage are comparable with those of another only on equal GPUs.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SIZES = (896, 224, 768, 640, 512, 384, 320)
SWEEPS = ("efficiency", "efficiency-again")
SEEDS = 3


@dataclass(frozen=True)
class Stage:
    """A command, after ``after`` are done.

    Attributes:
        name: of its log.
        command: what Python is to run.
        limit_s: when it is ended.
        after: names of stages.
    """

    name: str
    command: tuple[str, ...]
    limit_s: float = 600.0
    after: tuple[str, ...] = ()


def stages(out: Path) -> Iterator[Stage]:
    """All, the most wanted first."""
    bench = ("-m", "climp_bench")
    cuda = ("--device", "cuda")
    yield Stage("tests", ("-m", "pytest", "-q", "-m", "gpu", "tests/unit", "tests/numerics"), 400)
    for op in ("ss2d", "selective_scan", "ssd"):
        kernels = ("bench-kernels", *cuda, "--sizes", "paper", "--dtype", "bfloat16", "--op", op)
        yield Stage(f"kernels-{op}", (*bench, *kernels, "--out", str(out / f"kernels-{op}")))
    yield from _sweep(out, SWEEPS[0])
    yield Stage("clip-benchmark", ("-m", "tests.scale.against_clip_benchmark", *cuda))
    loop = ("-m", "tests.scale.against_the_authors_loop", *cuda, "--images", "4500")
    yield Stage("authors-loop", loop)
    throughput = ("-m", "tests.scale.training_throughput", *cuda)
    yield Stage("training-rope-vit", (*throughput, "--model", "rope-vit@base"))
    yield Stage("training-climp-m1", (*throughput, "--model", "climp-m1@base", "--alone"))
    yield from _experiments(out)
    yield from _sweep(out, SWEEPS[1], after=SWEEPS[0])
    texts = ("efficiency", *cuda, "--dtype", "bfloat16", "--text", "77..2048")
    yield Stage("efficiency-text", (*bench, *texts, "--out", str(out / "efficiency-text")), 900)


def _sweep(out: Path, name: str, after: str = "") -> Iterator[Stage]:
    """A part a size, into one store, and at last the report on all of them."""
    command = ("-m", "climp_bench", "efficiency", "--device", "cuda", "--dtype", "bfloat16")
    place = ("--out", str(out / name))
    for size in SIZES:
        earlier = (f"{after}-{size}",) if after else ()
        yield Stage(f"{name}-{size}", (*command, "--res", str(size), *place), 900, earlier)
    parts = tuple(f"{name}-{size}" for size in SIZES)
    yield Stage(f"{name}-report", (*command, "--res", "224..896", *place), 300, parts)


def _experiments(out: Path) -> Iterator[Stage]:
    """Trials of micro models side by side; the last command of each finds them done and reports."""
    seeds, recipe = ("--seeds", str(SEEDS)), ("--recipe", "scenes-micro", "--device", "cuda")
    budget = ("--set", "budget.samples=512000", "--suite", "embedded")
    ablation = ("-m", "climp_bench", "ablation", *recipe, *budget, *seeds, "--out", str(out / "ablation"))
    pairs = ("climp-m1", "climp-m2", "climp-llama", "rope-vit-m1", "rope-vit-m2", "rope-vit")
    for family in pairs:
        yield Stage(f"ablation-{family}", (*ablation, "--model", family), 900)
    yield Stage("ablation", ablation, 300, tuple(f"ablation-{family}" for family in pairs))
    sizes = tuple(word for n in (8192, 32768, 131072) for word in ("--pairs", str(n)))
    epochs = ("--set", "budget.epochs=5", "--suite", "embedded")
    scaling = ("-m", "climp_bench", "scaling", "data", *recipe, *epochs, *seeds, *sizes)
    yield Stage("scaling-data", (*scaling, "--out", str(out / "scaling-data")), 1200)
    more = ("--train-images", "16384", "--epochs", "20", "--batch-size", "256", "--lr", "0.004", *seeds)
    yield Stage(
        "bias", ("-m", "climp_bench", "bias", "--device", "cuda", *more, "--out", str(out / "bias")), 900
    )


class Lanes:
    """GPUs and what runs on them."""

    def __init__(self, out: Path, gpus: int, wanted: list[Stage], deadline: float) -> None:
        self.out, self.free, self.waiting, self.deadline = out, list(range(gpus)), wanted, deadline
        self.running: list[tuple[Stage, int, subprocess.Popen[bytes], float]] = []

    def run(self) -> None:
        """Until nothing runs and nothing can be begun."""
        while self._begin() or self.running:
            self._end()
            time.sleep(0.5)

    def _done(self, name: str) -> bool:
        return (self.out / f"{name}.done").exists()

    def _begin(self) -> bool:
        for stage in [stage for stage in self.waiting if all(self._done(name) for name in stage.after)]:
            if not self.free or time.monotonic() > self.deadline:
                break
            gpu = self.free.pop(0)
            self.waiting.remove(stage)
            log = (self.out / f"{stage.name}.log").open("wb")
            process = subprocess.Popen(
                [sys.executable, *stage.command], stdout=log, stderr=subprocess.STDOUT,
                env={**os.environ, "CUDA_VISIBLE_DEVICES": str(gpu)},
            )  # fmt: skip
            self.running.append((stage, gpu, process, time.monotonic()))
        return bool(self.running)

    def _end(self) -> None:
        for stage, gpu, process, began in list(self.running):
            spent = time.monotonic() - began
            late = False
            if process.poll() is None:
                late = spent > stage.limit_s or time.monotonic() > self.deadline
                if not late:
                    continue
                process.terminate()
                process.wait()
            self.running.remove((stage, gpu, process, began))
            self.free.append(gpu)
            how = "ended, too long" if late else f"exit code {process.returncode}"
            if process.returncode == 0:
                (self.out / f"{stage.name}.done").touch()
            print(f"{stage.name}: {how}, {spent:.0f} s on GPU {gpu}", flush=True)


def differences(out: Path) -> Iterator[str]:
    """How far the medians of the two sweeps lie apart."""
    found = []
    for name in SWEEPS:
        sheets = sorted((out / name).glob("efficiency-*.csv"))
        rows = csv.DictReader(sheets[0].read_text().splitlines()) if sheets else ()
        found.append({
            (row["model"], row["task"], row["protocol"]): float(row["value"])
            for row in rows if row["metric"] == "latency_ms" and row["value"]
        })  # fmt: skip
    for key in found[0].keys() & found[1].keys():
        apart = found[1][key] / found[0][key] - 1
        if abs(apart) > 0.03:
            yield f"{' '.join(key)}: the second sweep differs by {100 * apart:+.1f}%"
    yield f"{len(found[0].keys() & found[1].keys())} medians compared"


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=600)
    parser.add_argument("--gpus", type=int, help="default: all")
    parser.add_argument("--only", nargs="*", default=[""], help="beginnings of names of stages")
    asked = parser.parse_args()
    out = asked.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    gpus = asked.gpus
    if gpus is None:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True)
        gpus = len(listed.stdout.splitlines())
    wanted = [stage for stage in stages(out) if stage.name.startswith(tuple(asked.only))]
    missing = [stage for stage in wanted if not (out / f"{stage.name}.done").exists()]
    Lanes(out, gpus, missing, time.monotonic() + 60 * asked.minutes).run()
    print(*differences(out), sep="\n")


if __name__ == "__main__":
    main()
