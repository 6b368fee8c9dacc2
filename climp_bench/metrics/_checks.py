"""The domain checks that the metrics share. Each returns its input as an array or raises ``MetricError``."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from climp_bench.errors import MetricError

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Float32s = NDArray[np.float32]
Floats = NDArray[Any]


def real(name: str, values: ArrayLike, ndim: int) -> Floats:
    """A non-empty, finite, real array of ``ndim`` dimensions; float32 and float64 keep their type."""
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise MetricError(f"expected real numbers, got dtype {array.dtype}", where=name)
    if array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float32 if array.dtype == np.float16 else np.float64)
    _shape(name, array, ndim)
    if not np.isfinite(array).all():
        raise MetricError(
            f"{np.count_nonzero(~np.isfinite(array))} of {array.size} values are NaN or infinite",
            where=name,
            remedy="Find the samples whose embedding or score broke; a metric does not skip them.",
        )
    return array


def integers(name: str, values: ArrayLike, ndim: int = 1) -> Ints:
    """A non-empty array of integers (floats are refused even where they are whole)."""
    array = np.asarray(values)
    if array.size and array.dtype.kind not in "iu":
        raise MetricError(f"expected integers, got dtype {array.dtype}", where=name)
    _shape(name, array, ndim)
    return array.astype(np.int64)


def indices(name: str, values: ArrayLike, count: int) -> Ints:
    """A non-empty array (any length) of integers in ``[0, count)``."""
    array = integers(name, values)
    if array.min() < 0 or array.max() >= count:
        raise MetricError(f"values span [{array.min()}, {array.max()}], outside [0, {count})", where=name)
    return array


def flags(name: str, values: ArrayLike, ndim: int = 1) -> Bools:
    """A non-empty array of booleans; 0 and 1 are accepted."""
    array = np.asarray(values)
    _shape(name, array, ndim)
    if array.dtype != np.bool_ and not np.isin(array, (0, 1)).all():
        raise MetricError("expected booleans or 0 and 1", where=name)
    return array.astype(np.bool_)


def same_length(**arrays: Floats) -> None:
    """All arrays agree on their first axis."""
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise MetricError("lengths differ: " + ", ".join(f"{name} has {n}" for name, n in lengths.items()))


def same_width(**arrays: Floats) -> None:
    """All arrays agree on their second axis."""
    widths = {name: array.shape[1] for name, array in arrays.items()}
    if len(set(widths.values())) > 1:
        raise MetricError("widths differ: " + ", ".join(f"{name} has {n}" for name, n in widths.items()))


def positive(name: str, value: int) -> None:
    """``value`` is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise MetricError(f"must be a whole number of at least 1, got {value!r}", where=name)


def _shape(name: str, array: Floats, ndim: int) -> None:
    if array.ndim != ndim:
        raise MetricError(f"expected {ndim} dimension(s), got shape {array.shape}", where=name)
    if array.size == 0:
        raise MetricError(f"is empty (shape {array.shape})", where=name, remedy="There is nothing to score.")
