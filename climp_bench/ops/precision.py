"""How exact a GPU's products of float32 matrices are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch


@contextmanager
def float32_products(precision: Literal["highest", "high"]) -> Iterator[None]:
    """Inside, products of float32 are in float32 (``highest``) or may be in TF32 (``high``).

    The setting is the process's, all threads; what was set before comes back.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
