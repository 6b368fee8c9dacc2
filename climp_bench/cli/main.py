"""``climp-bench``: the entry point, its commands, and how errors leave it.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 partial (some tasks failed), 130 interrupted.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
from typing import Annotated

import typer

from climp_bench import __version__
from climp_bench.cli import console
from climp_bench.cli.ablation import ablation
from climp_bench.cli.bench_kernels import bench_kernels
from climp_bench.cli.bias import bias
from climp_bench.cli.cache import cache_app
from climp_bench.cli.compare import compare
from climp_bench.cli.data import data_app
from climp_bench.cli.dense import dense
from climp_bench.cli.doctor import doctor
from climp_bench.cli.efficiency import efficiency
from climp_bench.cli.gate import gate_app
from climp_bench.cli.geometry import geometry
from climp_bench.cli.helping import check_alone, silent_if_helper
from climp_bench.cli.models import models_app
from climp_bench.cli.ood import ood
from climp_bench.cli.release_check import release_check
from climp_bench.cli.report import report
from climp_bench.cli.reproduce import reproduce
from climp_bench.cli.resolution import resolution
from climp_bench.cli.results import results_app
from climp_bench.cli.scaling import app as scaling_app
from climp_bench.cli.similarity import similarity
from climp_bench.cli.suites import suites_app
from climp_bench.cli.train import train
from climp_bench.cli.zeroshot import zeroshot
from climp_bench.errors import ClimpError
from climp_bench.ranks import is_helper

EPILOG = """Examples:

- `climp-bench zeroshot` - every family on the embedded default

- `climp-bench zeroshot --model climp-m1 --suite smoke` - one model, three small tasks

- `climp-bench data show scenes` - look at the embedded images

- `climp-bench doctor` - what can run here, and why not"""

app = typer.Typer(
    name="climp-bench",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(zeroshot)
app.command()(resolution)
app.command()(ood)
app.command()(dense)
app.command()(efficiency)
app.command()(geometry)
app.command()(similarity)
app.command()(report)
app.command()(reproduce)
app.command()(compare)
app.command()(train)
app.command()(bias)
app.command()(ablation)
app.command()(bench_kernels)
app.command()(doctor)
app.command()(release_check)
app.add_typer(scaling_app, name="scaling")
app.add_typer(models_app, name="models")
app.add_typer(data_app, name="data")
app.add_typer(suites_app, name="suites")
app.add_typer(cache_app, name="cache")
app.add_typer(results_app, name="results")
app.add_typer(gate_app, name="gate")


def _version(asked: bool) -> None:
    if asked:
        console.out.print(f"climp-bench {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Evaluate CLIP-style models whose encoders are state-space models, beside their ViT baselines."""
    context.obj = {"debug": debug}
    check_alone(context.invoked_subcommand)


def main() -> None:
    """Run the command line; the process exits with one of the codes documented above."""
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    if debug:
        arguments = ["--debug", *(word for word in arguments if word != "--debug")]
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    # torch's OpenMP threads spin for a while after each operator, on cores that the scans' own threads need
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        with silent_if_helper():
            app(arguments, prog_name="climp-bench")
    except ClimpError as error:
        if debug:
            raise
        console.show_error(error)
        sys.exit(error.exit_code)
    except Exception as error:
        if debug:
            raise
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = "Free some space; what was finished before is kept."
            console.show_error(
                ClimpError("the disk is full", where=error.filename or "output", remedy=remedy)
            )
            sys.exit(1)
        remedy = "This is a defect of climp-bench: run again with --debug and report what it prints."
        console.show_error(ClimpError(f"unexpected {type(error).__name__}: {error}", remedy=remedy))
        sys.exit(1)
    except SystemExit as stop:
        if stop.code == 130 and not is_helper():
            console.note(
                "Interrupted. What was finished is kept; run the same command again to go on.", always=True
            )
        raise


if __name__ == "__main__":
    main()
