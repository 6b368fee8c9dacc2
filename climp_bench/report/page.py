"""The files of a run: a Markdown page, a CSV of every score, and a dot plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from climp_bench.errors import StoreError
from climp_bench.files import write_text
from climp_bench.report import reference
from climp_bench.report.plots import dot_plot
from climp_bench.report.tables import score_table, to_csv, to_markdown
from climp_bench.results import RunRecord


def write_report(
    records: Sequence[RunRecord],
    suite: str,
    out: Path,
    *,
    command: str,
    figures: Sequence[reference.Figure] | None = None,
) -> list[Path]:
    """Write ``{command}-{suite}.md``, ``.csv`` and ``.png`` to ``out`` and return their paths.

    ``figures`` are published ones to set beside the scores; the shipped ones unless given.

    Raises:
        StoreError: a file cannot be written.
    """
    own = [record for record in records if record.suite == suite]
    paths = [out / f"{command}-{suite}{suffix}" for suffix in (".md", ".csv", ".png")]
    table = score_table(own, suite)
    write_text(paths[0], _page(own, suite, command, paths[2].name, figures), StoreError)
    write_text(paths[1], to_csv(own), StoreError)
    if any(cell.ok for line in table.lines for cell in line.cells):
        dot_plot(table, paths[2])
        return paths
    return paths[:2]


def _page(
    records: Sequence[RunRecord],
    suite: str,
    command: str,
    picture: str,
    figures: Sequence[reference.Figure] | None,
) -> str:
    table = score_table(records, suite)
    parts = [
        f"# {command}: {suite}\n",
        f"Protocol `{table.protocol}`. Percent with 95% interval; n is the number of samples.\n",
        to_markdown(table),
        f"![Scores with 95% intervals]({picture})\n",
        "## All metrics\n",
        to_markdown(score_table(records, suite, headline=False)),
        reference.section(records, figures),
        problems(records),
        "## How these numbers were made\n",
        provenance(records),
    ]
    return "\n".join(part for part in parts if part)


def problems(records: Sequence[RunRecord]) -> str:
    """Sections that list what was not measured and why, and what was left out of scores, or nothing."""
    models: dict[str, list[str]] = {}
    lost: dict[str, None] = {}
    for r in records:
        if r.error is not None and r.status == "partial":
            lost[f"- {r.task}: {r.error.what} ({r.error.where})"] = None
        elif r.error is not None:
            place = f" ({r.error.where})" if r.error.where else ""
            fault = f"{r.status}: {r.task}, {r.metric}: {r.error.what}{place}"
            models.setdefault(fault, []).append(r.model.name)
    lines = [f"- {fault}: {', '.join(names)}" for fault, names in models.items()]
    sections = {"Not measured": lines, "Partial": list(lost)}
    return "\n".join(f"## {title}\n\n" + "\n".join(told) + "\n" for title, told in sections.items() if told)


def provenance(records: Sequence[RunRecord]) -> str:
    """Weights, inputs, device and backends of each model; versions and host of the run."""
    lines = ["| model | weights (sha256) | source | input | device | dtype | backends |", "|" + "---|" * 7]
    for name in dict.fromkeys(r.model.name for r in records):
        record = next(r for r in records if r.model.name == name)
        run = record.provenance
        backends = ", ".join(f"{op}: {ran}" for op, ran in run.backends.items()) or "torch"
        size = "x".join(map(str, record.resolution)) if record.resolution else "-"
        digest = (record.model.weights_digest or "none")[:12]
        cells = [
            name,
            f"`{digest}`",
            record.model.weights_source or "-",
            size,
            run.device,
            run.dtype,
            backends,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    run = records[-1].provenance
    commit = (
        f"{run.git_commit[:12]}{' (with changes)' if run.git_dirty else ''}" if run.git_commit else "none"
    )
    versions = ", ".join(f"{name} {version}" for name, version in run.packages.items())
    lines += [
        "",
        f"climp-bench {run.climp_bench}, commit {commit}, Python {run.python}, seed {run.seed}.",
        "",
    ]
    lines += [f"{run.cpu}{f', {run.gpu}' if run.gpu else ''}. {versions}.", ""]
    return "\n".join(lines)
