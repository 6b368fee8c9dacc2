"""What the documentation promises, as functions that name what is wrong."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_LINK = re.compile(r"!?\[[^\]]*\]\(\s*<?([^)\s>]+)>?[^)]*\)")
_FENCE = re.compile(r"^```([^`\n]*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_SHELLS = ("", "sh", "bash", "console", "shell")
_PROGRAM = "climp-bench"


def leaf_commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command that does something, with the words that lead to it. Hidden ones are left out."""
    children = getattr(command, "commands", None)
    if children is None:
        yield path, command
        return
    for name, child in children.items():
        if not child.hidden:
            yield from leaf_commands(child, (*path, name))


def undocumented(command: Any, text: str) -> set[str]:
    """The commands that ``text`` never shows as ``climp-bench WORDS``."""
    names = {" ".join((_PROGRAM, *path)) for path, _ in leaf_commands(command)}
    return {name for name in names if not re.search(re.escape(name) + r"(?![\w-])", text)}


def broken_links(document: Path) -> set[str]:
    """Relative links of a Markdown file to files that do not exist."""
    targets = {link.split("#")[0] for link in _LINK.findall(document.read_text(encoding="utf-8"))}
    relative = {t for t in targets if t and not re.match(r"[a-z][a-z0-9+.-]*:", t)}
    return {t for t in relative if not (document.parent / t).exists()}


def shown_commands(text: str) -> Iterator[list[str]]:
    """The words of every ``climp-bench`` call in the shell blocks of a Markdown text."""
    for block in (block for language, block in _FENCE.findall(text) if language.strip() in _SHELLS):
        for line in block.replace("\\\n", " ").splitlines():
            for part in re.split(r"&&|\|\||[;|]", line.removeprefix("$ ")):
                words = shlex.split(part, comments=True)
                if words and Path(words[0]).name == _PROGRAM:
                    yield words[1:]


def parse_fault(command: Any, words: list[str]) -> str | None:
    """Why the command line ``words`` would be refused, or None. Runs nothing."""
    rest, name = list(words), _PROGRAM
    while getattr(command, "commands", None) is not None:
        while rest and rest[0].startswith("-"):
            if rest[0] in ("--help", "-h", "--version"):
                return None
            rest.pop(0)
        if not rest:
            return None
        if rest[0] not in command.commands:
            return f"{name} has no command {rest[0]!r}"
        name, command = rest[0], command.commands[rest.pop(0)]
    if "--help" in rest or "-h" in rest:
        return None
    try:
        command.make_context(name, rest, obj={"debug": False})
    except Exception as refusal:
        message = getattr(refusal, "format_message", refusal.__str__)
        return f"{type(refusal).__name__}: {message()}"
    return None
