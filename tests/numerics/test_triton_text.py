"""The Triton kernels of text compiled for a GPU that need not be there, and run on one that is."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from climp_bench.ops import triton_scan, triton_ssd, triton_ssd_walk

CASES = Path(__file__).with_name("interpreted_text.py")
SHARED_MEMORY = 227 * 1024
"""What a program may have on Hopper, bytes."""
VARIANTS = ("REVERSE", "KEEP", "CHUNKED")
POINTERS = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16"}


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    # In a process of its own: whether Triton interprets is settled when it is imported.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CASES)]
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    done = subprocess.run(command, env=environment, cwd=CASES.parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


class _Recorder:
    """Stands for a kernel: keeps how it is launched, and computes nothing."""

    def __init__(self, kernel: Any, launches: list[tuple[Any, dict[str, Any]]]) -> None:
        self.kernel, self.launches = kernel, launches

    def __getitem__(self, grid: tuple[int]) -> Any:
        return lambda **arguments: self.launches.append((self.kernel, arguments))


def launches_of(
    monkeypatch: pytest.MonkeyPatch, kernels: ModuleType, names: tuple[str, ...], run: Any
) -> list[tuple[Any, dict[str, Any]]]:
    """The kernels that ``run`` launches, and with which arguments."""
    launches: list[tuple[Any, dict[str, Any]]] = []
    with monkeypatch.context() as patched:
        for name in names:
            patched.setattr(kernels, name, _Recorder(getattr(kernels, name), launches))
        run()
    return launches


def compiled(kernel: Any, arguments: dict[str, Any]) -> Any:
    """A launch compiled for Hopper."""
    from triton import compile as triton_compile
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    arguments = dict(arguments)
    options = {name: arguments.pop(name) for name in ("num_warps", "num_stages") if name in arguments}
    assert set(arguments) == set(kernel.arg_names)
    constant = {p.name: arguments[p.name] for p in kernel.params if p.is_constexpr}
    signature = {
        name: "constexpr" if name in constant else POINTERS[value.dtype] if torch.is_tensor(value) else "i32"
        for name, value in ((name, arguments[name]) for name in kernel.arg_names)
    }
    source = ASTSource(kernel, signature, constant)
    return triton_compile(source, target=GPUTarget("cuda", 90, 32), options=options)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_all_kernels_compile(dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if find_spec("triton") is None:
        return
    from climp_bench.ops import triton_scan_kernels, triton_ssd_kernels, triton_ssd_walk_kernels

    # The interpreter runs Python, and accepts what the compiler does not.
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))

    def tensor(*shape: int) -> Tensor:
        return torch.zeros(shape, dtype=dtype).requires_grad_()

    def dual() -> None:
        for length in (20, 140):
            heads, groups = tensor(1, length, 2, 64), tensor(1, length, 1, 128)
            y = triton_ssd.ssd(heads, torch.zeros(1, length, 2), A, groups, groups, A, chunk_size=256)
            y.sum().backward()

    u, B = tensor(1, 3, 8), tensor(1, 3, 16)
    A, A_DN, D = torch.zeros(2), torch.zeros(8, 16), torch.zeros(8)

    def scan() -> None:
        y = triton_scan.selective_scan(u, u, A_DN, B, B, D, delta_bias_D=D, z_BLD=u)
        y.sum().backward()

    chunked = ("chunk_states", "pass_states", "chunk_outputs", "chunk_gradients")
    walks = dtype == torch.bfloat16
    own = (triton_ssd_walk_kernels, ("walk", "walk_back")) if walks else (triton_ssd_kernels, chunked)
    launches = [
        *launches_of(monkeypatch, triton_scan_kernels, ("scan", "scan_backward"), scan),
        *launches_of(monkeypatch, *own, dual),
    ]
    by_name: dict[str, dict[str, Any]] = {}
    for kernel, arguments in launches:
        name = kernel.fn.__name__ + "".join(f" {key}" for key in VARIANTS if arguments.get(key))
        by_name.setdefault(name, compiled(kernel, arguments))
    assert len(by_name) == (2 + 5 if walks else 2 + 8)
    for name, binary in by_name.items():
        assert binary.metadata.shared <= SHARED_MEMORY, name


@pytest.mark.parametrize(
    ("capability", "walks"),
    [((8, 0), False), ((8, 9), False), ((9, 0), True), ((10, 3), True), ((12, 0), False)],
)
def test_walks_are_for_gpus_that_hold_the_state(
    capability: tuple[int, int], walks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    x, B = (
        SimpleNamespace(dtype=torch.bfloat16, shape=(2, 77, heads, width), device=torch.device("cuda"))
        for heads, width in ((24, 64), (1, 128))
    )
    assert triton_ssd_walk.suits(x, B, B) == walks
    wide = SimpleNamespace(**{**vars(x), "shape": (2, 77, 24, 65)})
    assert not triton_ssd_walk.suits(wide, B, B) and not triton_ssd_walk.suits(
        x, B, in_dtype(torch.float16, B)
    )


def in_dtype(dtype: torch.dtype, like: SimpleNamespace) -> SimpleNamespace:
    return SimpleNamespace(**{**vars(like), "dtype": dtype})
