"""Verdicts for people and for machines: Markdown, JUnit XML, annotations of GitHub Actions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree

from climp_bench.gate.check import Verdict

SYMBOLS = {"pass": "pass", "fail": "FAIL", "report": "report"}


def failed(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Those that fail."""
    return [verdict for verdict in verdicts if verdict.answer == "fail"]


def summary(verdicts: Sequence[Verdict]) -> str:
    """``2 of 40 checks failed; 3 more only reported.``"""
    gated = [verdict for verdict in verdicts if verdict.answer != "report"]
    reported = len(verdicts) - len(gated)
    also = f"; {reported} more only reported" if reported else ""
    return f"{len(failed(verdicts))} of {len(gated)} checks failed{also}."


def row(verdict: Verdict) -> list[str]:
    """Verdict, rule, task, metric, model, before, now, difference, allowed, why."""
    suite, task, metric, model = verdict.where
    before, now = (_shown(value, verdict.is_share) for value in (verdict.before, verdict.now))
    moved = ""
    if verdict.before is not None and verdict.now is not None:
        change = verdict.now - verdict.before
        moved = f"{100 * change:+.2f}" if verdict.is_share else f"{change:+.4g}"
    allowed = verdict.allowed + (f" (p = {verdict.p:.3g})" if verdict.p is not None else "")
    task = f"{suite}/{task}"
    why = "; ".join(verdict.reasons)
    return [SYMBOLS[verdict.answer], verdict.rule, task, metric, model, before, now, moved, allowed, why]


HEAD = ["verdict", "rule", "task", "metric", "model", "before", "now", "change", "allowed", "why"]


def to_markdown(name: str, verdicts: Sequence[Verdict]) -> str:
    """A page: the summary, what failed, and everything else folded away."""
    bad = failed(verdicts)
    rest = [verdict for verdict in verdicts if verdict.answer != "fail"]
    parts = [f"## Gate {name}: {'failed' if bad else 'passed'}\n", summary(verdicts) + "\n"]
    if bad:
        parts.append(_table(bad))
    if rest:
        label = "Passed and reported" if bad else "All checks"
        parts.append(f"<details><summary>{label}</summary>\n\n{_table(rest)}\n</details>\n")
    return "\n".join(parts)


def to_junit(name: str, verdicts: Sequence[Verdict]) -> str:
    """JUnit XML: a test case a verdict; what is only reported is skipped."""
    bad = failed(verdicts)
    reported = [verdict for verdict in verdicts if verdict.answer == "report"]
    counts = {"tests": len(verdicts), "failures": len(bad), "skipped": len(reported), "errors": 0}
    facts = {"name": f"climp-bench gate {name}", **{key: str(value) for key, value in counts.items()}}
    root = ElementTree.Element("testsuites", facts)
    suite = ElementTree.SubElement(root, "testsuite", facts)
    for verdict in verdicts:
        case = {"classname": f"{name}.{verdict.rule}", "name": verdict.name}
        element = ElementTree.SubElement(suite, "testcase", case)
        text = "; ".join(verdict.reasons)
        if verdict.answer == "fail":
            ElementTree.SubElement(element, "failure", {"message": text}).text = _detail(verdict)
        elif verdict.answer == "report":
            ElementTree.SubElement(element, "skipped", {"message": f"only reported. {text}".strip()})
    ElementTree.indent(root)
    text = re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f]", "?", ElementTree.tostring(root, encoding="unicode"))
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + text + "\n"


def workflow_commands(name: str, verdicts: Sequence[Verdict], most: int = 10) -> list[str]:
    """Workflow commands of GitHub Actions, an error for each failure; it shows ten of a step."""
    bad = failed(verdicts)
    shown = bad if len(bad) <= most else bad[: most - 1]
    lines = [_annotation(f"{name}: {v.name}", "; ".join(v.reasons)) for v in shown]
    if len(bad) > len(shown):
        lines.append(_annotation(f"{name}", f"{len(bad) - len(shown)} more checks failed"))
    return lines


def _annotation(title: str, message: str) -> str:
    return f"::error title={_escaped(title, ':,')}::{_escaped(message)}"


def _escaped(text: str, also: str = "") -> str:
    for character in "%\r\n" + also:
        text = text.replace(character, f"%{ord(character):02X}")
    return text


def _detail(verdict: Verdict) -> str:
    return "\n".join(f"{name}: {cell}" for name, cell in zip(HEAD, row(verdict), strict=True) if cell)


def _shown(value: float | None, is_share: bool) -> str:
    if value is None:
        return "-"
    return f"{100 * value:.2f}" if is_share else f"{value:.6g}"


def _table(verdicts: Sequence[Verdict]) -> str:
    rows = [HEAD, ["---"] * 5 + ["--:"] * 3 + ["---"] * 2, *(row(verdict) for verdict in verdicts)]
    cells = (" | ".join(cell.replace("|", "\\|") for cell in line) for line in rows)
    return "".join(f"| {line} |\n" for line in cells)
