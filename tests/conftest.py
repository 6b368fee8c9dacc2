"""Fixtures shared by the suite: small data sets on disk and an encoder without weights."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.fakes import ToyEncoder

Member = tuple[str, bytes]


def png(seed: int, size: tuple[int, int] = (12, 10)) -> bytes:
    """A small random PNG, the same for a seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def write_tar(path: Path, members: Sequence[Member]) -> None:
    """Write members to a tar in order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the user trained or cached does not reach the tests, nor the other way round."""
    monkeypatch.setenv("CLIMP_BENCH_HOME", str(tmp_path_factory.getbasetemp() / "home"))


@pytest.fixture
def make_wds(tmp_path: Path) -> Callable[..., Path]:
    """Make a classification folder in the CLIP-Benchmark layout: 2 shards of 5 images, 3 classes."""

    def make(name: str = "toy", shards: int = 2, per_shard: int = 5, classes: int = 3) -> Path:
        root = tmp_path / "data" / name
        for s in range(shards):
            members: list[Member] = []
            for i in range(s * per_shard, (s + 1) * per_shard):
                members += [(f"s{i:07d}.png", png(i)), (f"s{i:07d}.cls", str(i % classes).encode())]
            write_tar(root / "test" / f"{s}.tar", members)
        (root / "test" / "nshards.txt").write_text(f"{shards}\n")
        (root / "classnames.txt").write_text("".join(f"class {c}\n" for c in range(classes)))
        (root / "zeroshot_classification_templates.txt").write_text("a photo of a {c}.\na {c}.\n")
        return root

    return make


@pytest.fixture
def toy_encoder() -> ToyEncoder:
    """An encoder whose embeddings are simple functions of pixels and characters."""
    return ToyEncoder()
