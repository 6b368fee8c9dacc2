"""The page, the CSV and the JSON of ``bench-kernels``: ratios on a CPU, milliseconds on a GPU."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

from climp_bench.report.kernels import (
    check_rows,
    failure_lines,
    memory_rows,
    speed_rows,
    write_kernel_report,
)
from climp_bench.results.kernels import KernelCheck, KernelRun, KernelTiming
from tests.unit.results.records import PROVENANCE

LIMITS = {"tolerance": 1e-5, "gradient_tolerance": 5e-5}


def check(backend: str, status: str, **facts: Any) -> KernelCheck:
    base = {"op": "ssd", "backend": backend, "case": "odd", "dtype": "float32", "oracle": "reference"}
    return KernelCheck.model_validate(base | LIMITS | {"status": status} | facts)


def timing(backend: str, **facts: Any) -> KernelTiming:
    base = {"op": "ssd", "backend": backend, "size": "a size", "shape": "batch 1", "dtype": "float32"}
    return KernelTiming.model_validate(base | {"direction": "forward"} | facts)


def run(gpu: str | None = None) -> KernelRun:
    peak = {"peak_mib": 1234.56} if gpu else {}
    return KernelRun(
        device="cuda" if gpu else "cpu",
        sizes="small",
        dtype="float32",
        seed=0,
        warmup=2,
        threads=7,
        driver="580.1" if gpu else None,
        cuda="13.0" if gpu else None,
        absent={"ssd: mamba-ssm": "it is not installed"},
        checks=(
            check("fast", "passed", values=2e-6, gradients={"x": 4e-5}),
            check("fast", "skipped", case="huge", reason="memory is too short: 1 GiB free"),
            check("torch", "passed", values=5e-6, gradients={"x": 1e-6}),
            check("wrong", "failed", values=1e-7, gradients={"x": 1e-7, "A": 0.25, "B": None}),
            check("wrong", "failed", case="one|two", reason="raised RuntimeError: a | b"),
        ),
        timings=(
            timing("fast", median_ms=2.0, min_ms=1.0, p95_ms=2.5, speed=4.0, repeats=20, calls=3, **peak),
            timing("torch", median_ms=8.0, min_ms=7.0, speed=1.0, repeats=5, calls=1, **peak),
            timing("wrong", reason="withheld: failed odd (float32)"),
        ),
        provenance={**PROVENANCE, "device": "cuda" if gpu else "cpu", "gpu": gpu},
    )


def test_checks_are_counted_with_their_worst_share_of_the_tolerance() -> None:
    assert check_rows(run())[1:] == [
        ["ssd", "fast", "1", "0", "1", "0.8"],
        ["ssd", "torch", "1", "0", "0", "0.5"],
        ["ssd", "wrong", "0", "2", "0", "not finite"],
    ]


def test_a_failure_names_what_is_off_and_only_that() -> None:
    odd, one = failure_lines(run())
    assert odd.startswith("ssd, wrong, odd, float32: the gradient of A is off by 2.5e-01, allowed is 5.0e-05")
    assert "gradient of B is not finite" in odd and "gradient of x" not in odd and "the result" not in odd
    assert one == "ssd, wrong, one|two, float32: raised RuntimeError: a | b"


def test_a_cpu_shows_ratios_and_a_gpu_milliseconds_too() -> None:
    head, line = speed_rows(run())
    assert head == ["op", "size", "direction", "fast", "wrong", "torch"]
    assert line == [
        "ssd",
        "a size",
        "forward",
        "4.00x (+25%)",
        "withheld: failed odd (float32)",
        "1.00x (n = 5)",
    ]
    assert speed_rows(run("NVIDIA H100 80GB HBM3"))[1][3] == "2.000 ms, 4.00x (+25%)"
    assert len(memory_rows(run())) == 1
    assert memory_rows(run("a gpu"))[1][3:] == ["1,234.6", "1,234.6", ""]


def test_files_of_a_cpu(tmp_path: Path) -> None:
    paths = write_kernel_report(run(), tmp_path / "new")
    assert [path.name for path in paths] == ["kernels-cpu.md", "kernels-cpu.csv", "kernels-cpu.json"]
    page = paths[0].read_text()
    for words in (
        "a processor, 7 threads",
        "seed 0",
        "withheld: failed odd",
        "ssd: mamba-ssm: it is not inst",
    ):
        assert words in page
    assert (
        not re.search(r"\d ms", page)
        and "a | b" in page
        and "one\\|two" in page
        and "memory is too short: 1 GiB free" in page
    )
    rows = list(csv.DictReader(paths[1].open()))
    assert [row["kind"] for row in rows] == ["check"] * 5 + ["timing"] * 3
    assert rows[3]["gradient.A"] == "0.25" and rows[3]["gradient.B"] == ""
    timed = rows[5]
    assert (timed["median_ms"], timed["milliseconds_of"], timed["threads"]) == ("2.0", "this machine", "7")
    assert rows[7]["median_ms"] == "" and rows[7]["reason"].startswith("withheld")
    content = json.loads(paths[2].read_text())
    assert content.pop("milliseconds_of") == "this machine"
    assert KernelRun.model_validate(content) == run()


def test_files_of_a_gpu_carry_its_name_and_driver(tmp_path: Path) -> None:
    paths = write_kernel_report(run("NVIDIA H100 80GB HBM3"), tmp_path)
    assert paths[0].name == "kernels-nvidia-h100-80gb-hbm3.md"
    page = paths[0].read_text()
    assert "driver 580.1, CUDA 13.0" in page and "2.000 ms" in page and "Peak memory" in page
    assert json.loads(paths[2].read_text())["milliseconds_of"] == "NVIDIA H100 80GB HBM3"
