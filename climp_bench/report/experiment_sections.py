"""The sections of a report on ``ablation``, ``scaling`` and ``bias``, and their lines beside the paper's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from climp_bench.report.document import Chart, Section, Table
from climp_bench.report.experiment_charts import dots, loss_chart, scaling_chart
from climp_bench.report.experiment_tables import Named, ablation_tables, bias_tables, scaling_tables
from climp_bench.results.experiments import Bias, Stored


@dataclass(frozen=True)
class Part:
    """An experiment of the paper.

    Attributes:
        title: in words.
        paper: its tables and figures.
        command: what runs it on embedded data.
        full: what runs it as the paper did.
    """

    title: str
    paper: str
    command: str
    full: str


_TRAINED = "--recipe climp-cc12m --set data.path=DIR"
PARTS = {
    "ablation": Part("Ablation", "Table 8", "climp-bench ablation", f"climp-bench ablation {_TRAINED}"),
    "scaling-data": Part(
        "Scaling of the data", "Figure 4", "climp-bench scaling data",
        f"climp-bench scaling data --pairs N {_TRAINED}",
    ),
    "scaling-model": Part(
        "Scaling of the image tower", "Table 7", "climp-bench scaling model",
        f"climp-bench scaling model --scale small --scale base {_TRAINED}",
    ),
    "bias": Part("Inductive bias", "Table 14, Figure 6", "climp-bench bias", "climp-bench bias --data DIR"),
}  # fmt: skip
"""By name, in the order of the report."""


def experiment_sections(stored: Sequence[Stored]) -> Iterator[Section]:
    """A section for each of ``PARTS``; where there are several of one, their folders tell them apart."""
    for name, part in PARTS.items():
        own = [one for one in stored if one.content.name == name]
        tables: list[Table] = []
        charts: list[Chart] = []
        for one in own:
            several = len(own) > 1
            title = f"{part.title} ({one.folder})" if several else part.title
            found = Named(one.content, title, f"{name}-{one.folder}" if several else name)
            made, drawn = _of(found)
            tables += made
            charts += drawn
        yield Section(name, part.title, part.paper, part.command, tuple(tables), tuple(charts))


def _of(found: Named) -> tuple[list[Table], list[Chart]]:
    content = found.content
    if isinstance(content, Bias):
        tables = list(bias_tables(found, content.runs))
        return tables, [dots(found, tables[0]), loss_chart(found, content.runs)]
    if content.name == "ablation":
        tables = list(ablation_tables(found, content.runs))
        return tables, [dots(found, tables[0])]
    return list(scaling_tables(found, content.runs)), [scaling_chart(found, content.runs)]


def paper_state(name: str, stored: Sequence[Stored]) -> str:
    """How a part of the paper stands: ``measured``, as toys only, or empty where nothing was measured."""
    own = [one.content.small for one in stored if one.content.name == name]
    if not own:
        return ""
    return "measured as toys only, which says nothing about the paper" if all(own) else "measured"
