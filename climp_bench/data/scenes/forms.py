"""The shapes of the scenes world, as signed distances. y points down."""

from __future__ import annotations

from climp_bench.data.scenes.sdf import (
    COS,
    SIN,
    Form,
    band,
    box,
    disc,
    ellipse,
    lower,
    minus,
    polygon,
    regular,
    shrunk,
    turned,
    union,
    upper,
)

_PETALS = [(270 + 72 * i) % 360 for i in range(5)]

FORMS: dict[str, Form] = {
    "circle": disc(0, 0, 0.92),
    "oval": ellipse(0, 0, 0.96, 0.58),
    "square": box(-0.8, -0.8, 0.8, 0.8),
    "rectangle": box(-0.96, -0.5, 0.96, 0.5),
    "triangle": polygon((0, -0.9), (0.95, 0.8), (-0.95, 0.8)),
    "diamond": polygon((0, -0.98), (0.62, 0), (0, 0.98), (-0.62, 0)),
    "pentagon": polygon(*regular(5, (0.96,), 270)),
    "hexagon": polygon(*regular(6, (0.96,), 0)),
    "star": polygon(*regular(10, (1.0, 0.42), 270)),
    "heart": union(
        disc(-0.44, -0.32, 0.5),
        disc(0.44, -0.32, 0.5),
        polygon((0, 0.9), (0.809, 0.018), (0.44, -0.32), (0, -0.55), (-0.44, -0.32), (-0.809, 0.018)),
    ),
    "crescent": minus(disc(-0.05, 0, 0.92), disc(0.38, -0.1, 0.74)),
    "cross": polygon(
        (-0.3, -0.92), (0.3, -0.92), (0.3, -0.3), (0.92, -0.3), (0.92, 0.3), (0.3, 0.3),
        (0.3, 0.92), (-0.3, 0.92), (-0.3, 0.3), (-0.92, 0.3), (-0.92, -0.3), (-0.3, -0.3),
    ),
    "arrow": polygon(
        (-0.95, -0.26), (0.1, -0.26), (0.1, -0.74), (0.97, 0), (0.1, 0.74), (0.1, 0.26), (-0.95, 0.26)
    ),
    "ring": band(disc(0, 0, 0.92), 0.18),
    "trapezoid": polygon((-0.48, -0.6), (0.48, -0.6), (0.96, 0.6), (-0.96, 0.6)),
    "parallelogram": polygon((-0.4, -0.55), (0.98, -0.55), (0.4, 0.55), (-0.98, 0.55)),
    "semicircle": upper(disc(0, 0.42, 0.95), 0.42),
    "drop": union(disc(0, 0.36, 0.58), polygon((0, -0.98), (0.523, 0.11), (0, 0.36), (-0.523, 0.11))),
    "lightning bolt": polygon(
        (0.1, -0.98), (-0.6, 0.14), (-0.06, 0.14), (-0.3, 0.98), (0.62, -0.26), (0.1, -0.26), (0.5, -0.98)
    ),
    "house": minus(
        polygon(
            (0, -0.95), (0.96, -0.15), (0.7, -0.15), (0.7, 0.88), (-0.7, 0.88), (-0.7, -0.15), (-0.96, -0.15)
        ),
        box(-0.2, 0.25, 0.2, 1.0),
    ),
    "cloud": union(
        disc(-0.54, 0.22, 0.4), disc(-0.1, -0.12, 0.5), disc(0.42, -0.0, 0.36), disc(0.6, 0.28, 0.34),
        box(-0.54, 0.1, 0.6, 0.62),
    ),
    "flower": minus(
        union(*(disc(0.54 * COS[a], 0.54 * SIN[a], 0.38) for a in _PETALS)), disc(0, 0, 0.22)
    ),
    "tree": polygon(
        (0, -0.98), (0.52, -0.28), (0.26, -0.28), (0.82, 0.5), (0.17, 0.5), (0.17, 0.96),
        (-0.17, 0.96), (-0.17, 0.5), (-0.82, 0.5), (-0.26, -0.28), (-0.52, -0.28),
    ),
    "fish": minus(
        union(ellipse(-0.22, 0, 0.72, 0.46), polygon((0.3, 0), (0.96, -0.5), (0.8, 0), (0.96, 0.5))),
        disc(-0.56, -0.12, 0.1),
    ),
    "mushroom": union(upper(ellipse(0, 0.08, 0.95, 0.95), 0.08), box(-0.26, 0.0, 0.26, 0.9)),
    "flag": union(
        box(-0.82, -0.95, -0.62, 0.97),
        polygon((-0.7, -0.92), (0.92, -0.92), (0.56, -0.4), (0.92, 0.12), (-0.7, 0.12)),
    ),
    "key": union(
        band(disc(-0.52, 0, 0.44), 0.11),
        box(-0.15, -0.11, 0.96, 0.11),
        box(0.42, 0.0, 0.6, 0.42),
        box(0.76, 0.0, 0.96, 0.5),
    ),
    "hourglass": polygon((-0.7, -0.95), (0.7, -0.95), (0.1, 0), (0.7, 0.95), (-0.7, 0.95), (-0.1, 0)),
    "gear": minus(
        union(disc(0, 0, 0.68), *(turned(box(-0.96, -0.17, 0.96, 0.17), a) for a in (0, 45, 90, 135))),
        disc(0, 0, 0.3),
    ),
    "boat": union(
        polygon((-0.96, 0.36), (0.96, 0.36), (0.62, 0.88), (-0.62, 0.88)),
        polygon((0.08, -0.96), (0.78, 0.22), (0.08, 0.22)),
        polygon((-0.1, -0.7), (-0.1, 0.22), (-0.62, 0.22)),
        box(-0.1, -0.9, 0.08, 0.4),
    ),
    "cup": union(
        polygon((-0.8, -0.72), (0.42, -0.72), (0.3, 0.8), (-0.68, 0.8)), band(disc(0.46, -0.06, 0.46), 0.09)
    ),
    "umbrella": union(
        minus(upper(disc(0, 0.05, 0.95), 0.05), union(disc(-0.63, 0.14, 0.27), disc(0.63, 0.14, 0.27))),
        box(-0.07, 0.0, 0.07, 0.72),
        lower(band(disc(0.17, 0.7, 0.24), 0.07), 0.7),
    ),
}  # fmt: skip

