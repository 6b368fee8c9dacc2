"""The Mamba text towers on this CPU beside transformers' with the same weights: equal first, then timed.

``OMP_WAIT_POLICY=PASSIVE python -m tests.scale.text_on_a_cpu [--width 768] [--layers 24] [--batch 8]``
The command line of climp-bench sets that variable itself: torch's threads otherwise spin after an operator,
on cores that the scans need; transformers is as fast with it as without. Both are float32 on all threads,
without a cache, and take turns. "products" is the time of the linear layers alone, which both have: it bounds
the ratio. Exit code 1 where features differ by more than a thousandth of their norm.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import Mamba2Config as TheirMamba2
from transformers import Mamba2Model, MambaConfig, MambaModel

from climp_bench.models.mamba1 import Mamba1, Mamba1Config
from climp_bench.models.mamba2 import Mamba2, Mamba2Config

VOCABULARY = 1000
LIMIT = 1e-3


def make_mamba1(width: int, layers: int) -> tuple[nn.Module, nn.Module]:
    """Our Mamba-1 tower and transformers'."""
    shape = {"vocab_size": VOCABULARY, "hidden_size": width, "num_hidden_layers": layers, "state_size": 16}
    theirs = MambaModel(MambaConfig(**shape, use_cache=False)).eval()
    ours = Mamba1(Mamba1Config(vocab_size=VOCABULARY, d_model=width, n_layer=layers)).eval()
    return with_their_weights(ours, theirs)


def make_mamba2(width: int, layers: int) -> tuple[nn.Module, nn.Module]:
    """Our Mamba-2 tower and transformers', both with its own chunks of 256."""
    config = Mamba2Config(vocab_size=VOCABULARY, d_model=width, n_layer=layers)
    theirs = Mamba2Model(
        TheirMamba2(
            vocab_size=VOCABULARY,
            hidden_size=width,
            num_hidden_layers=layers,
            state_size=config.d_state,
            head_dim=config.head_dim,
            num_heads=config.n_head,
            n_groups=config.n_groups,
            chunk_size=256,
            use_cache=False,
        )
    ).eval()
    return with_their_weights(Mamba2(config).eval(), theirs)


def with_their_weights(ours: nn.Module, theirs: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Both, with the same weights."""
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


def seconds(run: Callable[[], Tensor]) -> float:
    """Of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def products(tower: nn.Module, batch: int, length: int) -> Callable[[], Tensor]:
    """All linear layers of a tower, each on an input of its own."""
    layers = [module for module in tower.modules() if isinstance(module, nn.Linear)]
    inputs = {width: torch.randn(batch, length, width) for width in {layer.in_features for layer in layers}}

    def run() -> Tensor:
        for layer in layers:
            out = layer(inputs[layer.in_features])
        return out

    return run


@torch.inference_mode()
def compare(name: str, pair: tuple[nn.Module, nn.Module], batch: int, length: int, rounds: int) -> bool:
    """Print a row of the table, and tell whether the towers agree."""
    ours, theirs = pair
    ids = torch.randint(VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(0))

    def our_features() -> Tensor:
        features: Tensor = ours.forward_features(ids)  # type: ignore[operator]
        return features

    def their_features() -> Tensor:
        features: Tensor = theirs(input_ids=ids).last_hidden_state
        return features

    got, expected = our_features(), their_features()
    error = float((got - expected).norm() / expected.norm())
    if not error < LIMIT:
        print(f"{name:8} {length:5}  features differ by {error:.1e} of their norm: not timed")
        return False
    runs = (our_features, their_features, products(ours, batch, length))
    times = [tuple(seconds(run) for run in runs) for _ in range(rounds)]
    mine, their, floor = (statistics.median(column) for column in zip(*times, strict=True))
    ratio = statistics.median(row[1] / row[0] for row in times)
    print(f"{name:8} {length:5} {error:9.0e} {mine:9.2f} {their:9.2f} {floor:9.2f} {ratio:9.1f}", flush=True)
    return True


def main() -> int:
    """Compare, print, and return an exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lengths", default="77,256")
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    print(
        f"width {asked.width}, {asked.layers} layers, batch {asked.batch}, {torch.get_num_threads()} threads"
    )
    print(f"{'tower':8} {'L':>5} {'error':>9} {'ours, s':>9} {'their, s':>9} {'products':>9} {'ratio':>9}")
    agreed = True
    for name, make in (("Mamba-1", make_mamba1), ("Mamba-2", make_mamba2)):
        pair = make(asked.width, asked.layers)
        for length in map(int, asked.lengths.split(",")):
            agreed &= compare(name, pair, asked.batch, length, asked.rounds)
    return 0 if agreed else 1


if __name__ == "__main__":
    raise SystemExit(main())
