"""VMamba-B beside RoPE-ViT-B and FlexiViT-B on a GPU: ``python -m tests.scale.vmamba_goals``.

bfloat16 weights, images alone. First its embeddings by Triton must be as near to float32 as PyTorch's scan
gets in bfloat16. Then towers take turns: images a second at 896 pixels (batch 16) and 224 (batch 256),
uncompiled and, the ViTs, compiled; memory over the weights for one image of 896 pixels; and a training step
(224 pixels, batch 64, float32 weights under autocast) beside the same with the scan in PyTorch.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor, nn

from climp_bench.models.catalogue import build_tower, find
from climp_bench.ops.dispatch import preferred

FAMILIES = ("climp-m1", "rope-vit", "flexivit")
SIZES = ((896, 16), (224, 256))
ROUNDS, SECONDS = 3, 0.5
SLACK = 1.25


def tower_of(family: str, dtype: torch.dtype = torch.bfloat16) -> nn.Module:
    """The image tower at base, with the weights of one seed."""
    torch.manual_seed(0)
    return build_tower(find(f"{family}@base").image).eval().to("cuda", dtype)


def images_of(batch: int, size: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Random images (B, 3, size, size)."""
    return torch.randn(batch, 3, size, size).to("cuda", dtype)


@torch.inference_mode()
def check() -> None:
    """Print how far embeddings of both backends lie from float32; end if Triton's are farther."""
    images = images_of(2, 224, torch.float32)
    with preferred({"ss2d": "torch"}):
        exact = tower_of("climp-m1", torch.float32)(images)
    off = {}
    for backend in ("triton", "torch"):
        with preferred({"ss2d": backend}):
            found = tower_of("climp-m1")(images.bfloat16()).float()
        off[backend] = float((found - exact).norm() / exact.norm())
    print("bfloat16 weights, off from float32: " + ", ".join(f"{k} {v:.1e}" for k, v in off.items()))
    if off["triton"] > SLACK * off["torch"]:
        raise SystemExit("Triton's scan is not right")


def seconds(run: Callable[[], object]) -> float:
    """A pass, over as many of them as take ``SECONDS`` / 2 to ``SECONDS``."""
    passes = 1
    while True:
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(passes):
            run()
        torch.cuda.synchronize()
        spent = time.perf_counter() - start
        if spent >= SECONDS / 2:
            return spent / passes
        passes *= 2


def rates(batch: int, size: int, *, compiled: bool) -> None:
    """Images a second of each tower by turns."""
    images, runs = images_of(batch, size), {}
    for family in FAMILIES[1:] if compiled else FAMILIES:
        tower = tower_of(family)
        runs[family] = torch.compile(tower, dynamic=False) if compiled else tower
    found: dict[str, list[float]] = {family: [] for family in runs}
    with torch.inference_mode():
        for run in runs.values():
            run(images)
        for _ in range(ROUNDS):
            for family, run in runs.items():
                found[family].append(batch / seconds(lambda run=run: run(images)))
    for family, each in found.items():
        spread = (max(each) - min(each)) / median(each)
        way = "compiled" if compiled else "eager"
        print(f"{size} px, batch {batch}, {family}, {way}: {median(each):.0f} images/s, spread {spread:.1%}")


@torch.inference_mode()
def memory() -> None:
    """MiB over the weights, one image of 896 pixels."""
    images = images_of(1, 896)
    for family in FAMILIES:
        tower = tower_of(family)
        tower(images)
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        tower(images)
        torch.cuda.synchronize()
        print(f"896 px, batch 1, {family}: {(torch.cuda.max_memory_allocated() - before) / 2**20:.0f} MiB")


def training() -> None:
    """Images a second of a training step by either scan, and of the ViT."""
    images = images_of(64, 224, torch.float32)
    for family, backend in (("climp-m1", "triton"), ("climp-m1", "torch"), ("rope-vit", "none")):
        tower = tower_of(family, torch.float32).train()
        optimiser = torch.optim.AdamW(tower.parameters(), fused=True)

        def step(tower: nn.Module = tower, optimiser: torch.optim.Optimizer = optimiser) -> None:
            with torch.autocast("cuda", torch.bfloat16):
                loss = tower(images).float().square().mean()
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()

        with preferred({"ss2d": backend} if backend != "none" else {}):
            step()
            each = [64 / seconds(step) for _ in range(ROUNDS)]
        print(f"training, 224 px, batch 64, {family}, scan {backend}: {median(each):.0f} images/s")


def main() -> None:
    """Check, then measure."""
    print(torch.cuda.get_device_name(), torch.__version__)
    check()
    for size, batch in SIZES:
        rates(batch, size, compiled=False)
    memory()
    training()
    for size, batch in SIZES:
        rates(batch, size, compiled=True)


if __name__ == "__main__":
    main()
