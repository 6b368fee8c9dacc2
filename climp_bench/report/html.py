"""The report as one page: no network, nothing from elsewhere, style and script inside."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from importlib import resources
from string import Template
from typing import Any

from climp_bench.report.document import Report, Section
from climp_bench.report.html_parts import (
    MARKS,
    Ledger,
    Thumbnails,
    chart_html,
    shots_html,
    table_html,
    text_table_html,
)
from climp_bench.report.missing import missing
from climp_bench.report.svg import DARK_COLOURS, LIGHT_COLOURS, SHAPES
from climp_bench.results import RunRecord
from climp_bench.results.schema import Provenance

_DARK = (
    "{--fg:#e7eaf0;--muted:#a3acbb;--line:#343b48;--bg:#14171d;--soft:#1e232c;--accent:#7db8f0;--hit:#4fcf97;"
    "--miss:#ff8f85}"
)
_BESIDE_WORDS = (0, 1, 2, 7, 8)
Fact = list[str]


def to_html(report: Report) -> str:
    """The page; well-formed, and safe whatever names and messages the records have."""
    ledger, thumbnails = Ledger(), Thumbnails()
    sections = [_section(s, ledger) for s in report.sections if s.tables]
    beside = _beside(report)
    shots = _examples(report, thumbnails)
    problems = _problems(report.records)
    content = "\n".join([_overview(report), *sections, beside, shots, problems])
    return Template(_asset("page.html")).substitute(
        title=escape(report.title),
        style=_style() + thumbnails.style(),
        lead=_lead(report),
        links=_links(report),
        content=content,
        footer=_footer(report),
        data=_data(ledger.records),
        script=_asset("page.js"),
    )


def _asset(name: str) -> str:
    return (resources.files("climp_bench.report") / "assets" / name).read_text(encoding="utf-8")


def _style() -> str:
    themes = (
        f"{LIGHT_COLOURS}@media(prefers-color-scheme:dark){{:root:not([data-theme=light]){_DARK}"
        f"{_scoped(':root:not([data-theme=light])')}}}:root[data-theme=dark]{_DARK}"
        f"{_scoped(':root[data-theme=dark]')}:root[data-theme=dark]{{color-scheme:dark}}"
        f":root[data-theme=light]{{color-scheme:light}}{SHAPES}\n"
    )
    return _asset("page.css").replace("/*light*/", themes)


def _scoped(scope: str) -> str:
    return DARK_COLOURS.replace(".s", f"{scope} .s")


def _lead(report: Report) -> str:
    records = report.records
    failed = sum(r.status == "failed" for r in records)
    partial = sum(r.status == "partial" for r in records)
    facts = [
        (f"{len(records):,}", "records"),
        (f"{len({r.model.name for r in records}):,}", "models"),
        (f"{len({r.suite for r in records}):,}", "suites"),
        (f"{len({r.dataset.name for r in records}):,}", "data sets"),
        (f"{failed:,}", "failed"),
    ] + ([(f"{partial:,}", "partial")] if partial else [])
    items = "".join(f"<li><b>{number}</b><span>{escape(what)}</span></li>" for number, what in facts)
    return (
        '<p class="lead">Scores with their samples and 95% intervals. Every number opens what it was made of.'
        f'</p>\n<ul class="facts">{items}</ul>'
    )


def _links(report: Report) -> str:
    keys = [("overview", "Overview")]
    keys += [(s.key, s.title) for s in report.sections if s.tables]
    keys += [("paper", "Paper")] * (len(report.beside) > 1)
    keys += [("examples", "Examples")] * bool(report.shots)
    keys += [("problems", "Not measured")] * bool(missing(report.records))
    return "\n".join(f'<li><a href="#{escape(key)}">{escape(title)}</a></li>' for key, title in keys)


def _overview(report: Report) -> str:
    rows = []
    for s in report.sections:
        state = f"no results; <code>{escape(s.command)}</code> makes some"
        if s.tables:
            state = ", ".join(f'<a href="#{escape(t.key)}">{escape(t.title)}</a>' for t in s.tables if t.main)
        rows.append(
            f'<tr><th scope="row">{escape(s.title)}</th><td class="w">{escape(s.paper) or "-"}</td>'
            f'<td class="w long">{state}</td></tr>'
        )
    heads = "".join(f'<th scope="col" class="w">{name}</th>' for name in ("topic", "paper", "tables"))
    table = (
        '<div class="scroll" role="region" tabindex="0" aria-label="Tables of this report"><table>'
        f"<caption>What is here</caption><thead><tr>{heads}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )
    return _topic("overview", "Overview", "", table)


def _section(section: Section, ledger: Ledger) -> str:
    paper = f"{section.paper} of the paper; " if section.paper else ""
    made = f'<p class="lead">{escape(paper)}made by <code>{escape(section.command)}</code></p>'
    parts = [f'<p class="note">{MARKS}</p>'] if any(t.has_verdicts for t in section.tables) else []
    parts += [table_html(t, ledger) for t in section.tables if t.main]
    parts += [chart_html(c) for c in section.charts]
    rest = [t for t in section.tables if not t.main]
    parts += [f"<details><summary>{escape(t.title)}</summary>{table_html(t, ledger)}</details>" for t in rest]
    key = escape(section.key)
    return (
        f'<section aria-labelledby="{key}"><h2 id="{key}">{escape(section.title)}</h2>'
        f"{made if section.command else ''}\n" + "\n".join(parts) + "</section>"
    )


def _beside(report: Report) -> str:
    if len(report.beside) < 2:
        return ""
    table = text_table_html("Published figures, ours, or why there is none", report.beside, _BESIDE_WORDS)
    if report.wanted:
        listed = "".join(f"<li><code>{escape(command)}</code></li>" for command in report.wanted)
        table += f'<p class="note">What would measure the others:</p><ul class="commands">{listed}</ul>'
    lead = "Every figure of the paper that climp-bench has on record. Scores in percent."
    return _topic("paper", "Paper against measured", lead, table)


def _examples(report: Report, thumbnails: Thumbnails) -> str:
    if not report.shots:
        return ""
    return _topic("examples", "Examples", _EXAMPLES, shots_html(report.shots, thumbnails))


_EXAMPLES = (
    "A few samples that models got right and wrong, the three best answers with their cosine; the right one "
    "is bold, or framed. They were not drawn to be typical: as many misses as hits are shown, however rare."
)


def _problems(records: Sequence[RunRecord]) -> str:
    rows = missing(records)
    if not rows:
        return ""
    table = text_table_html("What has no score, or one on fewer samples", rows, (0, 1, 2, 3, 4))
    return _topic("problems", "Not measured", "", table)


def _topic(key: str, title: str, lead: str, content: str) -> str:
    told = f'<p class="lead">{escape(lead)}</p>' if lead else ""
    name = escape(key)
    return (
        f'<section aria-labelledby="{name}"><h2 id="{name}">{escape(title)}</h2>{told}\n{content}</section>'
    )


def _footer(report: Report) -> str:
    if not report.records:
        return "<p>No records.</p>"
    newest = max(r.provenance.started_at for r in report.records)
    versions = ", ".join(sorted({r.provenance.climp_bench for r in report.records}))
    named = {(r.model.name, r.model.weights_digest) for r in report.records}
    weights = sorted((name, digest) for name, digest in named if digest)
    listed = "".join(
        f"<li>{escape(name)}: <code>{escape(digest[:16])}</code></li>" for name, digest in weights
    )
    return (
        f"<p>Records of climp-bench {escape(versions)}, the newest of {newest:%Y-%m-%d %H:%M} UTC.</p>"
        f"<details><summary>Weights (sha256)</summary><ul>{listed}</ul></details>"
    )


def _data(records: Sequence[RunRecord]) -> str:
    """Records and the runs that made them as JSON that cannot end its element."""
    runs: dict[str, int] = {}
    listed: list[dict[str, Any]] = []
    for r in records:
        made = json.dumps(_run_facts(r.provenance), ensure_ascii=False)
        listed.append({**_facts(r), "made": runs.setdefault(made, len(runs))})
    text = json.dumps({"records": listed, "runs": [json.loads(run) for run in runs]}, ensure_ascii=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _facts(r: RunRecord) -> dict[str, Any]:
    value = "-" if r.value is None else f"{r.value:.6g}"
    facts: list[Fact] = [["model", r.model.name]]
    facts += [["weights", r.model.weights_digest or "none"], ["weights from", r.model.weights_source or "-"]]
    data = r.dataset
    facts += [["suite, task", f"{r.suite}, {r.task}"], ["data set", f"{data.name}, {data.split}"]]
    facts += [["revision", data.revision or "-"], ["samples (fingerprint)", data.fingerprint or "-"]]
    facts += [["protocol", r.protocol], ["metric", r.metric], ["value", value]]
    i = r.interval
    interval = r.no_interval_reason or "-"
    if i is not None:
        interval = f"[{i.low:.6g}, {i.high:.6g}], {100 * i.level:g}%, {i.method}"
    facts.append(["interval", interval])
    expected = "" if r.n_expected is None else f" of {r.n_expected:,}"
    facts.append(["n", f"{r.n_evaluated:,}{expected}, {r.n_failed:,} failed"])
    if r.error is not None:
        facts.append([r.status, " ".join(p for p in (r.error.what, r.error.where, r.error.remedy) if p)])
    if r.resolution:
        facts.append(["input", "x".join(map(str, r.resolution)) + " px"])
    facts += [[name, str(fact)] for name, fact in sorted(r.extra.items()) if fact is not None]
    facts.append(["record", r.key])
    run = r.provenance
    started = f"{run.started_at:%Y-%m-%d %H:%M:%S} UTC"
    cached = {True: "from the cache", False: "computed", None: "-"}[run.cache_hit]
    made: list[Fact] = [["started", started], ["embeddings", cached], ["command", " ".join(run.argv)]]
    seed = f", seed {r.extra['training seed']}" if "training seed" in r.extra else ""
    title = f"{r.model.name}, {r.task}, {r.metric}{seed}"
    return {"title": title, "value": value, "facts": facts, "run": made}


def _run_facts(run: Provenance) -> list[Fact]:
    commit = f"{run.git_commit or 'none'}{' (with changes)' if run.git_dirty else ''}"
    backends = ", ".join(f"{op}: {name}" for op, name in run.backends.items()) or "torch"
    packages = ", ".join(f"{name} {version}" for name, version in run.packages.items())
    gpu = [["GPU", run.gpu]] if run.gpu else []
    return [
        ["climp-bench", f"{run.climp_bench}, commit {commit}"],
        ["device", f"{run.device}, {run.dtype}"], *gpu, ["backends", backends], ["seed", str(run.seed)],
        ["host", f"{run.cpu}, {run.platform}"], ["Python", run.python], ["packages", packages],
    ]  # fmt: skip
