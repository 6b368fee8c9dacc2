"""`release-check` and `--dry-run`, on a copy in NoCaps' format and a synthetic release checkpoint."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from clip_benchmark.metrics import zeroshot_retrieval
from PIL import Image
from safetensors.torch import save_file
from torchvision import transforms

from climp_bench.cli.main import main
from climp_bench.data.scenes_dataset import ScenesDataset
from climp_bench.models import tokenizer as tokenizers
from climp_bench.models.catalogue import build, find
from climp_bench.report.reference import COLUMNS
from climp_bench.specs import IMAGENET_MEAN, IMAGENET_STD
from tests import data_copies as copies
from tests.cli import test_ranks as ranks

N, KS = 48, [1, 5, 10]
MODEL = "climp-m1@micro"
SET = "nocaps-48"
"""A copy in NoCaps' format under a name of its own: what is called nocaps must have 4,500 images."""
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command line in this process: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLIMP_BENCH_HOME", str(tmp_path / "home"))

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["climp-bench", *words])
        with pytest.raises(SystemExit) as stopped:
            main()
        printed = capsys.readouterr()
        return int(stopped.value.code or 0), printed.out, printed.err

    return call


class Tokens(list[str]):
    def to(self, device: str) -> Tokens:
        return self


class Release:
    """The checkpoint behind the two methods that CLIP_benchmark calls: no other code of ours."""

    def __init__(self, seed: int) -> None:
        self.model = build(find("climp-m1", "micro"), seed=seed).eval()
        self.tokenizer = tokenizers.load("scenes-bpe")

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return self.model.encode_image(images)

    def encode_text(self, texts: list[str]) -> torch.Tensor:
        rows = []
        for text in texts:
            ids = torch.tensor(self.tokenizer.encode([text]))
            with torch.inference_mode():
                rows.append(self.model.encode_text(ids, torch.tensor([ids.shape[1]])))
        return torch.cat(rows)


