"""``report`` as a user meets it: from real results to a page, and what it says where there are none."""

from __future__ import annotations

import json
from pathlib import Path

from climp_bench.results import ResultStore
from climp_bench.results.pictures import read_pictures
from tests.cli.test_commands import climp

FEW = """
schema = 1
name = "few"
[[task]]
dataset = "scenes-shape"
n = 40
[[task]]
dataset = "scenes-dense"
n = 20
"""
SPACE = 'schema = 1\nname = "space"\n[[task]]\ndataset = "scenes-dense"\nn = 20\n'


def test_results_become_a_page_with_pictures(tmp_path: Path) -> None:
    (tmp_path / "few.toml").write_text(FEW)
    models = ("--model", "rope-vit", "--model", "flexivit")
    assert climp("zeroshot", "--suite", "few.toml", *models, home=tmp_path).returncode == 0
    (tmp_path / "space.toml").write_text(SPACE)
    assert climp("geometry", "space.toml", "--model", "rope-vit", home=tmp_path).returncode == 0
    store = ResultStore(tmp_path / "reports/records")
    found = {r.task: read_pictures(store.pictures_path(r), r) for r in store.read() if r.kind != "geometry"}
    assert all(p is not None and 2 <= len(p.examples) <= 12 for p in found.values())
    assert all(store.pictures_path(r).stat().st_size < 100_000 for r in store.read())
    before = {p: p.read_bytes() for p in store.root.rglob("*") if p.is_file()}
    done = climp("report", home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "no results: climp-bench ood" in done.stdout and "index.html" in done.stderr
    page = (tmp_path / "reports/report/index.html").read_text()
    for text in ("rope-vit@micro", "scenes-dense", "✓ hit", "two main axes", "similarity of matched"):
        assert text in page
    for name in (
        "zeroshot-few.csv",
        "zeroshot-few.md",
        "zeroshot-few.tex",
        "geometry-space-scenes-dense.csv",
    ):
        assert (tmp_path / "reports/report/tables" / name).is_file()
    assert before == {p: p.read_bytes() for p in store.root.rglob("*") if p.is_file()}
    again = climp(
        "report", "--out", "elsewhere", "--no-pictures", "--title", "Ours <b>", "--json", home=tmp_path
    )
    listed = json.loads(again.stdout)
    bare = (tmp_path / listed["page"]).read_text()
    assert "<h1>Ours &lt;b&gt;</h1>" in bare and "image/jpeg" not in bare
    assert all((tmp_path / file).is_file() for file in listed["files"])


def test_without_results_it_says_how_to_get_some(tmp_path: Path) -> None:
    for words in (("report", "--results", "gone"), ("report", "--results", ".")):
        done = climp(*words, home=tmp_path)
        assert done.returncode == 2 and "climp-bench zeroshot --out DIR" in done.stderr
    (tmp_path / "kernels-cpu.json").write_text("{}")
    done = climp("report", "--results", ".", home=tmp_path)
    assert done.returncode == 1 and "kernels-cpu.json" in done.stderr and "bench-kernels" in done.stderr
