"""Every job of the project, run in the environment that nox itself is installed in (torch is installed once).

python3 -m venv .venv && .venv/bin/pip install -e '.[test,dev]'
.venv/bin/nox -s tests lint types layers docs gate
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path

import nox

nox.options.default_venv_backend = "none"
nox.options.sessions = ["tests", "lint", "types", "layers", "docs", "gate"]

PYTHON = sys.executable


@nox.session
def zeroshot(session: nox.Session) -> None:
    """The main job: zero-shot evaluation of every family on the embedded default."""
    session.run(PYTHON, "-m", "climp_bench.cli.main", "zeroshot", *session.posargs, external=True)


@nox.session
def tests(session: nox.Session) -> None:
    """All tests but those that need a CUDA device, a file at a time on each core; `-- -m gpu` runs those."""
    cores = min(4, os.cpu_count() or 1)  # a process takes up to 3 GB
    spread = ["-n", str(cores), "--dist", "loadfile", "--no-loadscope-reorder", "-m", "not gpu"]
    session.run(
        PYTHON, "-m", "pytest", "-q", *(session.posargs or spread), external=True,
        env={"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff: rules, then layout of the code."""
    session.run(PYTHON, "-m", "ruff", "check", ".", external=True)
    session.run(PYTHON, "-m", "ruff", "format", "--check", ".", external=True)


@nox.session
def types(session: nox.Session) -> None:
    """Mypy, strict, on the package."""
    session.run(PYTHON, "-m", "mypy", external=True)


@nox.session
def layers(session: nox.Session) -> None:
    """The import order of the rooms."""
    start = "from importlinter.cli import lint_imports_command as main; main()"
    session.run(PYTHON, "-c", start, "--no-logo", external=True)


@nox.session
def docs(session: nox.Session) -> None:
    """Links, commands and examples of the documentation."""
    session.run(PYTHON, "-m", "pytest", "-q", "tests/docs", external=True)


@nox.session
def gate(session: nox.Session) -> None:
    """Evaluate the shipped models on the embedded suite and hold them against the committed baseline."""
    program = (PYTHON, "-m", "climp_bench.cli.main")
    with tempfile.TemporaryDirectory() as name:
        out = str(Path(name) / "run")
        # Embeddings of earlier code must not stand in for those of this one.
        place = ("--out", out, "--cache", str(Path(name) / "cache"))
        session.run(*program, "zeroshot", "--quiet", *place, external=True)
        words = ("--rules", "embedded", "--results", out, *session.posargs)
        session.run(*program, "gate", "check", *words, external=True)


READ_WHAT_TRAVELS = """
import climp_bench
from climp_bench.models import catalogue, store, tokenizer, weights

specs = [spec for spec in catalogue.MODELS if store.locate(spec)]
for spec in specs:
    tokenizer.load(spec.tokenizer)
    weights.load(spec, store.locate(spec))
print(climp_bench.__file__, len(specs))
"""


@nox.session
def build(session: nox.Session) -> None:
    """Source distribution and, from that, a wheel in dist/, after the wheel has run on its own elsewhere."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        built = folder / "dist"
        words = ("-m", "build", "--no-isolation", "--outdir", str(built))
        session.run(PYTHON, *words, external=True)
        (wheel,) = built.glob("*.whl")
        _try_wheel(session, wheel, folder)
        shutil.copytree(built, Path(__file__).parent / "dist", dirs_exist_ok=True)


def _try_wheel(session: nox.Session, wheel: Path, folder: Path) -> None:
    """Install the wheel into a new environment that borrows this one's packages, and run it in ``folder``."""
    home = folder / "venv"
    session.run(PYTHON, "-m", "venv", str(home), external=True)
    scripts = home / ("Scripts" if os.name == "nt" else "bin")
    python = str(scripts / "python")
    session.run(python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", str(wheel), external=True)
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    own = Path(_output(session, python, "-c", ask).strip())
    # A path in a .pth file is searched last, and .pth files in there (an editable install) are not read.
    borrowed = dict.fromkeys(sysconfig.get_path(part) for part in ("purelib", "platlib"))
    (own / "borrowed.pth").write_text("".join(f"{path}\n" for path in borrowed), encoding="utf-8")
    program = str(scripts / "climp-bench")
    away = {"CLIMP_BENCH_HOME": str(folder / "home"), "PYTHONPATH": None}
    with session.chdir(folder):
        place, read = _output(session, python, "-c", READ_WHAT_TRAVELS, env=away).rsplit(maxsplit=1)
        if not Path(place).is_relative_to(own):
            session.error(f"not the installed wheel: {place}")
        session.run(program, "suites", "list", env=away, external=True)
        models = json.loads(_output(session, program, "models", "list", "--json", env=away))
        session.run(program, "data", "show", "scenes", "--out", "x.png", env=away, external=True)
        picture = Path("x.png").read_bytes()
    here, inside = Path(__file__).parent, own / "climp_bench"
    shipped = [model["model"] for model in models if model["weights"] == "shipped"]
    suites = {path.name for path in (inside / "_suites").glob("*.toml")}
    session.log(f"{wheel.name}: {len(suites)} suites; read the weights of {', '.join(shipped)}")
    if suites != {path.name for path in (here / "suites").glob("*.toml")}:
        session.error("the wheel lacks suites")
    if not int(read) == len(shipped) == len(list(here.glob("climp_bench/models/shipped/*/*.safetensors"))):
        session.error("the wheel lacks weights")
    if not picture.startswith(b"\x89PNG"):
        session.error("no picture was drawn")


def _output(session: nox.Session, *words: str, env: dict[str, str | None] | None = None) -> str:
    """What a command prints on stdout; its stderr is left out."""
    return str(session.run(*words, env=env, silent=True, stderr=None, external=True))
