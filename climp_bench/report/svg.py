"""Plots as small SVG that follow the theme of the page they stand in.

A series is told by colour (the Okabe-Ito set, for colour-blind eyes) and by marker. Colours are CSS classes:
a page defines them, a file of its own carries :data:`STYLE`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#B0579A", "#B07A00", "#3A8FC4", "#444444", "#888888")
DARK = ("#56B4E9", "#F08A4B", "#2FC79A", "#E0A3CA", "#E9B949", "#8CC8F0", "#DDDDDD", "#999999")
MARKERS = (
    "M0-4.2a4.2 4.2 0 1 0 .01 0z", "M-3.6-3.6h7.2v7.2h-7.2z", "M0-4.8L4.6 3.4H-4.6z", "M0-5L4.4 0 0 5-4.4 0z",
    "M0 4.8L4.6-3.4H-4.6z", "M-1.5-4.5h3v3h3v3h-3v3h-3v-3h-3v-3h3z",
    "M-4.2-4.2L0-1.6 4.2-4.2 1.6 0 4.2 4.2 0 1.6-4.2 4.2-1.6 0z", "M-5-1.6h10v3.2h-10z",
)  # fmt: skip
_SERIES = "".join(f".s{k}{{--c:{colour}}}" for k, colour in enumerate(COLOURS))
_SERIES_DARK = "".join(f".s{k}{{--c:{colour}}}" for k, colour in enumerate(DARK))
SHAPES = (
    ".plot text{font:12px system-ui,sans-serif;fill:var(--fg)}.plot .small{font-size:11px;fill:var(--muted)}"
    ".plot .grid{stroke:var(--line);stroke-width:1;fill:none}.plot .line{stroke:var(--c);fill:none;"
    "stroke-width:1.8}.plot .band{fill:var(--c);opacity:.16}.plot .mark{fill:var(--c)}"
    ".plot .thin{stroke:var(--c);stroke-width:1.2;fill:none}.plot .faint{stroke:var(--muted);opacity:.35}"
    ".plot .chance{stroke:var(--muted);stroke-width:2}"
)
LIGHT_COLOURS = f"{_SERIES}"
DARK_COLOURS = f"{_SERIES_DARK}"
STYLE = (
    ":root{--fg:#1d2330;--muted:#5b6474;--line:#dfe3ea;--bg:#fff}" + _SERIES + SHAPES
    + "@media(prefers-color-scheme:dark){:root{--fg:#e7eaf0;--muted:#a3acbb;--line:#343b48;--bg:#14171d}"
    + _SERIES_DARK + "}.paper{fill:var(--bg)}"
)  # fmt: skip
Point = tuple[float, float]
_HALF = 3.2
"""Half the width of a letter of a tick, in pixels."""


@dataclass(frozen=True)
class Axis:
    """A range of numbers, straight or logarithmic.

    Attributes:
        low, high: its ends.
        label: what it is.
        log: whether it is logarithmic.
        ticks: (number, text); None makes some.
    """

    low: float
    high: float
    label: str = ""
    log: bool = False
    ticks: tuple[tuple[float, str], ...] | None = None

    def share(self, value: float) -> float:
        """Where a number lies, 0 at the low end and 1 at the high end."""
        if self.log:
            span = math.log(self.high / self.low)
            return math.log(max(value, self.low) / self.low) / span if span else 0.5
        return (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5

    def marks(self) -> tuple[tuple[float, str], ...]:
        """The ticks."""
        if self.ticks is not None:
            return self.ticks
        if self.log:
            found = range(
                math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9) + 1
            )
            decades = [10.0**k for k in found]
            if len(decades) < 2:
                decades = [m * 10.0**k for k in range(found.start - 1, found.stop + 1) for m in (1, 2, 5)]
            return tuple((v, f"{v:g}") for v in decades if self.low <= v <= self.high)
        step = _step(self.high - self.low)
        first = math.ceil(self.low / step - 1e-9)
        count = math.floor(self.high / step + 1e-9) - first + 1
        return tuple(((first + k) * step, f"{(first + k) * step:.6g}") for k in range(count))


def _step(span: float) -> float:
    """A round distance of ticks, for about five of them."""
    if span <= 0:
        return 1.0
    rough = span / 5
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)


@dataclass
class Panel:
    """One plot. ``x`` and ``y`` are the numbers of its axes; nothing outside them is drawn.

    Attributes:
        title: above it; ``tells``: the same for those who do not see it, with what it shows.
        width, height: in pixels; ``left``: room for the ticks of the vertical axis.
    """

    title: str
    x: Axis
    y: Axis
    tells: str = ""
    width: int = 340
    height: int = 230
    left: int = 46
    _parts: list[str] = field(default_factory=list)

    def line(self, points: Sequence[Point], series: int, *, thin: bool = False) -> None:
        """A line through points."""
        if points:
            path = "L".join(f"{self._x(x)} {self._y(y)}" for x, y in points)
            self._parts.append(f'<path class="{"thin" if thin else "line"} s{series % 8}" d="M{path}"/>')

    def band(self, bounds: Sequence[tuple[float, float, float]], series: int) -> None:
        """An area between (x, low, high)."""
        if bounds:
            there = [f"{self._x(x)} {self._y(low)}" for x, low, _ in bounds]
            back = [f"{self._x(x)} {self._y(high)}" for x, _, high in reversed(bounds)]
            self._parts.append(f'<path class="band s{series % 8}" d="M{"L".join(there + back)}z"/>')

    def mark(self, x: float, y: float, series: int, tip: str = "", *, small: bool = False) -> None:
        """A marker, and what is shown when one points at it."""
        shape, size = MARKERS[series % 8], " scale(.62)" if small else ""
        told = f"<title>{escape(tip)}</title>" if tip else ""
        place = f"translate({self._x(x)} {self._y(y)}){size}"
        self._parts.append(
            f'<path class="mark s{series % 8}" transform="{place}" d="{shape}">{told}</path>'
            if told
            else f'<path class="mark s{series % 8}" transform="{place}" d="{shape}"/>'
        )

    def rule(self, start: Point, end: Point, kind: str = "grid") -> None:
        """A straight line of a kind: ``grid``, ``chance``, ``faint``, or ``thin s0``."""
        (x1, y1), (x2, y2) = start, end
        self._parts.append(
            f'<path class="{kind}" d="M{self._x(x1)} {self._y(y1)}L{self._x(x2)} {self._y(y2)}"/>'
        )

    def svg(self) -> str:
        """The panel."""
        right, bottom = self.width - 10, self.height - 40
        parts = [f'<text x="{self.left}" y="15" font-weight="600">{escape(self.title)}</text>']
        for value, text in self.y.marks():
            y = self._y(value)
            parts.append(f'<path class="grid" d="M{self.left} {y}H{right}"/>')
            place = f'x="{self.left - 6}" y="{y + 4:g}" text-anchor="end"'
            parts.append(f'<text class="small" {place}>{escape(text)}</text>')
        for value, text in self.x.marks():
            x = self._x(value)
            parts.append(f'<path class="grid" d="M{x} {bottom}v4"/>')
            at, anchor = (x, "middle") if x + _HALF * len(text) <= self.width else (self.width - 1, "end")
            parts.append(
                f'<text class="small" x="{at}" y="{bottom + 17}" text-anchor="{anchor}">{escape(text)}</text>'
            )
        parts.append(f'<path class="grid" d="M{self.left} 24V{bottom}H{right}"/>')
        middle = (self.left + right) / 2
        parts.append(
            f'<text class="small" x="{middle:g}" y="{self.height - 6}" text-anchor="middle">'
            f"{escape(self.x.label)}</text>"
        )
        if self.y.label:
            parts.append(
                f'<text class="small" x="{right}" y="20" text-anchor="end">{escape(self.y.label)}</text>'
            )
        told = escape(self.tells or self.title, quote=True)
        inside = "".join([*parts, *self._parts])
        return f'{_open(self.width, self.height)} role="img" aria-label="{told}">{inside}</svg>'

    def _x(self, value: float) -> float:
        span = self.width - 10 - self.left
        return round(self.left + span * min(1.0, max(0.0, self.x.share(value))), 1)

    def _y(self, value: float) -> float:
        span = self.height - 64
        return round(24 + span * (1 - min(1.0, max(0.0, self.y.share(value)))), 1)


def marker(series: int) -> str:
    """The marker of a series, for a legend."""
    return (
        f'<svg class="plot key" width="16" height="14" viewBox="-8 -7 16 14" aria-hidden="true">'
        f'<path class="mark s{series % 8}" d="{MARKERS[series % 8]}"/></svg>'
    )


def compose(panels: Sequence[tuple[str, int, int]], series: Sequence[str], across: int = 2) -> str:
    """Panels with their legend as one SVG of its own.

    Args:
        panels: SVG, width and height of each.
        series: names of the colours and markers.
        across: panels side by side.
    """
    width = max(w for _, w, _ in panels) * min(across, len(panels))
    parts, x, y = [], 12.0, 18
    for k, name in enumerate(series):
        room = 24 + 7.0 * len(name)
        if x + room > width and x > 12:
            x, y = 12.0, y + 20
        parts.append(
            f'<g transform="translate({x:g} {y})"><path class="mark s{k % 8}" d="{MARKERS[k % 8]}"/>'
        )
        parts.append(f'<text x="10" y="4">{escape(name)}</text></g>')
        x += room
    y += 18 if series else -10
    rows = [panels[k : k + across] for k in range(0, len(panels), across)]
    for row in rows:
        for k, (svg, w, _) in enumerate(row):
            parts.append(svg.replace("<svg ", f'<svg x="{k * w}" y="{y}" ', 1))
        y += max(h for _, _, h in row)
    paper = f'<style>{STYLE}</style><rect class="paper" width="100%" height="100%"/>'
    return f"{_open(width, y)}>{paper}{''.join(parts)}</svg>\n"


def _open(width: int, height: int) -> str:
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    return f'<svg class="plot" xmlns="http://www.w3.org/2000/svg" {size}'
