"""Charts of a joint space, from the sketches that ``geometry`` leaves beside its records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate

from climp_bench.report.document import Chart
from climp_bench.report.svg import Axis, Panel
from climp_bench.results import RunRecord
from climp_bench.results.pictures import Sketch

_JOINED = 40
_Drawn = tuple[str, int, int]
NO_SKETCH = (
    "Similarity histograms, hub occurrence and the projection need the sketch that `climp-bench geometry` "
    "leaves beside its records; these were stored without: run it again with --fresh."
)


def space_charts(
    key: str, title: str, sketches: Mapping[str, Sketch], records: Sequence[RunRecord]
) -> Iterator[Chart]:
    """Four charts of one captioned set.

    Args:
        key, title: of the set.
        sketches: by model; where there is none the charts say what they need.
        records: of geometry on this set.
    """
    models = tuple(sorted({r.model.name for r in records if r.value is not None}))
    if models:
        yield Chart(
            f"{key}-plane", f"{title}: alignment and uniformity", _plane(models, records), models,
            "Towards the lower left pairs are closer and embeddings more even.",
        )  # fmt: skip
    if not sketches:
        yield Chart(f"{key}-sketch", f"{title}: similarities, hubs, projection", absent=NO_SKETCH)
        return
    some = next(iter(sketches.values()))
    counted = f"{some.images:,} images and {some.texts:,} texts"
    yield Chart(
        f"{key}-similarity", f"{title}: similarity of matched and unmatched pairs",
        tuple(_similarity(sketches)), ("matched pairs", "unmatched pairs"),
        f"Share of the pairs by cosine, each kind by itself; {counted}. A matched pair is an image "
        "and one of its own texts.",
    )  # fmt: skip
    yield Chart(
        f"{key}-hubs", f"{title}: hubs", tuple(_hubs(sketches)), tuple(sketches),
        f"Share of the candidates that are among the 10 nearest of at least so many queries; {counted}. "
        "A long tail is hubs, a start well below 100 percent at 1 is candidates that are never found.",
    )  # fmt: skip
    yield Chart(
        f"{key}-projection", f"{title}: two main axes", tuple(_projections(sketches)), ("images", "texts"),
        "The first pairs on the two main axes of images and texts together (principal components); grey "
        "lines join some of the pairs. Every model has axes of its own.",
    )  # fmt: skip


def _plane(models: Sequence[str], records: Sequence[RunRecord]) -> tuple[_Drawn, ...]:
    value = {(r.model.name, r.metric): r.value for r in records}
    found = [
        (s, value.get((m, "alignment")), value.get((m, "uniformity_joint"))) for s, m in enumerate(models)
    ]
    points = [(s, x, y) for s, x, y in found if x is not None and y is not None]
    if not points:
        return ()
    x, y = _around([x for _, x, _ in points]), _around([y for _, _, y in points])
    panel = Panel(
        "uniformity, images and texts", Axis(*x, "alignment"), Axis(*y),
        "uniformity against alignment; the table holds the numbers",
    )  # fmt: skip
    for s, px, py in points:
        panel.mark(px, py, s, f"{models[s]}: alignment {px:.3f}, uniformity {py:.3f}")
    return ((panel.svg(), panel.width, panel.height),)


def _around(values: Sequence[float]) -> tuple[float, float]:
    room = 0.15 * (max(values) - min(values)) or 0.1
    return min(values) - room, max(values) + room


def _similarity(sketches: Mapping[str, Sketch]) -> Iterator[_Drawn]:
    filled = [
        k for s in sketches.values() for k, n in enumerate(zip(s.matched, s.unmatched, strict=True)) if any(n)
    ]
    bins = len(next(iter(sketches.values())).matched)
    low, high = min(filled), max(filled) + 1
    x = Axis(2 * low / bins - 1, 2 * high / bins - 1, "cosine")
    for model, s in sketches.items():
        curves = [[100 * n / max(1, sum(counts)) for n in counts] for counts in (s.matched, s.unmatched)]
        panel = Panel(
            model, x, Axis(0, 1.08 * max(map(max, curves)), "percent of pairs"), _told(model, s, bins)
        )
        for series, curve in enumerate(curves):
            corners = [(2 * k / bins - 1, 2 * (k + 1) / bins - 1, curve[k]) for k in range(low, high)]
            panel.band([(edge, 0.0, y) for left, right, y in corners for edge in (left, right)], series)
            panel.line([(edge, y) for left, right, y in corners for edge in (left, right)], series, thin=True)
        yield panel.svg(), panel.width, panel.height


def _told(model: str, sketch: Sketch, bins: int) -> str:
    halves = [_median(counts, bins) for counts in (sketch.matched, sketch.unmatched)]
    return f"{model}: median cosine {halves[0]:.2f} of matched pairs, {halves[1]:.2f} of unmatched pairs"


def _median(counts: Sequence[int], bins: int) -> float:
    half = sum(counts) / 2
    k = next((k for k, total in enumerate(accumulate(counts)) if total >= half), 0)
    return (2 * k + 1) / bins - 1


def _hubs(sketches: Mapping[str, Sketch]) -> Iterator[_Drawn]:
    for side in ("image", "text"):
        tails: list[tuple[int, list[float]]] = []
        for k, sketch in enumerate(sketches.values()):
            counts = sketch.hubs.get(side)
            if counts:
                beyond = list(accumulate(reversed(counts)))[::-1]
                tails.append((k, [100 * n / beyond[0] for n in beyond]))
        if not tails:
            continue
        least = min(v for _, tail in tails for v in tail if v > 0)
        longest = max(max(i for i, v in enumerate(tail) if v > 0) for _, tail in tails)
        title = f"{side}s found by {'texts' if side == 'image' else 'images'}"
        panel = Panel(
            title, Axis(0, max(2, longest), "queries that find it, at least"),
            Axis(min(least, 50), 100, "percent", True), f"{title}: hub occurrence by model",
        )  # fmt: skip
        for k, tail in tails:
            panel.line([(float(i), v) for i, v in enumerate(tail) if v > 0], k)
        yield panel.svg(), panel.width, panel.height


def _projections(sketches: Mapping[str, Sketch]) -> Iterator[_Drawn]:
    for model, s in sketches.items():
        points = [*s.image_points, *s.text_points]
        if not points:
            continue
        x, y = _around([p[0] for p in points]), _around([p[1] for p in points])
        share = f"two axes, {100 * s.explained:.0f}% of the variance"
        panel = Panel(model, Axis(*x, share), Axis(*y), f"{model}: images and texts on {share}", height=300)
        for image, text in list(zip(s.image_points, s.text_points, strict=True))[:_JOINED]:
            panel.rule(image, text, "faint")
        for series, own in enumerate((s.image_points, s.text_points)):
            for px, py in own:
                panel.mark(px, py, series, small=True)
        yield panel.svg(), panel.width, panel.height
