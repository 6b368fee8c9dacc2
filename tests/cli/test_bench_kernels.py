"""``bench-kernels`` as a user meets it: tables, files, exit codes; a wrong backend is not timed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.testing import CliRunner

from climp_bench.cli.main import app
from climp_bench.errors import BackendError, UsageError
from climp_bench.ops import dispatch, torch_backend_ssd

QUICK = ("bench-kernels", "--device", "cpu", "--sizes", "tiny", "--op", "ssd", "--repeats", "2", "--out")


def test_a_right_backend_is_checked_timed_and_written(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, [*QUICK, str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "1.00x" in done.stdout and " ms" not in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {
        f"kernels-cpu.{kind}" for kind in ("md", "csv", "json")
    }


def test_a_wrong_backend_is_withheld_and_the_exit_code_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ssd(*inputs: Any, **options: Any) -> Any:
        return torch_backend_ssd.ssd(*inputs, **options) * 1.01

    module = ModuleType("planted_backend")
    monkeypatch.setattr(module, "ssd", ssd, raising=False)
    monkeypatch.setitem(sys.modules, "planted_backend", module)
    monkeypatch.setattr(dispatch, "_loaded", {})
    entry = dispatch._Backend("planted", "planted_backend", lambda device: (True, "planted"))
    monkeypatch.setitem(dispatch._BACKENDS, "ssd", (entry, *dispatch._BACKENDS["ssd"]))

    done = CliRunner().invoke(app, [*QUICK, str(tmp_path), "--json", "--no-backward"])
    assert done.exit_code == 1
    shown = json.loads(done.stdout)
    assert shown == json.loads((tmp_path / "kernels-cpu.json").read_text())
    timed = {timing["backend"]: timing for timing in shown["timings"]}
    assert timed["planted"]["reason"] == "withheld: failed length 1 (float32)"
    assert timed["planted"]["median_ms"] is None and timed["torch"]["median_ms"] > 0
    assert {timing["direction"] for timing in shown["timings"]} == {"forward"}
    assert "withheld: failed length 1" in (tmp_path / "kernels-cpu.md").read_text()


@pytest.mark.parametrize(
    ("words", "kind", "says"),
    [
        (("--op", "selectivescan"), UsageError, "selective_scan"),
        (("--backend", "nunba"), UsageError, "numba"),
        (("--dtype", "bfloat"), UsageError, "bfloat16"),
        (("--sizes", "papers"), UsageError, "paper"),
        (("--backend", "triton"), BackendError, "triton"),
    ],
)
def test_wrong_words_are_explained_and_nothing_is_written(
    tmp_path: Path, words: tuple[str, ...], kind: type[Exception], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    done = CliRunner().invoke(
        app, ["bench-kernels", "--device", "cpu", "--out", str(tmp_path / "new"), *words]
    )
    assert isinstance(done.exception, kind) and says in str(done.exception)
    assert not (tmp_path / "new").exists()