SHAPES: tuple[str, ...] = tuple(FORMS)

_HOLLOW: dict[str, Form] = {
    **{
        name: band(FORMS[name], 0.1)
        for name in ("square", "triangle", "diamond", "pentagon", "hexagon", "star", "cross")
    },
    # Distances inside a union are not exact, so these are hollowed by a smaller copy of themselves.
    "heart": minus(FORMS["heart"], shrunk(FORMS["heart"], 0.72, 0.0, -0.08)),
    "drop": minus(FORMS["drop"], shrunk(FORMS["drop"], 0.66, 0.0, 0.3)),
    "cloud": minus(FORMS["cloud"], shrunk(FORMS["cloud"], 0.7, 0.02, 0.2)),
}
#: Hollow outlines of known shapes, held out from training.
RING_SHAPES: tuple[str, ...] = tuple(f"{name} ring" for name in _HOLLOW)
FORMS.update({f"{name} ring": form for name, form in _HOLLOW.items()})
FORMS["bar"] = box(-1.0, -0.05, 1.0, 0.05)  # occluders only; no scene is about it

#: Shapes whose small rotations cannot be seen, or read as the other way round; never tilted.
UNTILTED: frozenset[str] = frozenset({"circle", "ring", "gear", "hexagon", "hexagon ring"})
#: Shapes with room for a texture to be seen at 64 pixels.
BROAD: tuple[str, ...] = (
    "circle", "oval", "square", "rectangle", "triangle", "diamond", "pentagon", "hexagon", "star", "heart",
    "cross", "trapezoid", "parallelogram", "semicircle", "drop", "house", "cloud", "flower", "mushroom",
    "cup",
)  # fmt: skip
#: Broad shapes whose distance is exact inside, so that a rim follows the outline.
RIMMED: tuple[str, ...] = tuple(
    name for name in BROAD if name not in ("heart", "drop", "house", "cloud", "flower", "mushroom", "cup")
)
