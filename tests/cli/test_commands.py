"""The command line as a user meets it: output, errors, exit codes, nothing lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from climp_bench.cli.options import default_workers
from tests.conftest import png, write_tar


def climp(
    *words: str, home: Path, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own, with a home of its own."""
    settings = {**os.environ, "CLIMP_BENCH_HOME": str(home), "PYTHONWARNINGS": "ignore", **environment}
    return subprocess.run(
        [sys.executable, "-m", "climp_bench", *words],
        capture_output=True,
        text=True,
        env=settings,
        cwd=cwd or home,
        timeout=300,
    )


def test_help_lists_commands_with_examples(tmp_path: Path) -> None:
    done = climp("--help", home=tmp_path)
    assert done.returncode == 0
    for word in ("zeroshot", "train", "models", "data", "suites", "doctor", "Examples"):
        assert word in done.stdout
    for command in ("zeroshot", "train", "doctor"):
        assert "Example" in climp(command, "--help", home=tmp_path).stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("zeroshop",), "zeroshot"),
        (("zeroshot", "--suit", "smoke"), "--suite"),
        (("zeroshot", "--suite", "embeded"), "Did you mean 'embedded'"),
        (("zeroshot", "--model", "climp-m3"), "climp-m"),
        (("zeroshot", "--device", "tpu"), "Use auto, cpu or cuda"),
        (("zeroshot", "--dtype", "float8"), "float16"),
        (("zeroshot", "--model", "climp-m1@huge"), "micro"),
        (("data", "check", "scenes-shap"), "scenes-shape"),
        (("models", "show", "flexvit"), "flexivit"),
        (("train", "rope-vit", "--samples", "64", "--batch-size", "64", "--pool-size", "8"), "pool"),
    ],
)
def test_wrong_words_are_explained_without_a_traceback(
    tmp_path: Path, words: tuple[str, ...], says: str
) -> None:
    done = climp(*words, home=tmp_path)
    assert done.returncode in (1, 2)
    assert says in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = climp("zeroshot", "--suite", "embeded", "--debug", home=tmp_path)
    assert done.returncode != 0 and "Traceback" in done.stderr


