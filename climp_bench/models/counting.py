"""What one image and one text cost, from shapes alone: towers run on the meta device, nothing is allocated.

Counted are matrix products, convolutions, products of attention (the full square, causal or not) and the
scans of ``climp_bench.ops`` (by ``climp_bench.ops.flops``, which also tells MACs from FLOPs). By the
convention of fvcore and of the papers, whatever takes a few operations an element counts nothing: elementwise
functions, norms, softmax, means, look-ups, copies. (fvcore does count layer norms, 0.4% of a VMamba.) Any
other operator that runs is named in ``TowerCost.unsupported``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from climp_bench.errors import UsageError
from climp_bench.models.catalogue import build_tower, count_parameters
from climp_bench.models.spec import ModelSpec
from climp_bench.ops.flops import Cost, counting

_FREE = {
    # creation, copies, look-ups
    *("prim.device", "aten.arange", "aten.scalar_tensor", "aten.new_ones", "aten.new_zeros"),
    *("aten.ones", "aten.zeros", "aten.full", "aten.empty", "aten.empty_like", "aten._to_copy"),
    *("aten._unsafe_view", "aten.cat", "aten.stack", "aten.constant_pad_nd", "aten.index", "aten.embedding"),
    # a few operations an element
    *("aten.mean", "aten.sum", "aten.cumsum", "aten._softmax", "aten._safe_softmax"),
    *("aten.native_layer_norm", "aten._fused_rms_norm"),
}
"""Operators that count nothing by convention, besides views and those that torch tags as pointwise."""


@dataclass(frozen=True)
class TowerCost:
    """What a tower costs for one input. Its projection into the shared space is not part of it.

    Attributes:
        params: number of parameters.
        macs: multiply-adds, each counted once: what papers print as FLOPs.
        flops: the same with the multiply and the add counted separately.
        by_operator: the parts that add up to ``macs`` and ``flops``, by name: ``aten.*`` for torch's
            operators, ``ss2d``, ``selective_scan`` and ``ssd`` for ours.
        unsupported: operators that ran and are neither counted nor free by convention; if there are any, the
            counts are lower bounds. Resampling a position table is the usual one, and small.
    """

    params: int
    macs: int
    flops: int
    by_operator: Mapping[str, Cost]
    unsupported: tuple[str, ...]


@dataclass(frozen=True)
class TowerCounts:
    """The costs of both towers of a model."""

    image: TowerCost
    text: TowerCost


def count(spec: ModelSpec, image_size: tuple[int, int] = (224, 224), text_length: int = 77) -> TowerCounts:
    """Count parameters, MACs and FLOPs of both towers for one image and one text, in inference.

    Args:
        spec: the model.
        image_size: height and width in pixels.
        text_length: tokens.

    Raises:
        UsageError: see ``count_image`` and ``count_text``.
    """
    return TowerCounts(count_image(spec.image, image_size), count_text(spec.text, text_length))


def count_image(config: Any, size: tuple[int, int] = (224, 224)) -> TowerCost:
    """Count the image tower of ``config`` for one image of ``size``, height and width in pixels.

    Raises:
        UsageError: a side is not positive, or the tower cannot take such an image; no tower is registered.
    """
    height, width = size
    _check_positive("an image", min(size), f"{height}x{width} pixels")
    with torch.device("meta"):
        image_BCHW = torch.empty(1, 3, height, width)
    return _cost(config, image_BCHW)


def count_text(config: Any, length: int = 77) -> TowerCost:
    """Count the text tower of ``config`` for one text of ``length`` tokens.

    Raises:
        UsageError: the length is not positive; no tower is registered.
    """
    _check_positive("a text", length, f"{length} tokens")
    with torch.device("meta"):
        ids_BL = torch.empty(1, length, dtype=torch.int64)
        lengths_B = torch.empty(1, dtype=torch.int64)
    return _cost(config, ids_BL, lengths_B)


def _check_positive(what: str, smallest: int, size: str) -> None:
    if smallest < 1:
        raise UsageError(f"{what} cannot have {size}", remedy="Give positive sizes.")


def _cost(config: Any, *inputs: Tensor) -> TowerCost:
    """Run the tower of ``config`` on the meta device and add up what was counted."""
    meta, seen, counter = torch.device("meta"), _Seen(), FlopCounterMode(display=False)
    with meta:
        tower = build_tower(config).eval()
    # Fake besides meta: transformers looks at values of a mask of its own, unless its tensors are fake.
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with torch.no_grad(), fake, meta, counting() as scans, seen, counter:
        tower(*inputs)
    products = counter.get_flop_counts()["Global"]
    by_operator = {str(op): Cost(flops // 2, flops) for op, flops in products.items()} | scans
    total = sum(by_operator.values(), Cost())
    return TowerCost(count_parameters(tower), total.macs, total.flops, by_operator, seen.unsupported())


class _Seen(TorchDispatchMode):
    """Notes the operators that run, leaving out views and pointwise ones."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operators: set[Any] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not (func.is_view or torch.Tag.pointwise in func.tags):
            self.operators.add(func.overloadpacket)
        return func(*args, **(kwargs or {}))

    def unsupported(self) -> tuple[str, ...]:
        """Names of those that are neither counted nor free."""
        return tuple(sorted({str(op) for op in self.operators - flop_registry.keys()} - _FREE))
