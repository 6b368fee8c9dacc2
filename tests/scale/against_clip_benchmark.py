"""climp-bench and CLIP_benchmark's own loops side by side: same model objects, same files, equal scores.

``python -m tests.scale.against_clip_benchmark [--classes 1000] [--sets 10] [--images 500] [--device cuda]``

1. The zero-shot classifier of ImageNet, its class names and 80 templates from the installed clip-benchmark.
   ``--scale base --dtype bfloat16`` takes the towers of the paper, with initial weights.
2. Five micro models on local webdataset folders (drawn scenes as JPEG files, four shards each).

Left out on both sides: starting Python, loading weights, and compiling kernels, by a first round over a few
classes and a set of its own. CLIP_benchmark's command line loads weights again for every model and data set.
It loads images in ``--loaders`` processes: on a GPU by default four, as its own command line does, on a
CPU none, which is faster there. Embeddings go to the CPU and back on its side, a few kilobytes a batch. Both
sides run with torch's own settings.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import clip_benchmark
import numpy as np
import torch
from clip_benchmark.metrics import zeroshot_classification
from PIL import Image

from climp_bench.data.catalogue import open_dataset
from climp_bench.embed.extract import embed_texts
from climp_bench.metrics.classification import prompt_weights
from climp_bench.models.adapters import CatalogueEncoder, pick_device
from climp_bench.models.weights import RandomWeights, resolve
from climp_bench.ranks import split
from climp_bench.run.execute import execute
from climp_bench.run.plan import Settings, make_plan
from climp_bench.suite.schema import Suite
from tests.conftest import write_tar
from tests.scale.against_the_authors_loop import TOLERANCES
from tests.unit.run.test_clip_benchmark_parity import Tokens, Wrapped, clip_benchmark_scores
from tests.unit.run.test_execute import Listener

FAMILIES = ("climp-m1", "climp-m2", "rope-vit", "flexivit", "naflexvit")
_NAMES = (
    "colour",
    "shape",
    "texture",
    "count",
    "position",
    "digit",
    "letter",
    "shape-v2",
    "shape-r",
    "shape-a",
)
SHARDS = 4
WARM_CLASSES = 50
WARM = "jpeg-warm"
TASKS = tuple(f"scenes-{name}" for name in _NAMES)


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds and result; what the function prints to stderr (bars) is dropped."""
    with contextlib.redirect_stderr(io.StringIO()):
        started = time.perf_counter()
        result = function()
        return time.perf_counter() - started, result


def imagenet_prompts(classes: int) -> tuple[list[str], list[str]]:
    """The first ``classes`` names of ImageNet and its 80 templates, as CLIP_benchmark has them."""
    folder = Path(clip_benchmark.__file__).parent / "datasets"
    names = json.loads((folder / "en_classnames.json").read_text())["imagenet1k"]
    templates = json.loads((folder / "en_zeroshot_classification_templates.json").read_text())["imagenet1k"]
    return names[:classes], templates


def encoder_of(name: str, device: str, dtype: str) -> CatalogueEncoder:
    """A model with its stored weights; initial ones where it has none."""
    choice = resolve(name)
    return CatalogueEncoder(choice if choice.ref else replace(choice, ref=RandomWeights()), device, dtype)


def compare_classifiers(models: Sequence[str], classes: int, device: str, dtype: str) -> None:
    """Time the classifier of each model; print a line each."""
    names, templates = imagenet_prompts(classes)
    prompts = [template.format(c=name) for name in names for template in templates]
    owner = np.repeat(np.arange(len(names)), len(templates))
    print(f"\n{classes} classes x {len(templates)} prompts, {len(set(prompts)):,} distinct")
    print("| model | CLIP_benchmark, s | climp-bench, s | ratio | largest distance |")
    print("|---|--:|--:|--:|--:|")
    for model in models:
        encoder = encoder_of(model, device, dtype)

        def theirs_of(classes: list[str], encoder: CatalogueEncoder = encoder) -> torch.Tensor:
            return zeroshot_classification.zero_shot_classifier(
                Wrapped(encoder), Tokens, classes, templates, device, amp=False
            )

        def ours_of(n: int, encoder: CatalogueEncoder = encoder) -> np.ndarray:
            with tempfile.TemporaryDirectory() as cache:
                rows = embed_texts(prompts[: n * len(templates)], encoder, Path(cache)).rows
            return prompt_weights(rows, owner[: len(rows)], n)

        few = min(WARM_CLASSES, len(names))
        theirs_of(names[:few]), ours_of(few)
        theirs_s, theirs = timed(partial(theirs_of, names))
        ours_s, ours = timed(partial(ours_of, len(names)))
        off = float(np.linalg.norm(theirs.cpu().numpy() - ours, axis=0).max())
        ratio = theirs_s / ours_s
        print(f"| {model} | {theirs_s:.2f} | {ours_s:.2f} | {ratio:.2f} | {off:.1e} |", flush=True)
        if off > TOLERANCES[dtype]:
            raise SystemExit(f"{model}: the classifiers differ by {off}")


