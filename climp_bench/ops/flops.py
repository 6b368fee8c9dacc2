"""What the ops cost: closed formulas, and a collector that the ``meta`` backend reports to.

Two conventions, never mixed:

- **MACs**: a multiply-add counts once. It is what papers and fvcore call FLOPs.
- **FLOPs**: a multiply and an add count one each, so a multiply-add counts twice.

A scan is not made of multiply-adds alone. The convention of the Mamba and VMamba authors
(github.com/state-spaces/mamba/issues/110) takes 9 operations a (position, channel, state). A work-efficient
parallel scan combines 2 L pairs (a, b), (c, d) into (c a, c b + d), 3 operations each, which makes 6; the
authors do not spell out the other 3, which ``delta A``, ``(delta u) B`` and applying C account for. VMamba's
figures add the 9 to multiply-adds as they are, and so do the MACs here, to compare with published figures;
being single operations they are the same 9 in FLOPs, not 18. As everywhere in these counts, exponentials,
softplus, biases and SiLU count nothing.

Axis letters: see ``climp_bench.specs``; E is the channels of ss2d, H and P are the heads of ssd and their
channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

SCAN_OPERATIONS = 9
"""Single operations of a selective scan for each position, channel and state."""


@dataclass(frozen=True)
class Cost:
    """Work in both conventions: see the module's docstring."""

    macs: int = 0
    flops: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.macs + other.macs, self.flops + other.flops)


def multiply_adds(count: int) -> Cost:
    """``count`` multiply-adds."""
    return Cost(count, 2 * count)


def single_operations(count: int) -> Cost:
    """``count`` operations that are not the half of a multiply-add, each counted once in both conventions."""
    return Cost(count, count)


def selective_scan_cost(*, batch: int, length: int, channels: int, state: int, gated: bool) -> Cost:
    """``9 B L D N`` operations of the scan and ``B L D`` multiply-adds of the skip connection ``D u``.

    Args:
        batch, length, channels, state: B, L, D, N.
        gated: whether the output is multiplied by a gate, ``B L D`` operations more.
    """
    elements = batch * length * channels
    scan = single_operations(SCAN_OPERATIONS * elements * state)
    return scan + multiply_adds(elements) + single_operations(elements if gated else 0)


def ss2d_cost(*, batch: int, pixels: int, channels: int, state: int, rank: int, directions: int) -> Cost:
    """For each direction a selective scan over all pixels and ``B L E R`` multiply-adds for the step sizes.

    Putting the directions together counts nothing, as in VMamba's own count.

    Args:
        batch, pixels, channels, state, rank: B, L = H W, E, N, R.
        directions: K.
    """
    scan = selective_scan_cost(
        batch=directions * batch, length=pixels, channels=channels, state=state, gated=False
    )
    return scan + multiply_adds(directions * batch * pixels * channels * rank)


def ssd_cost(
    *, batch: int, length: int, heads: int, channels: int, groups: int, state: int, chunk_size: int
) -> Cost:
    """The block decomposition of Dao and Gu (2024), section 6: c chunks of Q = min(chunk_size, L).

    All are multiply-adds of matrix products, for each batch entry:

    - ``c Q^2 G N``: scores ``C B^T`` within chunks, once a group;
    - ``c Q^2 H P``: the masked scores times x;
    - with more than one chunk ``c Q H P N``: the state that each chunk writes;
    - and ``(c - 1) H P N``: the recurrence from chunk to chunk;
    - and ``c Q H P N``: the states that enter the chunks, times C;
    - ``L H P``: the skip connection.

    Scores count as full squares, as those of causal attention do. A last chunk that is not full is padded and
    counts in full. Forming and applying the decays is elementwise and counts nothing, like a softmax.

    Args:
        batch, length, heads, channels, groups, state: B, L, H, P, G, N.
        chunk_size: as given to the op.
    """
    size = min(chunk_size, length)
    chunks = -(-length // size)
    within = chunks * size**2 * (groups * state + heads * channels)
    across = (2 * chunks * size + chunks - 1) * heads * channels * state if chunks > 1 else 0
    return multiply_adds(batch * (within + across + length * heads * channels))


_collected: ContextVar[dict[str, Cost] | None] = ContextVar("collected", default=None)


@contextmanager
def counting() -> Iterator[dict[str, Cost]]:
    """Collect what the ops of this context cost on the meta device, by name of the op.

    Of nested ones the innermost collects.
    """
    collected: dict[str, Cost] = {}
    token = _collected.set(collected)
    try:
        yield collected
    finally:
        _collected.reset(token)


def report(op: str, cost: Cost) -> None:
    """Add ``cost`` to what the surrounding ``counting`` collects for ``op``; outside one nothing happens."""
    collected = _collected.get()
    if collected is not None:
        collected[op] = collected.get(op, Cost()) + cost
