"""``climp-bench cache``: list, gc, verify."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from climp_bench.cli import console
from climp_bench.cli import options as opt

if TYPE_CHECKING:
    from climp_bench.embed.cache_admin import Policy, StoredEntry

cache_app = typer.Typer(
    no_args_is_help=True,
    help="Embeddings that are kept: what there is, what can go, is it whole.",
    rich_markup_mode="markdown",
)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_SIZES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


@cache_app.command("list")
def list_cache(cache: opt.Cache = None, json: opt.AsJson = False) -> None:
    """List the embeddings in the cache, last used first.

    Example:

      climp-bench cache list
    """
    from rich.table import Table

    from climp_bench.embed.cache import default_root
    from climp_bench.embed.cache_admin import entries

    root, now = cache or default_root(), time.time()
    found = entries(root)
    if json:
        console.print_json([_facts(entry) for entry in found])
        return
    if not found:
        console.out.print(f"No embeddings in {root}.", highlight=False, soft_wrap=True)
        return
    table = Table("model", "of", box=None, pad_edge=False)
    for name in ("n", "px", "dtype", "backend", "size", "used", "key"):
        table.add_column(name, justify="right" if name in ("n", "px", "size", "used") else "left")
    for entry in found:
        key = entry.key
        model, dtype, backend = (key.model, key.dtype, key.backend) if key else (f"({entry.state})", "", "")
        size = "x".join(map(str, entry.size)) if entry.size else ""
        count = f"{entry.rows:,}" if key else ""
        shown = (count, size, dtype, backend, _bytes(entry.bytes), _ago(now - entry.used), entry.digest[:12])
        table.add_row(model, _what(entry), *shown)
    console.print_table(table)
    total = _bytes(sum(entry.bytes for entry in found))
    console.out.print(f"{len(found)} entries, {total}, in {root}", highlight=False, soft_wrap=True)


@cache_app.command("gc")
def collect_garbage(
    cache: opt.Cache = None,
    older_than: Annotated[
        str | None, typer.Option("--older-than", help="Remove what was not used for so long: 12h, 30d, 8w.")
    ] = None,
    max_size: Annotated[
        str | None,
        typer.Option("--max-size", help="Remove what was used longest ago until so much is left: 20GB."),
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option("--model", "-m", help="Remove a model's embeddings; * and ? match.")
    ] = None,
    orphans: Annotated[
        bool,
        typer.Option("--orphans", help="Remove embeddings of our models by weights no longer in the store."),
    ] = False,
    unfinished_after: Annotated[
        str, typer.Option("--unfinished-after", help="Remove what an interrupted run left so long ago.")
    ] = "1d",
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Remove. Without it, only say what would go.")
    ] = False,
    json: opt.AsJson = False,
) -> None:
    """Remove embeddings that are old, too many or of no use, and leftovers of killed runs.

    Only says what would go, unless told `--yes`. Without other options: damaged entries and leftovers. What a
    running evaluation writes or has just read stays.

    Examples:

      climp-bench cache gc --older-than 30d

      climp-bench cache gc --max-size 20GB --orphans --yes
    """
    from climp_bench.embed.cache import default_root
    from climp_bench.embed.cache_admin import Policy, weights_here

    present, known = weights_here() if orphans else (None, frozenset())
    policy = Policy(
        older_than=None if older_than is None else parse_age(older_than, "--older-than"),
        max_bytes=None if max_size is None else parse_size(max_size, "--max-size"),
        models=tuple(model or ()),
        present=present,
        known=known,
        unfinished_after=parse_age(unfinished_after, "--unfinished-after"),
    )
    _collect(cache or default_root(), policy, yes, json)


def _collect(root: Path, policy: Policy, yes: bool, json: bool) -> None:
    from climp_bench.embed.cache_admin import choose, entries, leftovers, remove, sweep_up

    found, loose = entries(root), leftovers(root)
    doomed = choose(found, policy, time.time())
    done, freed = [], 0
    if yes:
        freed = sweep_up(loose)
        for one in doomed:
            if remove(one.entry):
                done.append(one)
                freed += one.entry.bytes
    gone = {one.entry.digest for one in done}
    rows: list[dict[str, Any]] = [
        _facts(one.entry) | {"reason": one.reason, "removed": one.entry.digest in gone} for one in doomed
    ]
    would = sum(one.entry.bytes for one in doomed)
    if json:
        console.print_json({"entries": rows, "leftovers": [str(path) for path in loose], "freed": freed,
                            "would_free": would, "dry_run": not yes})  # fmt: skip
        return
    _show_doomed(doomed_rows=rows, loose=len(loose), yes=yes)
    verb = f"Freed {_bytes(freed)}" if yes else f"Would free {_bytes(would)}; --yes removes"
    kept = len(found) - (len(done) if yes else len(doomed))
    console.out.print(f"{verb}. {kept} entries stay in {root}.", highlight=False, soft_wrap=True)
    if yes and len(done) < len(doomed):
        console.out.print(f"{len(doomed) - len(done)} of them stay because they are in use.", highlight=False)


def _show_doomed(doomed_rows: list[dict[str, Any]], loose: int, yes: bool) -> None:
    from rich.table import Table

    if doomed_rows:
        table = Table("removed" if yes else "would go", "of", box=None, pad_edge=False)
        table.add_column("size", justify="right")
        table.add_column("key")
        table.add_column("why")
        for row in doomed_rows:
            why = row["reason"] + (" (in use: kept)" if yes and not row["removed"] else "")
            name = row["model"] or f"({row['state']})"
            table.add_row(name, row["of"], _bytes(row["bytes"]), row["key"][:12], why)
        console.print_table(table)
    if loose:
        console.out.print(f"{loose} leftover files of killed runs.", highlight=False)


@cache_app.command("verify")
def verify_cache(
    cache: opt.Cache = None,
    delete_bad: Annotated[
        bool, typer.Option("--delete-bad", help="Remove damaged entries; the next run makes them again.")
    ] = False,
    json: opt.AsJson = False,
) -> None:
    """Read every part of every entry and hold it against the digest in its manifest.

    Exit code 1 if something is damaged (and, with `--delete-bad`, could not be removed).

    Example:

      climp-bench cache verify --delete-bad
    """
    from climp_bench.embed.cache import default_root
    from climp_bench.embed.cache_admin import entries, verify

    root = cache or default_root()
    found, bad = entries(root), []
    with console.steps(len(found), json) as step:
        for entry in found:
            step(entry.digest[:12])
            if (reason := verify(entry, delete=delete_bad)) is not None:
                bad.append(_facts(entry) | {"fault": reason, "removed": delete_bad})
    if json:
        console.print_json({"checked": len(found), "bytes": sum(e.bytes for e in found), "bad": bad})
    else:
        for row in bad:
            name = f"{row['model'] or row['state']} {row['of']}".strip()
            line = f"damaged: {row['folder']} ({name}): {row['fault']}{'; removed' if delete_bad else ''}"
            console.out.print(line, style="red", highlight=False, markup=False, soft_wrap=True)
        total = _bytes(sum(entry.bytes for entry in found))
        verdict = f"{len(found) - len(bad)} of {len(found)} entries are whole ({total} read in {root})."
        console.out.print(verdict, highlight=False, soft_wrap=True)
        if bad and not delete_bad:
            console.note("--delete-bad removes them; the next run makes them again.", always=True)
    if bad and not delete_bad:
        raise typer.Exit(1)


def parse_age(text: str, where: str) -> float:
    """``90s``, ``5m``, ``12h``, ``30d`` or ``8w`` in seconds. Raises ``UsageError`` for anything else."""
    from climp_bench.errors import UsageError

    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhdw])\s*", text.lower())
    if match is None:
        raise UsageError(f"{text!r} is no age", where=where, remedy="Write 12h, 30d or 8w.")
    return float(match[1]) * _UNITS[match[2]]


def parse_size(text: str, where: str) -> int:
    """``500MB``, ``20GB``, ``1.5TB`` or bytes; powers of 1000. Raises ``UsageError`` for anything else."""
    from climp_bench.errors import UsageError

    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)b?\s*", text.lower())
    if match is None:
        raise UsageError(f"{text!r} is no size", where=where, remedy="Write 500MB or 20GB.")
    return int(float(match[1]) * _SIZES[match[2]])


def _facts(entry: StoredEntry) -> dict[str, Any]:
    """An entry as JSON: what ``cache list`` shows, and all that its key is made of."""
    from dataclasses import asdict
    from datetime import datetime, timezone

    key = entry.key
    return {
        "key": entry.digest,
        "state": entry.state,
        "model": key.model if key else None,
        "of": _what(entry),
        "n": entry.rows if key else None,
        "resolution": list(entry.size) if entry.size else None,
        "bytes": entry.bytes,
        "used": datetime.fromtimestamp(entry.used, timezone.utc).isoformat(),
        "folder": str(entry.folder),
        "depends_on": asdict(key) if key else None,
    }


def _what(entry: StoredEntry) -> str:
    if entry.key is None:
        return ""
    return entry.label or ("texts" if entry.key.side == "text" else "images")


def _bytes(count: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"


def _ago(seconds: float) -> str:
    for unit in ("d", "h", "m"):
        if seconds >= _UNITS[unit]:
            return f"{int(seconds // _UNITS[unit])}{unit}"
    return f"{max(0, int(seconds))}s"
