"""The check before timing passes what is right and stops what is wrong."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from climp_bench.errors import BackendError, UsageError
from climp_bench.eval.kernel_checks import require_right
from climp_bench.ops import backends, torch_backend, torch_backend_ssd

OPS = ("selective_scan", "ss2d", "ssd")


@pytest.mark.parametrize(
    ("op", "backend"), [(op, b.name) for op in OPS for b in backends(op, "cpu") if b.available]
)
def test_every_backend_here_passes(op: str, backend: str) -> None:
    found = require_right(op, "cpu", backend)
    assert (found.op, found.backend) == (op, backend)
    assert found.values is not None and found.values < 1e-5


@pytest.mark.parametrize(
    ("op", "module"), [("selective_scan", torch_backend), ("ss2d", torch_backend), ("ssd", torch_backend_ssd)]
)
@pytest.mark.parametrize("fault", [1.01, float("nan")])
def test_a_wrong_backend_is_stopped(
    op: str, module: object, fault: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = getattr(module, op)

    def wrong(*args: Tensor, **options: object) -> Tensor:
        result: Tensor = torch.as_tensor(fault) * right(*args, **options)
        return result

    monkeypatch.setattr(module, op, wrong)
    with pytest.raises(BackendError, match=f"{op}: backend 'torch' disagrees"):
        require_right(op, "cpu", "torch")


def test_an_unknown_op() -> None:
    with pytest.raises(UsageError, match="ss2d"):
        require_right("ss2e", "cpu")
