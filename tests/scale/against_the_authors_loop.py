"""NoCaps-sized retrieval: our path beside an evaluation loop like that of CLIMP's authors, with one model.

``python -m tests.scale.against_the_authors_loop [--images 450] [--model climp-m1] [--device cpu]``
Both encode the same images with ten captions each, on a CPU decoded in one process. Embeddings of a batch
must agree, and in float32 recalls, too (in half precision near ties fall either way). The loop is written
anew from what is known of theirs: batches of 16 images and their 160 captions, padded to as many tokens as
the longest has characters, one full matrix of scores. Kernels are compiled and processes started ahead, by
both ways over the first images.
A model without stored weights gets initial ones.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from climp_bench.cli.options import default_workers
from climp_bench.data.catalogue import open_dataset
from climp_bench.data.dataset import Dataset, captions_of
from climp_bench.data.scenes_dataset import ScenesDataset
from climp_bench.data.transforms import to_tensor
from climp_bench.embed import beside
from climp_bench.models.adapters import CatalogueEncoder
from climp_bench.models.weights import RandomWeights, resolve
from climp_bench.run import execute as run
from climp_bench.run.execute import execute
from climp_bench.run.plan import Settings, make_plan
from climp_bench.suite.schema import Suite
from tests import data_copies as copies
from tests.unit.run.test_execute import Listener

BATCH, EACH, KS = 16, 10, (1, 5, 10)
WARM = 600
SPENT: dict[str, float] = {}
TOLERANCES = {"float32": 1e-4, "bfloat16": 3e-2, "float16": 3e-3}
"""Of an embedding, relative to its norm: two roundings of half precision in two batches."""


class TenCaptions(ScenesDataset):
    """Scenes with ten captions an image, as NoCaps has them: the five of a scene in two forms."""

    def captions(self, index: int) -> tuple[str, ...]:
        own = super().captions(index)
        return own + tuple(f"a picture of {caption}" for caption in own)


@torch.inference_mode()
def their_way(dataset: Dataset, encoder: CatalogueEncoder) -> dict[str, float]:
    """Recall by the loop."""
    images, texts, owners = [], [], []
    for start in range(0, len(dataset), BATCH):
        batch = range(start, min(start + BATCH, len(dataset)))
        tensors = [to_tensor(dataset.image(i, encoder.preprocess.size), encoder.preprocess) for i in batch]
        images.append(torch.from_numpy(encoder.encode_images(tensors)))
        captions = [caption for i in batch for caption in dataset.captions(i)]
        texts.append(padded(captions, encoder))
        owners += [i for i in batch for _ in dataset.captions(i)]
    scores = torch.cat(texts) @ torch.cat(images).T
    of_text = torch.tensor(owners)
    found: dict[str, float] = {}
    for k in KS:
        hits = (scores.topk(k, 1).indices == of_text[:, None]).any(1)
        found[f"image_retrieval_recall@{k}"] = float(hits.float().mean())
        nearest = of_text[scores.topk(k, 0).indices]
        found[f"text_retrieval_recall@{k}"] = float(
            (nearest == torch.arange(len(dataset))).any(0).float().mean()
        )
    return found


def padded(captions: list[str], encoder: CatalogueEncoder) -> torch.Tensor:
    """Embeddings of captions that fill as many tokens as the longest has characters.

    A last row of that length brings it about, because towers pad a batch to its longest text.
    """
    tokens = encoder.tokenize(captions)
    longest = max(map(len, captions))
    filler = (tokens[0] * longest)[:longest]
    return torch.from_numpy(encoder.encode_tokens([*tokens, filler])[:-1])


def our_way(root: Path, name: str, encoder: CatalogueEncoder, folder: Path, workers: int) -> dict[str, float]:
    """Recall by the whole path, from an empty cache."""
    task = {"dataset": name, "ks": list(KS)}
    suite = Suite.model_validate({"schema": 1, "name": "own", "task": [task]})
    settings = Settings(out=folder / "out", cache=folder / "cache", data_roots=(root,), workers=workers)
    SPENT.clear()
    with clocked(run, "embed_images"), clocked(beside, "embed_texts"), clocked(run, "retrieve"):
        outcome = execute(make_plan([encoder], [suite]), settings, Listener())
    return {r.metric: r.value for r in outcome.records if r.value is not None}


@contextmanager
def clocked(module: ModuleType, step: str) -> Iterator[None]:
    """Inside, the seconds that a step of the path takes go to ``SPENT``; on a GPU steps overlap."""
    function = getattr(module, step)

    def timed(*arguments: Any, **options: Any) -> Any:
        started = time.perf_counter()
        result = function(*arguments, **options)
        SPENT[step] = SPENT.get(step, 0.0) + time.perf_counter() - started
        return result

    setattr(module, step, timed)
    try:
        yield
    finally:
        setattr(module, step, function)


def apart(dataset: Dataset, encoder: CatalogueEncoder) -> float:
    """How far the two ways' embeddings of the first images and their captions lie apart, at worst."""
    indices = range(BATCH)
    tensors = [to_tensor(dataset.image(i, encoder.preprocess.size), encoder.preprocess) for i in indices]
    captions = [caption for i in indices for caption in dataset.captions(i)]
    tokens = encoder.tokenize(captions)
    order = np.argsort([len(ids) for ids in tokens], kind="stable")
    texts = padded(captions, encoder).numpy()
    pieces = [encoder.encode_tokens([tokens[i] for i in piece]) for piece in np.array_split(order, 8)]
    sorted_texts = np.concatenate(pieces)[np.argsort(order, kind="stable")]
    images = [encoder.encode_images(tensors), np.concatenate([encoder.encode_images([t]) for t in tensors])]
    pairs = ((texts, sorted_texts), (images[0], images[1]))
    return max(float(np.linalg.norm(a - b, axis=1).max()) for a, b in pairs)


