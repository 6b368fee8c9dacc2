"""The references themselves, against closed forms and symmetries that do not share their loops."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from climp_bench.ops import reference, selective_scan, ss2d, ssd


def test_an_impulse_decays_geometrically() -> None:
    u = torch.zeros(1, 6, 1, dtype=torch.float64)
    u[0, 1] = 2.0
    ones = torch.ones(1, 6, 1, dtype=torch.float64)
    y = reference.selective_scan(
        u,
        0.5 * ones,
        torch.tensor([[-1.0]]),
        3.0 * ones,
        5.0 * ones,
        torch.tensor([7.0]),
        delta_softplus=False,
    )
    expected = [0.0, *(5 * 0.5 * 3 * 2 * math.exp(-0.5 * t) for t in range(5))]
    expected[1] += 7 * 2
    assert y[0, :, 0].tolist() == pytest.approx(expected, rel=1e-12)


def test_bias_softplus_and_gate_are_applied_where_they_belong() -> None:
    # One position: y = (softplus(delta + bias) B C u + D u) silu(z).
    def one(value: float) -> Tensor:
        return torch.full((1, 1, 1), value, dtype=torch.float64)

    y = reference.selective_scan(
        one(1.5),
        one(0.3),
        torch.tensor([[-2.0]]),
        one(0.7),
        one(-1.1),
        torch.tensor([0.4], dtype=torch.float64),
        delta_bias_D=torch.tensor([0.2], dtype=torch.float64),
        z_BLD=one(0.9),
    )
    step = math.log1p(math.exp(0.3 + 0.2))
    expected = (step * 0.7 * -1.1 * 1.5 + 0.4 * 1.5) * 0.9 / (1 + math.exp(-0.9))
    assert y.item() == pytest.approx(expected, rel=1e-12)


def test_ssd_is_a_selective_scan_with_one_decay_a_head() -> None:
    torch.manual_seed(0)
    x, dt, A, D = torch.randn(2, 7, 4, 3), torch.rand(2, 7, 4), -torch.rand(4), torch.randn(4)
    B, C = torch.randn(2, 7, 2, 5), torch.randn(2, 7, 2, 5)
    y = ssd(x, dt, A, B, C, D, chunk_size=4, backend="reference")
    for head in range(4):
        group = head // 2
        alone = selective_scan(
            x[:, :, head],
            dt[:, :, head, None].expand(-1, -1, 3),
            A[head].expand(3, 5),
            B[:, :, group],
            C[:, :, group],
            D[head].expand(3),
            delta_softplus=False,
            backend="reference",
        )
        torch.testing.assert_close(y[:, :, head], alone)


@pytest.mark.parametrize(
    ("directions", "move"),
    [
        pytest.param(
            [1, 0, 3, 2], lambda t: t.transpose(1, 2), id="transposed, rows and columns trade places"
        ),
        pytest.param(
            [2, 3, 0, 1], lambda t: t.flip(1, 2), id="half turn, forwards and backwards trade places"
        ),
    ],
)
def test_ss2d_follows_the_image(directions: list[int], move: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    x, x_dbl = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 5, 4, 2 + 2 * 3)
    parameters = (torch.randn(4, 4, 2), torch.randn(4, 4), torch.randn(4, 4, 3), torch.randn(4, 4))
    y = ss2d(x, x_dbl, *parameters, backend="reference")
    turned = (move(x), move(x_dbl)[:, :, :, directions], *(p[directions] for p in parameters))
    torch.testing.assert_close(ss2d(*turned, backend="reference"), move(y))


def test_ss2d_on_one_row_is_a_scan_each_way_twice() -> None:
    torch.manual_seed(0)
    x, x_dbl = torch.randn(1, 1, 6, 2), torch.randn(1, 1, 6, 4, 1 + 2)
    weight, bias, A_logs, D = torch.randn(4, 2, 1), torch.randn(4, 2), torch.randn(4, 2, 1), torch.randn(4, 2)
    expected = torch.zeros(1, 6, 2)
    for k, flips in enumerate(([], [], [1], [1])):
        low, B, C = x_dbl[:, 0, :, k].flip(flips).unbind(-1)
        y = selective_scan(
            x[:, 0].flip(flips),
            low[..., None] @ weight[k].T,
            -A_logs[k].exp(),
            B[..., None],
            C[..., None],
            D[k],
            delta_bias_D=bias[k],
            backend="reference",
        )
        expected += y.flip(flips)
    y_BHWE = ss2d(x, x_dbl, weight, bias, A_logs, D, backend="reference")
    torch.testing.assert_close(y_BHWE[:, 0], expected)
