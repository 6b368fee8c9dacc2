"""The power tables of docs/comparing.md, computed and simulated: python -m tests.docs.power"""

from __future__ import annotations

from functools import cache

import numpy as np

from climp_bench.metrics.paired import Pairs, detectable, mcnemar

SIZES = (300, 1000, 5000, 50_000)
DISAGREEMENTS = (0.05, 0.1, 0.2, 0.4)
SIMULATIONS = 2000
START, END = "<!-- power:start -->", "<!-- power:end -->"


def pairs(n: int, gained: int, lost: int) -> Pairs:
    """Independent samples of which so many changed."""
    totals = np.repeat([1, -1, 0], [gained, lost, n - gained - lost])
    return Pairs(n, lost, gained, gained, lost, totals, np.ones(n, np.int64))


@cache
def p_value(gained: int, lost: int) -> float:
    return mcnemar(gained, lost)


def power(n: int, disagreement: float, difference: float) -> float:
    """The share of simulated comparisons with p < 0.05; both as shares of the samples."""
    rng = np.random.default_rng(0)
    shares = [(disagreement + difference) / 2, (disagreement - difference) / 2, 1 - disagreement]
    drawn = rng.multinomial(n, shares, SIMULATIONS)
    return float(np.mean([p_value(int(gained), int(lost)) < 0.05 for gained, lost, _ in drawn]))


def render() -> str:
    """Both tables as Markdown."""
    lines = ["| samples | " + " | ".join(f"{d:.0%} disagree" for d in DISAGREEMENTS) + " |"]
    lines.append("| --: | " + " | ".join("--:" for _ in DISAGREEMENTS) + " |")
    for n in SIZES:
        halves = [round(n * d / 2) for d in DISAGREEMENTS]
        cells = [f"{100 * detectable(pairs(n, half, half)):.1f}" for half in halves]
        lines.append(f"| {n:,} | " + " | ".join(cells) + " |")
    differences = [0.0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06]
    lines += ["", "| true difference, points | " + " | ".join(f"{100 * d:.0f}" for d in differences) + " |"]
    lines.append("| --: | " + " | ".join("--:" for _ in differences) + " |")
    found = " | ".join(f"{power(1000, 0.2, d):.0%}" for d in differences)
    lines.append(f"| found (p < 0.05) | {found} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(render(), end="")
