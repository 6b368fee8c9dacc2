"""Options that several commands share, declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        "-m",
        help="FAMILY[@SCALE], open_clip:ARCH/PRETRAINED or hf:REPO; repeat for more. Default: all five.",
    ),
]
Scale = Annotated[
    str | None,
    typer.Option("--scale", help="Scale of every --model that names none: micro, base, ..."),
]
Suites = Annotated[
    list[str] | None,
    typer.Option("--suite", "-s", help="Suite by name or path of a TOML file; repeat for more."),
]
DataRoots = Annotated[
    list[Path] | None,
    typer.Option("--data-root", help="Folder that holds data sets as subfolders; repeat for more."),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for records and tables.")]
Cache = Annotated[
    Path | None,
    typer.Option("--cache", help="Folder for embeddings. Default: the user's cache folder."),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
DType = Annotated[str, typer.Option("--dtype", help="float32, bfloat16 or float16 (under autocast).")]
Backend = Annotated[
    str,
    typer.Option(
        "--backend",
        help="Backend of the state-space operators: NAME for all, or ss2d=NAME,selective_scan=NAME,ssd=NAME.",
    ),
]
Fresh = Annotated[
    bool,
    typer.Option("--fresh/--resume", help="Measure everything again / reuse records of an equal run."),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=0,
        help="Processes that decode images. Default: cores - 1, at most 4, for a GPU 16.",
    ),
]
SkipCorrupt = Annotated[
    bool,
    typer.Option("--skip-corrupt", help="Leave out and count images that do not decode. Default: an error."),
]
RankTimeout = Annotated[
    float,
    typer.Option(
        "--rank-timeout",
        min=1,
        help="Under torchrun: seconds of silence after which another process counts as lost.",
    ),
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of the bootstrap intervals.")]
Retrain = Annotated[
    bool, typer.Option("--retrain", help="Train the models here first, even if weights are there.")
]
Weights = Annotated[
    str | None,
    typer.Option("--weights", help="Weights of the one --model: PATH, or hf:REPO, in place of stored ones."),
]
TokenizerFile = Annotated[
    Path | None, typer.Option("--tokenizer", help="The tokenizer.json that goes with those weights.")
]
RandomWeights = Annotated[
    bool, typer.Option("--random-weights", help="Initial weights where there are none; scores mean nothing.")
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Only say what would be run, fetched and reused; write nothing."),
]
Offline = Annotated[bool, typer.Option("--offline", help="Never ask the network; use what is here.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout instead of tables.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no notes.")]


def default_workers(asked: int | None, device: str) -> int:
    """Decoding processes: as asked, else one less than this process's part of the cores, but not too many.

    At most four beside a CPU that encodes, 16 for a GPU, which waits for images otherwise.

    Raises:
        BackendError: there is no such device.
    """
    import os

    from climp_bench.models.adapters import pick_device
    from climp_bench.ranks import place

    if asked is not None:
        return asked
    cores = (os.cpu_count() or 1) // place().local_size
    return max(0, min(4 if pick_device(device) == "cpu" else 16, cores - 1))
