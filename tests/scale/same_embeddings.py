"""Every backend gives the embeddings of PyTorch's: ``python -m tests.scale.same_embeddings [--device cuda]``.

Freshly initialised models see random images and captions of mixed length. Difference: of an embedding to that
by PyTorch's backend in float32, over its norm, at worst. Under bfloat16 autocast most of it is rounding that
any backend has, so PyTorch's own stands beside it, and how far a backend is from that. Exits with 1 where a
backend is off by more than the tolerance and by more than ``SLACK`` times what PyTorch's is.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch
from torch import Tensor

from climp_bench.models.catalogue import build, find, operator
from climp_bench.models.tokenizer import PAD_ID
from climp_bench.ops.dispatch import backends, preferred

FAMILIES = ("climp-m1", "climp-m2", "rope-vit", "flexivit", "naflexvit")
TOLERANCES = {"float32": 1e-4, "bfloat16": 2e-2}
SLACK = 1.25
IMAGES, LENGTHS = 4, (5, 19, 40, 77)


def ways(ops: set[str], device: str) -> Iterator[tuple[str, str]]:
    """Backend and type of each run to compare, PyTorch's in float32 first."""
    others = {s.name for op in ops for s in backends(op, device) if s.available} - {"reference", "torch"}
    for dtype in TOLERANCES if device == "cuda" else ("float32",):
        for name in ("torch", *sorted(others)):
            yield name, dtype


def embeddings(model: torch.nn.Module, size: tuple[int, int], ops: set[str], way: tuple[str, str]) -> Tensor:
    """Unit rows of images, then of captions, (IMAGES + captions, embed_dim) float64."""
    name, dtype = way
    device = next(model.parameters()).device
    random = torch.Generator().manual_seed(0)
    images = torch.randn(IMAGES, 3, *size, generator=random).to(device)
    ids = torch.full((len(LENGTHS), max(LENGTHS)), PAD_ID)
    for row, length in enumerate(LENGTHS):
        ids[row, :length] = torch.randint(1, 600, (length,), generator=random)
    choice = {op: name for op in ops if any(s.name == name and s.available for s in backends(op, device))}
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bfloat16")
    with torch.inference_mode(), preferred(choice), autocast:
        image = model.encode_image(images)
        text = model.encode_text(ids.to(device), torch.tensor(LENGTHS, device=device))
    return torch.cat([image, text]).double()


def apart(found: Tensor, wanted: Tensor) -> Tensor:
    """The norm of each row's difference, over that of what is wanted."""
    return (found - wanted).norm(dim=1) / wanted.norm(dim=1)


def main() -> int:
    """Print a table; return an exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", default="base")
    parser.add_argument("--model", action="append", help="default: all five families")
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args()
    torch.backends.cudnn.allow_tf32 = False
    far = 0
    print(f"torch {torch.__version__}, {asked.device}, scale {asked.scale}")
    print("| model | backend | type | images differ by | captions differ by | from PyTorch's in this type |")
    print("|---|---|---|--:|--:|--:|")
    for family in asked.model or FAMILIES:
        spec = find(family, asked.scale)
        model = build(spec, seed=0).to(asked.device).eval()
        ops = {op for config in (spec.image, spec.text) if (op := operator(config))}
        wanted, own, same_type = None, {}, {}
        for name, dtype in ways(ops, asked.device):
            found = embeddings(model, spec.preprocess.size, ops, (name, dtype))
            wanted = found if wanted is None else wanted
            off = apart(found, wanted)
            beside = float(apart(found, same_type.setdefault(dtype, found)).max())
            image, text = float(off[:IMAGES].max()), float(off[IMAGES:].max())
            limit = max(TOLERANCES[dtype], SLACK * own.setdefault(dtype, max(image, text)))
            far += not max(image, text) < limit
            print(f"| {spec.name} | {name} | {dtype} | {image:.1e} | {text:.1e} | {beside:.1e} |", flush=True)
        del model
    return 1 if far else 0


if __name__ == "__main__":
    raise SystemExit(main())
