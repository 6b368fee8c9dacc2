"""Small sweeps in processes of their own, which the fault tests kill, starve and set against each other."""

from __future__ import annotations

import os
import resource
import signal
import threading
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from climp_bench.results import ResultStore

Scores = dict[tuple[str, str, str], tuple[float, float, float] | str]
SUITE = {
    "schema": 1,
    "name": "faults",
    "task": [{"dataset": "scenes-colour", "n": 60}, {"dataset": "scenes-captions", "n": 20}],
}
MODELS = ("rope-vit", "flexivit")
SECONDS = 120
PRELOADED = (
    "climp_bench.run.execute",
    "climp_bench.models.vit",
    "climp_bench.models.llama",
    "transformers.models.llama.modeling_llama",
    "timm.models.eva",
    "sklearn.datasets",
)


def start(target: Callable[..., None], *arguments: Any) -> ForkServerProcess:
    """``target`` in a process of its own, forked from a server that pays for the heavy imports once."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["tests.fault_sweeps", *PRELOADED])
    process = context.Process(target=target, args=arguments)
    process.start()
    return process


def finish(process: ForkServerProcess) -> int:
    """Exit code of a process; one that hangs is ended, which is no exit code of a test that passes."""
    process.join(SECONDS)
    if process.exitcode is None:
        process.kill()
        process.join()
    assert process.exitcode is not None
    return process.exitcode


def scores(out: Path) -> Scores:
    """Value and interval, or the reason why there is none, of every record below ``out``."""
    found: Scores = {}
    for r in ResultStore(out / "records").read():
        place = (r.model.name, r.task, r.metric)
        if r.value is None:
            assert r.error is not None
            found[place] = r.error.what
        else:
            assert r.interval is not None
            found[place] = (r.value, r.interval.low, r.interval.high)
    return found


class _Events:
    """Counts what a sweep does (batches encoded, files flushed, files put in place); kills at one of them."""

    def __init__(self, kill_at: int | None) -> None:
        self.kill_at, self.total, self.encoded = kill_at, 0, 0
        self._lock = threading.Lock()

    def wrap(self, function: Callable[..., Any], encodes: bool = False) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            with self._lock:
                self.total += 1
                self.encoded += encodes
                if self.total == self.kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return counted


def sweep(out: Path, cache: Path, kill_at: int | None = None) -> None:
    """Two micro models on two tiny tasks, in small parts; ``out/counts`` tells events and batches encoded."""
    import torch

    from climp_bench.embed import batches, extract
    from climp_bench.models.adapters import CatalogueEncoder
    from climp_bench.models.weights import resolve

    torch.set_num_threads(1)
    extract.PART_IMAGES, extract.PART_TEXTS, batches._CPU_IMAGES = 16, 32, 8
    events = _Events(kill_at)
    for name in ("encode_images", "encode_tokens"):
        setattr(CatalogueEncoder, name, events.wrap(getattr(CatalogueEncoder, name), encodes=True))
    os.fsync, os.replace = events.wrap(os.fsync), events.wrap(os.replace)
    _run([CatalogueEncoder(resolve(name)) for name in MODELS], SUITE, out, cache)
    (out / "counts").write_text(f"{events.total} {events.encoded}")


def read_only(folder: Path, data: Path) -> None:
    """Fill a cache, lose the right to write it, then evaluate the same and something else."""
    from tests.fakes import ToyEncoder

    known = {"schema": 1, "name": "known", "task": [{"dataset": "toy"}]}
    new = {"schema": 1, "name": "new", "task": [{"dataset": "toy", "templates": ["{c}!"]}]}
    _run([ToyEncoder()], known, folder / "first", folder / "cache", data)
    (folder / "second").mkdir()
    (folder / "second").chmod(0o777)
    for path in sorted((folder / "cache").rglob("*"), reverse=True):
        path.chmod(0o555 if path.is_dir() else 0o444)
    (folder / "cache").chmod(0o555)
    if os.geteuid() == 0:
        os.seteuid(65534)
    _run([ToyEncoder()], known, folder / "second", folder / "cache", data)
    _run([ToyEncoder()], new, folder / "second", folder / "cache", data)


def without_room(out: Path, cache: Path, data: Path, limit: int | None) -> None:
    """Evaluate where files cannot grow beyond ``limit`` bytes (None: the disk itself is small)."""
    from climp_bench.embed import extract
    from tests.fakes import ToyEncoder

    extract.PART_IMAGES = 100
    if limit is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    suite = {"schema": 1, "name": "full", "task": [{"dataset": "toy"}]}
    _run([ToyEncoder()], suite, out, cache, data)


def _run(
    encoders: list[Any], suite: dict[str, Any], out: Path, cache: Path, data: Path | None = None
) -> None:
    from climp_bench.run.execute import execute
    from climp_bench.run.plan import Settings, make_plan
    from climp_bench.suite.schema import Suite
    from tests.unit.run.test_execute import Listener

    settings = Settings(out=out, cache=cache, data_roots=(data,) if data else ())
    execute(make_plan(encoders, [Suite.model_validate(suite)]), settings, Listener())
