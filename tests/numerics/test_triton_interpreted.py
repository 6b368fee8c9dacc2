"""The Triton kernels on a CPU. Triton's interpreter is asked for before its import, so in another process."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from climp_bench.ops import backends

HERE = Path(__file__).parent
CASES = sorted(HERE.glob("interpreted_*.py"))


@pytest.mark.parametrize("cases", CASES, ids=lambda path: path.stem)
def test_the_kernels_agree_with_the_reference(cases: Path) -> None:
    if find_spec("triton") is None:  # there are none for some platforms
        assert "triton is not installed" in {b.name: b for b in backends("ss2d", "cuda")}["triton"].reason
        return
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(cases)]
    environment = os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, cwd=HERE.parents[1], env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert " passed" in ran.stdout
