"""``--backend``: what was asked for is what runs, in every thread, and is in the record and in the key."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from climp_bench.cli.prepare import Selection, make_encoders
from climp_bench.embed.extract import text_key
from climp_bench.errors import BackendError, UsageError
from climp_bench.models.adapters import CatalogueEncoder
from climp_bench.ops import dispatch, resolve, torch_backend
from climp_bench.ops.dispatch import preferred
from climp_bench.ops.wanted import WantedBackends
from climp_bench.run.execute import execute
from climp_bench.run.plan import Settings, make_plan
from climp_bench.suite.schema import Suite
from tests.unit.run.test_execute import Listener


def encoder(backend: str, model: str = "climp-m1") -> CatalogueEncoder:
    (made,) = make_encoders(Selection(names=[model], device="cpu", backend=backend, quiet=True))
    assert isinstance(made, CatalogueEncoder)
    return made


@pytest.mark.parametrize(
    ("text", "backends"),
    [
        ("auto", {"ss2d": "auto", "ssd": "auto"}),
        ("torch", {"ss2d": "torch", "ssd": "torch"}),
        ("ss2d=torch", {"ss2d": "torch", "ssd": "auto"}),
        ("torch, ss2d=numba", {"ss2d": "numba", "ssd": "torch"}),
        ("ss2d=numba,ssd=reference,selective_scan=torch", {"ss2d": "numba", "ssd": "reference"}),
    ],
)
def test_choices(text: str, backends: dict[str, str]) -> None:
    assert WantedBackends.parse(text).of(["ss2d", "ssd"]) == backends


@pytest.mark.parametrize("text", ["", "torch,numba", "ss2d=", "=torch", "ss2d=torch,ss2d=numba", "torch,"])
def test_what_is_no_choice(text: str) -> None:
    with pytest.raises(UsageError, match=r"--backend: .* ss2d=torch"):
        WantedBackends.parse(text)


def test_preferences_nest_end_and_leave_other_ops_alone() -> None:
    default = {op: resolve(op, "cpu")[1] for op in dispatch.ops()}
    with preferred({"ss2d": "torch"}):
        assert resolve("ss2d", "cpu")[1] == "torch" and resolve("ssd", "cpu")[1] == default["ssd"]
        with preferred({"ss2d": "reference", "ssd": "reference"}):
            assert resolve("ss2d", "cpu")[1] == resolve("ssd", "cpu")[1] == "reference"
            assert resolve("ss2d", "cpu", "torch")[1] == "torch"
            with ThreadPoolExecutor(1) as pool:
                assert pool.submit(resolve, "ss2d", "cpu").result()[1] == default["ss2d"]
        assert resolve("ss2d", "cpu")[1] == "torch" and resolve("ssd", "cpu")[1] == default["ssd"]
    assert {op: resolve(op, "cpu")[1] for op in dispatch.ops()} == default


@pytest.mark.parametrize(
    ("backend", "model", "kind", "says"),
    [
        ("tochr", "climp-m1", UsageError, "Did you mean 'torch'"),
        ("ss2=torch", "climp-m1", UsageError, "Did you mean 'ss2d'"),
        (
            "numba",
            "climp-m2",
            UsageError,
            "ssd: there is no backend 'numba' of this op. It has: auto, triton, torch",
        ),
        ("selective_scan=mamba-ssm", "climp-m1", BackendError, "cannot run on cpu"),
        ("meta", "climp-m1", BackendError, "it computes nothing"),
        ("torch", "rope-vit", UsageError, "no model that was named has a state-space operator"),
        ("ssd=torch", "climp-m1", UsageError, "no model that was named has ssd"),
    ],
)
def test_what_cannot_be_is_an_error(backend: str, model: str, kind: type[Exception], says: str) -> None:
    with pytest.raises(kind, match=says):
        encoder(backend, model)


def test_the_choice_is_in_the_key_and_models_without_the_op_are_left_alone() -> None:
    torch_, default = encoder("torch"), encoder("auto")
    assert torch_.backends == {"ss2d": "torch", "selective_scan": "torch"}
    assert default.backends == {op: resolve(op, "cpu")[1] for op in torch_.backends}
    assert text_key(["a"], torch_).digest() != text_key(["a"], default).digest()
    assert text_key(["a"], encoder("ss2d=torch")).backend.endswith("ss2d=torch")
    selection = Selection(names=["climp-m1", "rope-vit"], device="cpu", backend="torch", quiet=True)
    assert [made.backends for made in make_encoders(selection)] == [torch_.backends, {}]


@pytest.fixture
def spies(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str]]:
    """Backends ``left`` and ``right`` of ss2d, last in preference; each call tells thread and name."""
    calls: list[tuple[int, str]] = []
    both_inside = threading.Barrier(2, timeout=30)

    def spy(name: str) -> Callable[..., Any]:
        def ss2d(*inputs: Any) -> Any:
            both_inside.wait()
            calls.append((threading.get_ident(), name))
            return torch_backend.ss2d(*inputs)

        return ss2d

    entries = dispatch._BACKENDS["ss2d"]
    for name in ("left", "right"):
        module = ModuleType(f"spy_{name}")
        module.ss2d = spy(name)  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        entries = (*entries, dispatch._Backend(name, module.__name__, lambda device: (True, "a spy")))
    monkeypatch.setitem(dispatch._BACKENDS, "ss2d", entries)
    return calls


def test_two_threads_run_each_what_its_encoder_names(spies: list[tuple[int, str]]) -> None:
    images = [torch.rand(3, *encoder("auto").preprocess.size)]
    encoders = {name: encoder(f"ss2d={name}") for name in ("left", "right")}
    threads: dict[str, int] = {}

    def encode(name: str) -> np.ndarray:
        threads[name] = threading.get_ident()
        return encoders[name].encode_images(images)

    with ThreadPoolExecutor(2) as pool:
        left, right = pool.map(encode, encoders)
    assert np.array_equal(left, right)
    blocks = len(spies) // 2
    assert blocks > 1 and sorted(spies) == sorted(
        (threads[name], name) for name in encoders for _ in range(blocks)
    )


def test_a_record_tells_the_backend_and_another_backend_measures_again(
    make_wds: Callable[..., Path], tmp_path: Path
) -> None:
    make_wds(shards=1, per_shard=3)
    suite = Suite.model_validate({"schema": 1, "name": "mine", "task": [{"dataset": "toy"}]})
    settings = Settings(out=tmp_path / "out", cache=tmp_path / "cache", data_roots=(tmp_path / "data",))

    def measure(backend: str) -> tuple[int, list[bool | None], set[str]]:
        outcome = execute(make_plan([encoder(backend)], [suite]), settings, Listener())
        told = [record.provenance for record in outcome.records]
        return outcome.reused, [t.cache_hit for t in told], {t.backends["ss2d"] for t in told}

    reused, cached, told = measure("torch")
    assert reused == 0 and not any(cached) and told == {"torch"}
    assert measure("torch")[0] == 1
    reused, cached, told = measure("auto")
    assert reused == 0 and not any(cached) and told == {resolve("ss2d", "cpu")[1]} != {"torch"}
