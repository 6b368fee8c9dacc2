"""Everything that only a GPU can say, in one command: ``python -m tests.scale.on_a_gpu --out DIR``.

Stages run in order of need, as many side by side as there are GPUs: what is timed has a GPU to itself, what
only has to end (tests, trials of micro models) shares one. Every GPU has its own share of the cores, since
passes at batch 1 take as long as the host needs to launch them. Each stage has a limit, a log
``DIR/STAGE.log`` and, once it has ended well, a mark ``DIR/STAGE.done``: the same command goes on with
what is missing. ``--minutes`` is for all of them: after that nothing is begun, and what runs is ended.
Absolute times of one stage are comparable with those of another only on equal GPUs.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from climp_bench.results import ResultStore

SIZES = (896, 224, 512, 384, 640, 768, 320)
BASELINES = ("rope-vit", "flexivit", "naflexvit")
"""Compiled, too. VMamba is not: it gains nothing and takes minutes."""
METRICS = ("latency_ms", "latency_graphed_ms", "throughput_images_per_s")
SWEEPS = ("efficiency", "efficiency-again")
_REPORT = """
import sys, pathlib
from climp_bench.report.efficiency import write_efficiency
from climp_bench.results import ResultStore
out = pathlib.Path(sys.argv[1])
records = list(ResultStore(out / "records").read())
write_efficiency(records, records[0].suite, out)
"""
SEEDS = 3
MOST_SHARING = 12


@dataclass(frozen=True)
class Stage:
    """A command, after ``after`` are done.

    Attributes:
        name: of its log.
        command: what Python is to run.
        limit_s: when it is ended.
        after: names of stages.
        shares: whether others that share may run on the same GPU.
    """

    name: str
    command: tuple[str, ...]
    limit_s: float = 600.0
    after: tuple[str, ...] = ()
    shares: bool = False


def stages(out: Path) -> Iterator[Stage]:
    """All, the most wanted first."""
    bench = ("-m", "climp_bench")
    cuda = ("--device", "cuda")
    yield from _kernels(out, "ssd")
    tests = ("-m", "pytest", "-q", "-m", "gpu", "-n", "6", "--dist", "load", "tests/unit", "tests/numerics")
    yield Stage("tests", tests, 600, shares=True)
    yield from _experiments(out)
    throughput = ("-m", "tests.scale.training_throughput", *cuda)
    yield Stage("training-rope-vit", (*throughput, "--model", "rope-vit@base"), 300)
    yield Stage("training-climp-m1", (*throughput, "--model", "climp-m1@base", "--alone"), 300)
    compiled = ("--model", "rope-vit@base", "--compile", "--warm", "3")
    yield Stage("training-compiled", (*throughput, *compiled), 500)
    loop = ("-m", "tests.scale.against_the_authors_loop", *cuda, "--images", "4500")
    yield Stage("authors-loop", loop, 300)
    yield Stage("authors-loop-base", (*loop, "--model", "climp-m1@base", "--dtype", "bfloat16"), 400)
    yield from _sweeps(out)
    peer = ("-m", "tests.scale.against_clip_benchmark", *cuda)
    yield Stage("clip-benchmark", peer)
    models = ("--model", "climp-m1", "--model", "climp-m2", "--model", "rope-vit")
    base = ("--scale", "base", "--dtype", "bfloat16", "--sets", "0", *models)
    yield Stage("classifier-base", (*peer, *base), 500)
    yield from _kernels(out, "ss2d", "selective_scan")
    same = ("-m", "tests.scale.same_embeddings", *cuda)
    yield Stage("embeddings", same, 400, shares=True)
    yield Stage("embeddings-micro", (*same, "--scale", "micro"), 200, shares=True)
    yield Stage("vmamba-goals", ("-m", "tests.scale.vmamba_goals"), 400)
    yield Stage("mamba-ssm", ("-m", "tests.scale.against_mamba_ssm"), 200)
    texts = ("efficiency", *cuda, "--dtype", "bfloat16", "--text", "77..2048")
    yield Stage("efficiency-text", (*bench, *texts, "--out", str(out / "efficiency-text")), 900)


def _kernels(out: Path, *ops: str) -> Iterator[Stage]:
    """Checks and timings of every backend of these ops."""
    command = ("-m", "climp_bench", "bench-kernels", "--device", "cuda", "--sizes", "paper")
    for op in ops:
        words = (*command, "--dtype", "bfloat16", "--op", op, "--out", str(out / f"kernels-{op}"))
        yield Stage(f"kernels-{op}", words)


def _sweeps(out: Path) -> Iterator[Stage]:
    """A part a size, into one store; the same again into another; baselines compiled; at last the report."""
    command = ("-m", "climp_bench", "efficiency", "--device", "cuda", "--dtype", "bfloat16", "--budget", "10")
    first, second = ((*command, "--out", str(out / name)) for name in SWEEPS)
    baselines = tuple(word for name in BASELINES for word in ("--model", name))
    for size in SIZES:
        yield Stage(f"{SWEEPS[0]}-{size}", (*first, "--res", str(size), "--no-compile"), 900)
    for size in SIZES:
        words = (*second, "--res", str(size), "--no-compile", "--rounds", "1")
        yield Stage(f"{SWEEPS[1]}-{size}", words, 900, (f"{SWEEPS[0]}-{size}",))
    for size in SIZES:
        words = (*first, "--res", str(size), "--compile", *baselines)
        yield Stage(f"compiled-{size}", words, 900, (f"{SWEEPS[0]}-{size}",))
    parts = tuple(f"{SWEEPS[0]}-{size}" for size in SIZES)
    report = ("-c", _REPORT, str(out / SWEEPS[0]))
    yield Stage(f"{SWEEPS[0]}-report", report, 300, parts, shares=True)


def _experiments(out: Path) -> Iterator[Stage]:
    """Trials of micro models side by side; the last command of each finds them done and reports."""
    seeds, recipe = ("--seeds", str(SEEDS)), ("--recipe", "scenes-micro", "--device", "cuda")
    budget = ("--set", "budget.samples=384000", "--set", "budget.batch_size=768", "--suite", "embedded")
    ablation = ("-m", "climp_bench", "ablation", *recipe, *budget, *seeds, "--out", str(out / "ablation"))
    pairs = ("climp-m1", "climp-m2", "climp-llama", "rope-vit-m1", "rope-vit-m2", "rope-vit")
    for family in pairs:
        yield Stage(f"ablation-{family}", (*ablation, "--model", family), 1200, shares=True)
    parts = tuple(f"ablation-{family}" for family in pairs)
    yield Stage("ablation", ablation, 300, parts, shares=True)
    epochs = ("--set", "budget.epochs=5", "--suite", "embedded")
    scaling = ("-m", "climp_bench", "scaling", "data", *recipe, *epochs, *seeds)
    scaling += ("--out", str(out / "scaling-data"))
    sizes = [("--pairs", str(n)) for n in (65536, 32768, 16384, 8192)]
    for words in sizes:
        yield Stage(f"scaling-data-{words[1]}", (*scaling, *words), 1200, shares=True)
    parts = tuple(f"scaling-data-{words[1]}" for words in sizes)
    every = tuple(word for words in reversed(sizes) for word in words)
    yield Stage("scaling-data", (*scaling, *every), 300, parts, shares=True)
    more = (
        "--task",
        "scenes-digit",
        "--train-images",
        "16384",
        "--epochs",
        "20",
        "--batch-size",
        "256",
        "--lr",
        "0.004",
        *seeds,
    )
    bias = ("-m", "climp_bench", "bias", "--device", "cuda", *more)
    yield Stage("bias", (*bias, "--out", str(out / "bias")), 1200, shares=True)


class Lanes:
    """GPUs and what runs on them."""

    def __init__(self, out: Path, gpus: int, wanted: list[Stage], deadline: float) -> None:
        self.out, self.gpus, self.waiting, self.deadline = out, gpus, wanted, deadline
        self.cores = sorted(os.sched_getaffinity(0))
        self.running: list[tuple[Stage, int, subprocess.Popen[bytes], float]] = []

    def run(self) -> None:
        """Until nothing runs and nothing can be begun."""
        while self._begin() or self.running:
            self._end()
            time.sleep(0.5)

    def _share(self, gpu: int) -> list[int]:
        """Neighbouring cores, so that the two threads of one stay together."""
        each = len(self.cores) // self.gpus
        return self.cores[gpu * each : (gpu + 1) * each] or self.cores

    def _done(self, name: str) -> bool:
        return (self.out / f"{name}.done").exists()

    def _place(self, stage: Stage) -> int | None:
        """A GPU for it: one that is shared already or one that is free; None while there is none."""
        on = {gpu: [other for other, at, *_ in self.running if at == gpu] for gpu in range(self.gpus)}
        if stage.shares:
            shared = [gpu for gpu, others in on.items() if others and all(other.shares for other in others)]
            if shared:
                return next((gpu for gpu in shared if len(on[gpu]) < MOST_SHARING), None)
        return next((gpu for gpu, others in on.items() if not others), None)

    def _begin(self) -> bool:
        for stage in [stage for stage in self.waiting if all(self._done(name) for name in stage.after)]:
            gpu = self._place(stage)
            if time.monotonic() > self.deadline:
                break
            if gpu is None:
                continue
            self.waiting.remove(stage)
            log = (self.out / f"{stage.name}.log").open("wb")
            few = {"OMP_NUM_THREADS": "2"} if stage.shares else {}
            process = subprocess.Popen(
                [sys.executable, *stage.command], stdout=log, stderr=subprocess.STDOUT,
                env={**os.environ, **few, "CUDA_VISIBLE_DEVICES": str(gpu)},
            )  # fmt: skip
            os.sched_setaffinity(process.pid, self._share(gpu))
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
            how = "ended, too long" if late else f"exit code {process.returncode}"
            if process.returncode == 0:
                (self.out / f"{stage.name}.done").touch()
            print(f"{stage.name}: {how}, {spent:.0f} s on GPU {gpu}", flush=True)


def differences(out: Path) -> Iterator[str]:
    """How far the medians of the two sweeps lie apart."""
    found: list[dict[tuple[str, ...], float]] = []
    for name in SWEEPS:
        records = ResultStore(out / name / "records").read()
        found.append({
            (r.model.name, r.task, r.protocol, r.metric): r.value
            for r in records if r.metric in METRICS and r.value is not None
        })  # fmt: skip
    for key in sorted(found[0].keys() & found[1].keys()):
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
    parser.add_argument(
        "--only", nargs="*", default=[""], help="beginnings of names of stages, in this order"
    )
    asked = parser.parse_args()
    out = asked.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    gpus = asked.gpus
    if gpus is None:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True)
        gpus = len(listed.stdout.splitlines())
    every = list(stages(out))
    found = (stage for start in asked.only for stage in every if stage.name.startswith(start))
    wanted = list(dict.fromkeys(found))
    missing = [stage for stage in wanted if not (out / f"{stage.name}.done").exists()]
    Lanes(out, gpus, missing, time.monotonic() + 60 * asked.minutes).run()
    print(*differences(out), sep="\n")


if __name__ == "__main__":
    main()
