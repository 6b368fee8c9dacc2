"""The page: well-formed, nothing from elsewhere, safe with hostile names, usable without a mouse or eyes."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from climp_bench.report.document import Report
from climp_bench.report.gather import gather
from climp_bench.report.html import to_html
from climp_bench.report.svg import Axis, Panel, compose
from climp_bench.run.standings import judge_of
from tests.unit.report.stored import HOSTILE, fill

VOID = {"meta", "wbr", "br", "img", "input", "link"}
FETCHING = ("src", "srcset", "poster", "data", "action", "background", "formaction", "ping")


class Checker(HTMLParser):
    """Balance of elements, what would be fetched, ids, links and names."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.faults: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append((tag, found))
        self.scripts += tag == "script"
        if tag in ("link", "img", "iframe", "object", "embed", "base"):
            self.faults.append(f"<{tag}>")
        self.faults += [f"{tag} {name}={found[name]}" for name in FETCHING if found.get(name)]
        self.faults += [f"{tag} {name}" for name in found if name.startswith("on")]
        if "id" in found:
            self.ids.append(found["id"] or "")
        if tag == "a":
            self.links.append(found.get("href") or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> closes something else")


def page(root: Path) -> tuple[str, Checker, Report]:
    store = fill(root)
    report = gather(store, judge_of(store))
    text = to_html(report)
    checker = Checker()
    checker.feed(text)
    checker.close()
    return text, checker, report


def test_it_is_well_formed_and_fetches_nothing(tmp_path: Path) -> None:
    text, checker, _ = page(tmp_path)
    assert checker.faults == [] and checker.open == []
    assert len(checker.ids) == len(set(checker.ids))
    assert {link[1:] for link in checker.links} <= set(checker.ids) and all(
        x[0] == "#" for x in checker.links
    )
    assert 'http-equiv="Content-Security-Policy" content="default-src \'none\'' in text
    addresses = set(re.findall(r"https?://[^\s\"'<)]+", text)) - {"http://www.w3.org/2000/svg"}
    assert addresses == set()
    assert set(re.findall(r"url\((.{0,15})", text)) <= {"data:image/jpeg"}
    assert "@import" not in text


def test_a_planted_fault_is_seen() -> None:
    checker = Checker()
    checker.feed('<div><p onclick="x"><img src="http://x/y.png"></div>')
    assert len(checker.faults) == 4


def test_hostile_names_are_text(tmp_path: Path) -> None:
    text, checker, _ = page(tmp_path)
    assert checker.scripts == 2 and "<script>alert" not in text
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert data is not None and "<" not in data[1]
    titles = [r["title"] for r in json.loads(data[1])["records"]]
    assert f"a@micro, {HOSTILE}, acc1" in titles


def test_every_number_opens_its_provenance(tmp_path: Path) -> None:
    text, _, report = page(tmp_path)
    data = json.loads(re.findall(r'id="data">(.*?)</script>', text, re.DOTALL)[0])
    places = [int(p) for found in re.findall(r'data-r="([^"]+)"', text) for p in found.split()]
    assert set(places) == set(range(len(data["records"])))
    first = data["records"][0]
    facts = dict(first["facts"]) | dict(first["run"]) | dict(data["runs"][first["made"]])
    for term in ("weights", "data set", "protocol", "interval", "n", "started", "device", "seed", "packages"):
        assert facts[term]
    cells = [c for s in report.sections for t in s.tables for row in t.rows for c in row.cells if c.records]
    assert text.count('class="num') == len(cells)


def test_a_number_that_is_missing_is_a_dash_and_cannot_be_sorted_as_zero(tmp_path: Path) -> None:
    text, _, _ = page(tmp_path)
    row = next(
        line for line in text.splitlines() if line.startswith('<tr><th scope="row" class="long">&lt;script')
    )
    assert '<td><span class="none">-</span></td>' in row and ">failed</button></td>" in row
    assert len(re.findall(r'data-v="', row)) == 3  # n, chance and the one score


def test_it_can_be_used_without_a_mouse_and_without_eyes(tmp_path: Path) -> None:
    text, checker, report = page(tmp_path)
    tables = [t for s in report.sections for t in s.tables]
    assert text.count("<caption>") == text.count("<table") >= len(tables)
    heads = [found for tag, found in checker.tags if tag == "th"]
    assert heads and all(found.get("scope") in ("col", "row") for found in heads)
    sorted_heads = [found for found in heads if "aria-sort" in found]
    assert len(sorted_heads) == text.count('class="sort"') and {h["aria-sort"] for h in sorted_heads} == {
        "none"
    }
    plots = [f for tag, f in checker.tags if tag == "svg" and "aria-hidden" not in f]
    assert plots and all(f.get("role") == "img" and f.get("aria-label") for f in plots)
    thumbs = [f for tag, f in checker.tags if tag == "span" and "thumb" in (f.get("class") or "")]
    assert thumbs and all(f.get("role") == "img" and f.get("aria-label") for f in thumbs)
    assert '<a class="skip" href="#content">' in text and ":focus-visible" in text
    assert 'lang="en"' in text and 'aria-live="polite"' in text and "prefers-reduced-motion" in text
    assert "prefers-color-scheme:dark" in text and "@media print" in text


def test_examples_are_shown_once_each_or_not_at_all(tmp_path: Path) -> None:
    text, _, report = page(tmp_path)
    assert text.count("data:image/jpeg;base64,") == 2  # the same two thumbnails for every model
    assert "✓ hit" in text and "✗ miss" in text
    assert {shot.model for shot in report.shots} == {"a@micro", "b@micro", "c@micro"}
    store = fill(tmp_path)
    bare = to_html(gather(store, judge_of(store), pictures=False))
    assert "image/jpeg" not in bare and 'id="examples"' not in bare


def test_pictures_of_another_run_are_not_shown(tmp_path: Path) -> None:
    store = fill(tmp_path)
    for record in store.read():
        place = store.pictures_path(record)
        if place.is_file():
            place.write_text(place.read_text().replace('"fingerprint":"f00d"', '"fingerprint":"beef"'))
    assert gather(store, judge_of(store)).shots == ()


def test_without_a_sketch_geometry_says_what_it_needs(tmp_path: Path) -> None:
    _, _, report = page(tmp_path)
    geometry = next(s for s in report.sections if s.key == "geometry")
    absent = [chart.absent for chart in geometry.charts if not chart.panels]
    assert len(absent) >= 1 and "climp-bench geometry" in absent[-1]


def test_a_panel_is_xml_and_keeps_to_its_axes() -> None:
    panel = Panel("a < b & c", Axis(1, 1000, "x", log=True), Axis(0, 100, "percent"))
    panel.line([(1, 0), (10, 50), (1000, 100)], 0)
    panel.mark(10, 250, 1, '"tip" <b>')
    tree = ElementTree.fromstring(panel.svg())
    (line,) = [e for e in tree.iter() if e.get("class") == "line s0"]
    numbers = [float(n) for n in re.findall(r"[0-9.]+", line.get("d") or "")]
    assert numbers[0] == panel.left and numbers[4] == panel.width - 10  # the ends of the axis
    assert numbers[2] == pytest.approx(panel.left + (panel.width - 10 - panel.left) / 3, abs=0.1)
    (mark,) = [e for e in tree.iter() if e.get("class") == "mark s1"]
    assert (mark.get("transform") or "").endswith(" 24.0)")  # cut off at the top, not drawn outside
    ElementTree.fromstring(compose([(panel.svg(), 340, 230)] * 3, ["one", "<two>"]))


@pytest.mark.parametrize(
    ("axis", "ticks"),
    [
        (Axis(0, 100), ["0", "20", "40", "60", "80", "100"]),
        (Axis(0.3, 0.9), ["0.4", "0.6", "0.8"]),
        (Axis(1, 1000, log=True), ["1", "10", "100", "1000"]),
        (Axis(3, 3), ["3"]),
    ],
)
def test_ticks_are_round_numbers(axis: Axis, ticks: list[str]) -> None:
    assert [text for _, text in axis.marks()] == ticks
