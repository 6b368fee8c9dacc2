"""Collects the provenance of a run: code, packages, host, device. Imports none of the packages it names."""

from __future__ import annotations

import functools
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

import climp_bench
from climp_bench.results.schema import Provenance

PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "pillow",
    "timm",
    "transformers",
    "tokenizers",
    "open_clip_torch",
    "clip-benchmark",
    "datasets",
    "webdataset",
    "safetensors",
    "scikit-learn",
    "numba",
    "triton",
    "mamba-ssm",
    "causal-conv1d",
)
"""Distributions whose version can shape a score; those not installed are left out of the record."""


def collect(
    *,
    device: str,
    dtype: str,
    seed: int,
    gpu: str | None = None,
    backends: Mapping[str, str] | None = None,
    cache_hit: bool | None = None,
    started_at: datetime | None = None,
    argv: Sequence[str] | None = None,
) -> Provenance:
    """The provenance of a run on this host, now.

    Args:
        device: as torch names it; any but ``cpu`` needs ``gpu``.
        dtype: precision of the encoders, such as ``float32``.
        seed: of everything random in the evaluation.
        gpu: the accelerator's name, as ``torch.cuda.get_device_name`` gives it (this room has no torch).
        backends: the backend that actually ran, by op.
        cache_hit: whether the embeddings came from the cache.
        started_at: an aware time; now if left out.
        argv: the command line; this process's own if left out. Its first word is cut to the file's name.

    Raises:
        pydantic.ValidationError: an accelerator without a name, or a time without a zone.
    """
    words = list(sys.argv if argv is None else argv)
    commit, dirty = _revision(Path(climp_bench.__file__).resolve().parents[1])
    return Provenance(
        climp_bench=climp_bench.__version__,
        git_commit=commit,
        git_dirty=dirty,
        python=platform.python_version(),
        packages=dict(_packages()),
        platform=platform.platform(),
        cpu=_cpu(),
        gpu=gpu,
        device=device,
        dtype=dtype,
        backends=dict(backends or {}),
        seed=seed,
        started_at=started_at or datetime.now(timezone.utc),
        argv=(Path(words[0]).name, *words[1:]) if words else (),
        cache_hit=cache_hit,
    )


@functools.cache
def _packages() -> tuple[tuple[str, str], ...]:
    found = []
    for name in PACKAGES:
        try:
            found.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            continue
    return tuple(found)


@functools.cache
def _revision(root: Path) -> tuple[str | None, bool | None]:
    """Commit and dirty flag of the checkout at ``root`` (as at first call: the code that was loaded)."""
    if not (root / ".git").exists():
        return None, None
    commit = _git(root, "rev-parse", "HEAD")
    changes = _git(root, "status", "--porcelain", "--untracked-files=no")
    return commit, None if changes is None else bool(changes)


def _git(root: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(("git", "-C", str(root), *words), capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


@functools.cache
def _cpu() -> str:
    """The processor's own name where Linux tells it, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine() or "unknown"
