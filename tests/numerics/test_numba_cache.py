"""Compiled loops without a folder that could keep them."""

from __future__ import annotations

import importlib.util
from unittest.mock import patch

import pytest
from numba.core import caching

from climp_bench.ops import numba_kernels


@pytest.mark.parametrize("walk", range(4))
def test_where_nothing_can_be_written_they_are_compiled_each_time(walk: int) -> None:
    spec = importlib.util.spec_from_file_location("kernels_again", numba_kernels.__file__)
    again = importlib.util.module_from_spec(spec)
    reason = RuntimeError("cannot cache function: no locator available")
    with patch.object(caching.CacheImpl, "__init__", side_effect=reason) as asked:
        spec.loader.exec_module(again)
    assert asked.called
    for step in (0, 1, 5, 11):
        assert again.place(step, walk, 3, 4) == numba_kernels.place(step, walk, 3, 4)


def test_every_walk_visits_every_pixel_once_and_backwards_is_backwards() -> None:
    height, width = 3, 4
    walks = [[numba_kernels.place(s, k, height, width) for s in range(12)] for k in range(4)]
    assert all(sorted(walk) == list(range(12)) for walk in walks)
    assert walks[0] == list(range(12)) and walks[2] == walks[0][::-1]
    assert walks[1][:4] == [0, 4, 8, 1] and walks[3] == walks[1][::-1]