def write_set(task: str, images: int, side: int, folder: Path) -> None:
    """A task of the scenes world as a webdataset folder of JPEG files."""
    dataset, members = open_dataset(task, (), images), []
    for i in range(images):
        content = io.BytesIO()
        Image.fromarray(dataset.image(i, (side, side))).save(content, "JPEG", quality=90)
        members += [(f"s{i:07d}.jpg", content.getvalue()), (f"s{i:07d}.cls", str(dataset.label(i)).encode())]
    for k, shard in enumerate(split(range(images), SHARDS)):
        write_tar(folder / f"test/{k}.tar", [member for i in shard for member in members[2 * i : 2 * i + 2]])
    (folder / "test/nshards.txt").write_text(f"{SHARDS}\n")
    (folder / "classnames.txt").write_text("".join(f"{name}\n" for name in dataset.classes))
    lines = "".join(f"{template}\n" for template in dataset.templates)
    (folder / "zeroshot_classification_templates.txt").write_text(lines)


def compare_suites(
    families: Sequence[str], sets: int, images: int, side: int, device: str, loaders: int
) -> None:
    """Time all models on all folders: CLIP_benchmark, ours, ours again from the cache."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for task in TASKS[:sets]:
            write_set(task, images, side, folder / "data" / f"jpeg-{task}")
        roots = sorted((folder / "data").iterdir())
        write_set(TASKS[0], images, side, folder / "data" / WARM)
        encoders = [encoder_of(family, device, "float32") for family in families]

        def ours(
            out: str, names: Sequence[str], cache: str = "cache"
        ) -> dict[tuple[str, str, str], float | None]:
            tasks = [{"dataset": name} for name in names]
            suite = Suite.model_validate({"schema": 1, "name": "sets", "task": tasks})
            settings = Settings(
                out=folder / out, cache=folder / cache, data_roots=(folder / "data",),
                workers=max(0, min(4, (os.cpu_count() or 1) - 1)),
            )  # fmt: skip
            done = execute(make_plan(encoders, [suite]), settings, Listener())
            return {(r.model.family, r.task, r.metric): r.value for r in done.records}

        def theirs(folders: Sequence[Path]) -> dict[tuple[str, str, str], float]:
            return {
                (encoder.family, root.name, metric): value
                for encoder in encoders
                for root in folders
                for metric, value in clip_benchmark_scores(root, encoder, loaders).items()
            }

        timed(partial(ours, "warm", [WARM], "warm-cache"))
        timed(partial(theirs, [folder / "data" / WARM]))
        names = [root.name for root in roots]
        first_s, first = timed(partial(ours, "a", names))
        again_s, again = timed(partial(ours, "b", names))
        reused_s, reused = timed(partial(ours, "a", names))
        theirs_s, wanted = timed(partial(theirs, roots))
    off = max(abs(value - (first[key] or 0.0)) for key, value in wanted.items() if np.isfinite(value))
    print(f"\n{len(families)} models x {sets} sets of {images} JPEG images of {side} px;", end=" ")
    print(f"largest difference {off:.1e}")
    print("| | s | CLIP_benchmark takes |\n|---|--:|--:|")
    print(f"| CLIP_benchmark | {theirs_s:.1f} | |")
    for label, seconds in (("first time", first_s), ("scored again from the cache of embeddings", again_s),
                           ("asked again: records reused", reused_s)):  # fmt: skip
        print(f"| climp-bench, {label} | {seconds:.2f} | {theirs_s / seconds:.1f} times as long |")
    # On a GPU sums depend on the batch, and one image of a set may change sides.
    allowed = 1e-4 if device == "cpu" else 1.5 / images
    if off > allowed or first != again or first != reused:
        raise SystemExit("scores differ")


def main() -> None:
    """Both comparisons, as Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--classes", type=int, default=1000, help="of ImageNet; 0 leaves the classifier out")
    parser.add_argument("--sets", type=int, default=10, help="data sets, at most 10; 0 leaves the suite out")
    parser.add_argument("--images", type=int, default=300, help="in each set")
    parser.add_argument("--side", type=int, default=256, help="of a JPEG image, in pixels")
    parser.add_argument(
        "--model", action="append", choices=FAMILIES, help="repeat for more; default: all five"
    )
    parser.add_argument("--scale", default="micro", help="of the models whose classifier is made")
    parser.add_argument("--dtype", default="float32", choices=TOLERANCES, help="of the same")
    parser.add_argument("--device", default="cpu", help="auto, cpu or cuda")
    parser.add_argument("--loaders", type=int, help="loading processes of CLIP_benchmark, at most 4")
    asked = parser.parse_args()
    device = pick_device(asked.device)
    loaders = asked.loaders if asked.loaders is not None else 0 if device == "cpu" else SHARDS
    # CLIP_benchmark 1.6.2 calls float() on arrays of one element, which numpy 2.4 refuses; let it.
    zeroshot_classification.float = lambda value: np.asarray(value).item()
    families = asked.model or FAMILIES
    where = f"{torch.get_num_threads()} threads" if device == "cpu" else torch.cuda.get_device_name()
    print(f"torch {torch.__version__}, {where}, CLIP_benchmark loads in {loaders} processes")
    if asked.classes:
        models = [f"{family}@{asked.scale}" for family in families]
        compare_classifiers(models, asked.classes, device, asked.dtype)
    if asked.sets:
        compare_suites(families, asked.sets, asked.images, asked.side, device, loaders)


if __name__ == "__main__":
    main()
