"""A run small enough for every test, and one thread, so that sums are the same bits each time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from climp_bench.train import TrainConfig, micro

TINY: dict[str, Any] = {
    "samples": 48, "batch_size": 8, "pool_size": 24, "held_out": 4, "dense_every": 3, "max_tokens": 64,
    "log_every": 2, "eval_every": 4, "checkpoint_every": 2, "workers": 1, "precision": "fp32",
}  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """One thread of torch, while the test runs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pools that tests share."""
    return tmp_path_factory.mktemp("pool")


@pytest.fixture
def tiny() -> Callable[..., TrainConfig]:
    """Make a configuration of six steps."""

    def make(family: str = "rope-vit", **changes: Any) -> TrainConfig:
        return micro(family, **{**TINY, **changes})

    return make