def measured_independently(release: Release, dataset: ScenesDataset) -> dict[str, float]:
    """The authors' preprocessing (a squash) and CLIP_benchmark's recall, in float32."""
    prepare = transforms.Compose(
        [
            transforms.Resize((64, 64)),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    batches = []
    for start in range(0, N, 16):
        part = range(start, min(start + 16, N))
        pictures = [Image.open(io.BytesIO(copies.lossless(dataset, i))).convert("RGB") for i in part]
        batches.append(
            (torch.stack([prepare(p) for p in pictures]), [list(dataset.captions(i)) for i in part])
        )
    scores = zeroshot_retrieval.evaluate(release, batches, Tokens, "cpu", amp=False, recall_k_list=KS)
    return {name: float(value) for name, value in scores.items()}


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, its tokenizer, a NoCaps copy, a suite, and the table measured beforehand."""
    folder = tmp_path_factory.mktemp("release")
    dataset, made = ScenesDataset("scenes-captions", N), Release(seed=7)
    save_file(made.model.state_dict(), folder / "model.safetensors")
    (folder / "tokenizer.json").write_text(made.tokenizer.to_json())
    copies.write_nocaps(folder / "data" / SET, dataset)
    (folder / "small.toml").write_text(
        'schema = 1\nname = "small"\nprotocol = "climp-authors"\n'
        f'[[task]]\ndataset = "{SET}"\nkind = "retrieval"\nn = {N}\nks = {KS}\n'
    )
    write_table(folder / "table.csv", measured_independently(made, dataset))
    return folder


def write_table(path: Path, scores: dict[str, float], off: float = 0.0) -> None:
    with path.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(COLUMNS)
        for k, (metric, value) in enumerate(scores.items()):
            shifted = value + off if k == 0 else value
            writer.writerow([SET, MODEL, 64, metric, f"{shifted:.9f}", "measured by the test"])


def words(release: Path, table: str = "table.csv") -> tuple[str, ...]:
    return ("release-check", "--model", MODEL, "--weights", str(release / "model.safetensors"),
            "--tokenizer", str(release / "tokenizer.json"), "--data-root", str(release / "data"),
            "--suite", str(release / "small.toml"), "--reference", str(release / table))  # fmt: skip


def test_a_release_that_is_what_it_says_passes(run: Run, release: Path, tmp_path: Path) -> None:
    code, out, err = run(*words(release))
    assert code == 0, out + err
    assert out.count(" yes") >= 6 and "PASSED: 6 of 6 published figures within 0.2 points" in out
    page = (tmp_path / "reports" / "release-check-small.md").read_text()
    assert "climp-authors" in page and "image R@1" in page and "measured by the test" in page
    code, out, _ = run(*words(release), "--json", "--tolerance", "0.000001")
    told = json.loads(out)
    assert code == 0 and told["passed"] and len(told["figures"]) == 6
    values = [f["value"] for f in told["figures"]]
    assert 0.01 < min(values) < max(values) < 1, "scores of an untrained model, yet not all alike"


@pytest.mark.slow  # a launch of torchrun
def test_two_processes_check_a_release_together(run: Run, release: Path, tmp_path: Path) -> None:
    done = ranks.start(2, tmp_path / "home", *words(release), "--json", "--out", str(tmp_path / "together"))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads(run(*words(release), "--json")[1])


def test_a_figure_that_is_off_fails_and_is_named(run: Run, release: Path) -> None:
    with (release / "table.csv").open() as handle:
        scores = {row["metric"]: float(row["value"]) for row in csv.DictReader(handle)}
    write_table(release / "off.csv", scores, off=0.003)
    code, out, _ = run(*words(release, "off.csv"))
    assert code == 1 and "FAILED: 5 of 6" in out and out.count("NO") == 1 and "-0.3" in out
    assert run(*words(release, "off.csv"), "--tolerance", "0.4")[0] == 0


def test_a_metric_that_was_not_measured_fails(run: Run, release: Path) -> None:
    text = (release / "table.csv").read_text()
    (release / "more.csv").write_text(text + f"{SET},{MODEL},64,image_retrieval_recall@3,0.5,x\n")
    code, out, _ = run(*words(release, "more.csv"))
    assert code == 1 and "not measured: climp-m1@micro image_retrieval_recall@3" in out


def test_everything_that_is_missing_is_told_at_once(run: Run) -> None:
    code, out, err = run("release-check", "--offline")
    assert code == 2 and "Traceback" not in err
    for word in ("NoCaps", "data pull nocaps", "CLIMP-Mamba1", "CLIMP-Mamba2", "3 parts are missing"):
        assert word in err
    assert out == ""


def test_a_model_without_published_figures_is_wrong_usage(run: Run, release: Path) -> None:
    code, _, err = run(*(w.replace(MODEL, "climp-m2@micro") if w == MODEL else w for w in words(release)))
    assert code == 2 and ("no published figure of climp-m2@micro" in err or "missing" in err)
    code, _, err = run(*words(release, "none.csv"))
    assert code == 2 and "no table of published figures" in err


def test_a_partial_copy_is_not_checked(run: Run, release: Path, tmp_path: Path) -> None:
    copies.write_nocaps(tmp_path / "part" / SET, ScenesDataset("scenes-captions", 20))
    changed = [str(tmp_path / "part") if w == str(release / "data") else w for w in words(release)]
    code, _, err = run(*changed)
    assert code == 2 and "20 images are there" in err


@pytest.mark.parametrize(
    "command", [("zeroshot",), ("resolution", "--res", "64,96"), ("geometry", SET)], ids=" ".join
)
def test_a_dry_run_lists_jobs_and_writes_nothing(
    run: Run, release: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    suite = () if command[0] == "geometry" else ("--suite", str(release / "small.toml"))
    root = ("--data-root", str(release / "data"))
    code, out, _ = run(*command, *suite, *root, "--model", "rope-vit", "--dry-run")
    assert code == 0 and SET in out and f"{N}" in out and "To fetch: nothing." in out
    assert not (tmp_path / "reports").exists()
    told = json.loads(run(*command, *suite, *root, "--model", "rope-vit", "--dry-run", "--json")[1])
    rounds = 2 if command[0] == "resolution" else 1
    assert told["totals"]["images"] == N * rounds and len(told["jobs"]) == rounds
    assert told["jobs"][0]["data"] == {"place": "here", "n": N, "bytes": 0, "note": ""}


def test_a_dry_run_offline_says_what_is_missing(run: Run) -> None:
    words = ("zeroshot", "--suite", "nocaps", "--model", "rope-vit", "--dry-run")
    code, out, _ = run(*words, "--offline")
    assert code == 1 and "missing" in out and "data pull nocaps" in out
    code, out, _ = run(*words)
    assert code == 0 and "fetch 1.4 GB" in out and "4,500 images" in out


def test_a_short_copy_under_the_published_name_is_refused(run: Run, tmp_path: Path) -> None:
    copies.write_nocaps(tmp_path / "nocaps", ScenesDataset("scenes-captions", 20))
    code, _, err = run("release-check", "--data-root", str(tmp_path), "--offline")
    assert code == 2 and "20 images are there, its source says 4500" in err


def test_show_and_validate_of_published_sets(run: Run) -> None:
    code, out, _ = run("data", "show", "objectnet")
    assert code == 0 and "UNPINNED" in out and "18,574" in out and not Path("objectnet.png").exists()
    code, out, _ = run("suites", "validate", "clip-bench-31")
    assert code == 0 and "31 agree with the catalogue" in out and "--suite embedded" in out


def test_validate_finds_a_suite_that_contradicts_the_catalogue(run: Run, tmp_path: Path) -> None:
    (tmp_path / "off.toml").write_text('schema = 1\nname = "off"\n[[task]]\ndataset = "cars"\nn = 8042\n')
    code, _, err = run("suites", "validate", "off.toml")
    assert code == 1 and "the suite says n = 8042, the catalogue 8041" in err
