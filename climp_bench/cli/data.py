"""``climp-bench data``: list, show, check."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from climp_bench.cli import console
from climp_bench.cli import options as opt
from climp_bench.cli.rephrase import rephrase

if TYPE_CHECKING:
    from climp_bench.data.dataset import Dataset
    from climp_bench.errors import DataError

LISTED = 50
"""Damaged images that ``data check`` names."""

data_app = typer.Typer(
    no_args_is_help=True, help="Data sets: what is measured on.", rich_markup_mode="markdown"
)
data_app.command()(rephrase)


@data_app.command("list")
def list_data(json: opt.AsJson = False) -> None:
    """List the data sets of the catalogue.

    Example:

      climp-bench data list
    """
    from rich.table import Table

    from climp_bench.data.catalogue import DATASETS

    if json:
        keys = ("name", "kind", "n", "n_classes", "revision", "licence", "description")
        console.print_json([{key: getattr(entry, key) for key in keys} for entry in DATASETS])
        return
    table = Table("data set", "kind", box=None, pad_edge=False)
    for name in ("images", "classes"):
        table.add_column(name, justify="right")
    table.add_column("to fetch", justify="right")
    table.add_column("what it is")
    for entry in DATASETS:
        if entry.name.startswith("crossmodal3600/") and entry.name != "crossmodal3600/en":
            continue
        classes = str(entry.n_classes) if entry.n_classes else ""
        source = entry.published
        fetch = "" if source is None else source.size if source.bytes else "?" if source.repo else "yours"
        table.add_row(entry.name, entry.kind, f"{entry.n:,}", classes, fetch, entry.description)
    console.print_table(table)
    console.note("crossmodal3600/LANGUAGE stands for 36 of them; `data list --json` lists all.")
    console.note("Any folder in the CLIP-Benchmark webdataset layout works too: --data-root PARENT.")


@data_app.command("show")
def show_data(
    name: Annotated[str, typer.Argument(help="`scenes` (a tour of all its tasks) or a data set's name.")],
    n: Annotated[int, typer.Option("--n", min=1, max=400, help="How many images.")] = 24,
    size: Annotated[
        int, typer.Option("--size", min=32, max=1024, help="Pixels per side of a drawn image.")
    ] = 128,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="PNG to write. Default: NAME.png.")] = None,
    data_root: opt.DataRoots = None,
) -> None:
    """Tell what is known of a data set, and write a contact sheet of its images with labels or captions.

    Of a published set that is not here only what is known is told: nothing is fetched.

    Examples:

      climp-bench data show scenes

      climp-bench data show nocaps

      climp-bench data show scenes-dense --n 6 --size 256
    """
    from climp_bench.data.catalogue import DATASETS, is_here
    from climp_bench.data.sheet import write_sheet

    facts = DATASETS.get(name).published if name in DATASETS else None
    if facts is not None:
        here = is_here(facts, tuple(data_root or ()))
        ways = "`climp-bench data pull`, or --data-root PARENT" if facts.repo else "--data-root PARENT"
        where = "yes" if here else f"no: {ways}"
        for word, text in [*facts.facts(), ("here", where)]:
            console.out.print(f"{word:13} {text}", highlight=False, markup=False, soft_wrap=True)
        if not here:
            return
    path = out or Path(f"{name.replace('/', '-')}.png")
    write_sheet(name, n, size, path, tuple(data_root or ()))
    console.out.print(f"Written: {path}", highlight=False, soft_wrap=True)


@data_app.command("pull")
def pull_data(
    names: Annotated[list[str], typer.Argument(help="Published data sets of `climp-bench data list`.")],
    offline: opt.Offline = False,
    quiet: opt.Quiet = False,
) -> None:
    """Fetch published data sets at their pinned revisions, each with its size first.

    What is here already is not fetched again; an interrupted transfer goes on where it stopped.

    Examples:

      climp-bench data pull nocaps

      climp-bench data pull mnist vtab/dtd
    """
    from climp_bench.data.catalogue import DATASETS, fetch
    from climp_bench.errors import UsageError

    if quiet:
        console.no_download_bars()
    for name in names:
        facts = DATASETS.get(name).published
        if facts is None:
            remedy = "Use it as it is."
            raise UsageError("it is made here, there is nothing to fetch", where=name, remedy=remedy)
        if not facts.commit and facts.repo and not quiet:
            console.note(f"{name}: {facts.pin}", always=True)
        folder = fetch(
            facts,
            offline=offline,
            announce=lambda text: None if quiet else console.note(f"Fetching {text}", always=True),
        )
        console.out.print(f"{name}: {folder}", highlight=False, soft_wrap=True)


@data_app.command("check")
def check_data(
    name: Annotated[str, typer.Argument(help="A catalogue name, or a folder under --data-root.")],
    data_root: opt.DataRoots = None,
) -> None:
    """Read every image, label and caption of a data set and count them.

    Images that cannot be read are listed, the first 50 of them; the exit code is then 1.

    Example:

      climp-bench data check fashion_mnist --data-root ~/data
    """
    from climp_bench.data.catalogue import open_dataset
    from climp_bench.data.dataset import check_count
    from climp_bench.embed.sets import annotate
    from climp_bench.errors import DataError

    dataset = open_dataset(name, tuple(data_root or ()))
    check_count(dataset, None)
    notes = annotate(dataset)
    bad = _unreadable(dataset)
    for error in bad[:LISTED]:
        console.out.print(f"{error.where}: {error.what}", highlight=False, markup=False, soft_wrap=True)
    if len(bad) > LISTED:
        console.out.print(f"... and {len(bad) - LISTED:,} more", highlight=False)
    facts = [f"{len(dataset) - len(bad):,} images decode", f"kind {dataset.kind}"]
    if bad:
        facts.insert(1, f"{len(bad):,} do not")
    if dataset.classes:
        facts += [f"{len(dataset.classes)} classes", f"{len(dataset.templates)} templates"]
    else:
        facts.append(f"{len(notes.texts):,} captions")
    console.out.print(f"{name}: {', '.join(facts)}", highlight=False, soft_wrap=True)
    console.out.print(f"fingerprint {dataset.fingerprint()}", highlight=False, soft_wrap=True)
    if bad:
        remedy = "Replace them, or leave them out of an evaluation: --skip-corrupt."
        noun = "image cannot be read" if len(bad) == 1 else "images cannot be read"
        raise DataError(f"{len(bad):,} {noun}", where=name, remedy=remedy)


def _unreadable(dataset: Dataset) -> list[DataError]:
    """What is wrong with the images that cannot be read, in order."""
    from rich.progress import track

    from climp_bench.errors import DataError

    hidden = not console.err.is_terminal
    bad = []
    for i in track(range(len(dataset)), "decoding", console=console.err, transient=True, disable=hidden):
        try:
            dataset.image(i, (64, 64))
        except DataError as error:
            bad.append(error)
    return bad