def main() -> int:
    """Compare, print, and return an exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=450)
    parser.add_argument("--model", default="climp-m1")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument(
        "--workers", type=int, help="decoding processes of climp-bench; default: 0, on a GPU its own default"
    )
    asked = parser.parse_args()
    asked.workers = 0 if asked.workers is None and asked.device == "cpu" else asked.workers
    workers = default_workers(asked.workers, asked.device)
    choice = resolve(asked.model)
    choice = choice if choice.ref else replace(choice, ref=RandomWeights())
    encoder = CatalogueEncoder(choice, device=asked.device, dtype=asked.dtype)
    where = asked.device if asked.device == "cpu" else encoder.gpu
    print(f"{encoder.name} on {where}, {asked.dtype}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder, opened = Path(name), {}
        for copy, images in (("warm", min(WARM, asked.images)), ("copy", asked.images)):
            scenes = TenCaptions("scenes-captions", images)
            copies.write_nocaps(folder / "data" / copy, scenes, rows_a_group=100)  # as datasets writes images
            opened[copy] = open_dataset(copy, [folder / "data"])
        far = apart(opened["warm"], encoder)
        their_way(opened["warm"], encoder)
        our_way(folder / "data", "warm", encoder, folder / "first", workers)
        ahead = len(opened["warm"])
        print(f"embeddings differ by {far:.1e} at most; both ways have run over {ahead} images", flush=True)
        started = time.perf_counter()
        theirs = their_way(opened["copy"], encoder)
        middle = time.perf_counter()
        ours = our_way(folder / "data", "copy", encoder, folder, workers)
        ended = time.perf_counter()
        n_texts = len(captions_of(opened["copy"])[0])
    off = max(abs(ours[metric] - value) for metric, value in theirs.items())
    loop, path = middle - started, ended - middle
    print(f"{asked.images} images, {n_texts} captions: recalls differ by {off:.1e}")
    print(f"loop over climp-bench with intervals and records: {loop / path:.1f}", end="")
    print(f" ({loop:.1f} s and {path:.1f} s)" if asked.device != "cpu" else "")
    share = ", ".join(f"{step} {100 * spent / path:.0f}%" for step, spent in SPENT.items())
    print(f"of climp-bench's time (on a GPU side by side): {share}")
    wrong = far > TOLERANCES[asked.dtype] or (asked.dtype == "float32" and off >= 1.5 / asked.images)
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