def test_listings_as_json(tmp_path: Path) -> None:
    models = json.loads(climp("models", "list", "--json", home=tmp_path).stdout)
    shipped = {row["model"] for row in models if row["weights"] == "shipped"}
    assert shipped == {f"{f}@micro" for f in ("climp-m1", "climp-m2", "rope-vit", "flexivit", "naflexvit")}
    data = json.loads(climp("data", "list", "--json", home=tmp_path).stdout)
    assert {"scenes-shape", "sklearn-digits"} <= {row["name"] for row in data}
    doctor = json.loads(climp("doctor", "--json", home=tmp_path).stdout)
    assert "run by numba on cpu" in doctor["backends"]["ss2d"] or "on cuda" in doctor["backends"]["ss2d"]
    assert doctor["backends"]["ss2d: torch"].startswith(("can run", "runs by default"))
    assert doctor["weights"]["climp-m1@micro"].startswith("shipped")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with a good classification folder and one with a corrupt image."""
    root = tmp_path_factory.mktemp("data")
    for name in ("good", "bad"):
        members = []
        for i in range(6):
            members += [(f"s{i}.png", png(i, (32, 32))), (f"s{i}.cls", str(i % 2).encode())]
        if name == "bad":
            members[6] = ("s3.png", b"not a picture")
        write_tar(root / name / "test" / "0.tar", members)
        (root / name / "test" / "nshards.txt").write_text("1")
        (root / name / "classnames.txt").write_text("cat\ndog\n")
        (root / name / "zeroshot_classification_templates.txt").write_text("a photo of a {c}.\n")
    (root / "both.toml").write_text(
        'schema = 1\nname = "both"\n[[task]]\ndataset = "bad"\n[[task]]\ndataset = "good"\nn = 6\n'
    )
    (root / "good.toml").write_text('schema = 1\nname = "good"\n[[task]]\ndataset = "good"\n')
    (root / "bad.toml").write_text('schema = 1\nname = "bad"\n[[task]]\ndataset = "bad"\n')
    return root


def test_a_partial_run_keeps_what_worked_and_exits_with_3(tmp_path: Path, pairs: Path) -> None:
    words = (
        "zeroshot",
        "--model",
        "rope-vit",
        "--suite",
        str(pairs / "both.toml"),
        "--data-root",
        str(pairs),
    )
    done = climp(*words, home=tmp_path)
    assert done.returncode == 3, done.stderr
    assert "0.tar:s3.png" in done.stderr and "Traceback" not in done.stderr
    assert "good" in done.stdout and "failed" in done.stdout
    again = climp(*words, "--json", home=tmp_path)
    records = json.loads(again.stdout)
    statuses = {(r["task"], r["metric"]): r["status"] for r in records}
    assert statuses["good", "acc1"] == "ok" and statuses["bad", "any"] == "failed"
    assert all(r["value"] is None for r in records if r["status"] != "ok")
    page = (tmp_path / "reports" / "zeroshot-both.md").read_text()
    assert "Not measured" in page and "0.tar:s3.png" in page


def test_nothing_but_the_table_where_nobody_watches(tmp_path: Path, pairs: Path) -> None:
    words = ("--suite", str(pairs / "good.toml"), "--data-root", str(pairs))
    done = climp("zeroshot", "--model", "rope-vit", *words, home=tmp_path)
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.splitlines()[0].startswith("good: percent")


def test_a_run_where_everything_failed_exits_with_1(tmp_path: Path, pairs: Path) -> None:
    words = ("--suite", str(pairs / "bad.toml"), "--data-root", str(pairs))
    assert climp("zeroshot", "--model", "rope-vit", *words, home=tmp_path).returncode == 1


def test_validate_and_check_find_faults(tmp_path: Path, pairs: Path) -> None:
    roots = ("--data-root", str(pairs))
    assert climp("suites", "validate", str(pairs / "both.toml"), *roots, home=tmp_path).returncode == 0
    assert climp("suites", "validate", "fashion-mnist", home=tmp_path).returncode == 1
    assert climp("data", "check", "good", *roots, home=tmp_path).returncode == 0
    bad = climp("data", "check", "bad", *roots, home=tmp_path)
    assert bad.returncode == 1 and "0.tar:s3.png" in bad.stdout and "1 image cannot be read" in bad.stderr
    assert "bad: 5 images decode, 1 do not" in bad.stdout


def test_check_names_every_damaged_image_up_to_a_bound(tmp_path: Path, pairs: Path) -> None:
    root = tmp_path / "data/worse"
    members = []
    for i in range(70):
        content = png(i, (32, 32)) if i % 7 == 0 else b"not a picture"
        members += [(f"s{i:02d}.png", content), (f"s{i:02d}.cls", b"0")]
    write_tar(root / "test/0.tar", members)
    for name in ("test/nshards.txt", "classnames.txt", "zeroshot_classification_templates.txt"):
        (root / name).write_text((pairs / "good" / name).read_text())
    done = climp("data", "check", "worse", "--data-root", str(root.parent), home=tmp_path)
    assert done.returncode == 1 and done.stdout.count("cannot be decoded") == 50
    assert "s01.png" in done.stdout and "s57.png" in done.stdout and "... and 10 more" in done.stdout
    assert "worse: 10 images decode, 60 do not" in done.stdout
    assert "60 images cannot be read" in done.stderr and "--skip-corrupt" in done.stderr
    words = ("--skip-corrupt", "--dry-run", "--model", "rope-vit", "--suite", str(root.parent / "one.toml"))
    (root.parent / "one.toml").write_text('schema = 1\nname = "one"\n[[task]]\ndataset = "worse"\n')
    told = climp("zeroshot", *words, "--data-root", str(root.parent), home=tmp_path)
    assert (
        "To encode: 70 images" in told.stdout and "--skip-corrupt: the run decodes every image" in told.stdout
    )


def test_a_damaged_weights_file_is_refused(tmp_path: Path) -> None:
    from climp_bench.models.store import SHIPPED

    store = tmp_path / "weights" / "rope-vit-micro"
    store.mkdir(parents=True)
    for path in (SHIPPED / "rope-vit-micro").iterdir():
        (store / path.name).write_bytes(path.read_bytes())
    manifest = json.loads((SHIPPED / "manifest.json").read_text())["rope-vit-micro"]
    (store / "manifest.json").write_text(json.dumps(manifest))
    weights = store / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    done = climp("zeroshot", "--model", "rope-vit", "--suite", "smoke", home=tmp_path)
    assert done.returncode == 1 and "SHA-256" in done.stderr and "Traceback" not in done.stderr


def test_show_prints_towers_and_card(tmp_path: Path) -> None:
    done = climp("models", "show", "climp-m2", "--card", home=tmp_path)
    assert done.returncode == 0
    for word in ("VMambaConfig", "Mamba2Config", "squash", "1792000", "AdamW"):
        assert word in done.stdout


def test_a_data_root_that_is_no_folder_is_wrong_usage_before_anything_is_read(tmp_path: Path) -> None:
    done = climp("zeroshot", "--data-root", str(tmp_path / "nowhere"), home=tmp_path)
    assert done.returncode == 2 and "no such folder" in done.stderr
    assert not (tmp_path / "reports").exists()


FULL_STDOUT = """
import errno, io, sys

class Full(io.TextIOBase):
    def write(self, text):
        raise OSError(errno.ENOSPC, "No space left on device")

sys.argv = ["climp-bench", "data", "list"]
sys.stdout = Full()
from climp_bench.cli.main import main
main()
"""


def test_a_full_disk_behind_stdout_is_not_called_a_defect(tmp_path: Path) -> None:
    settings = {**os.environ, "CLIMP_BENCH_HOME": str(tmp_path)}
    command = [sys.executable, "-c", FULL_STDOUT]
    done = subprocess.run(command, capture_output=True, text=True, env=settings, timeout=60)
    assert done.returncode == 1 and "the disk is full" in done.stderr and "defect" not in done.stderr


def test_validate_finds_a_template_without_a_class(tmp_path: Path) -> None:
    root = tmp_path / "toy"
    write_tar(root / "test/0.tar", [("a.png", png(0)), ("a.cls", b"0")])
    (root / "test/nshards.txt").write_text("1")
    (root / "classnames.txt").write_text("one\ntwo\n")
    (root / "zeroshot_classification_templates.txt").write_text("a photo\n")
    (tmp_path / "s.toml").write_text('schema = 1\nname = "s"\n[[task]]\ndataset = "toy"\n')
    done = climp("suites", "validate", "s.toml", "--data-root", ".", home=tmp_path)
    assert done.returncode == 1 and "toy: template 1 ('a photo') has no {c}" in done.stderr


@pytest.mark.parametrize(
    ("gpu", "cores", "workers"), [(False, 64, 4), (True, 64, 16), (True, 8, 7), (False, 1, 0)]
)
def test_a_gpu_gets_more_decoding_processes(
    gpu: bool, cores: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert default_workers(None, "auto") == workers
    assert default_workers(2, "auto") == 2
