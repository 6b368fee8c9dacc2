"""Protocols and their quirks are told, and captions are chosen as they say."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from climp_bench.suite import available, load
from climp_bench.suite.protocols import PROTOCOLS, QUIRKS, Protocol, captions_used, rules

README = Path(__file__).parents[3] / "README.md"


def test_every_protocol_has_rules_and_stands_in_the_readme() -> None:
    text = README.read_text()
    for protocol in get_args(Protocol):
        assert rules(protocol).about and f"`{protocol}`" in text
    assert set(PROTOCOLS) == {"corrected", "clip_benchmark@48de38c", "climp-authors"}


@pytest.mark.parametrize("quirk", QUIRKS, ids=lambda quirk: quirk.name)
def test_every_quirk_is_told_in_the_readme(quirk: object) -> None:
    assert f"`{quirk.name}`" in README.read_text()  # type: ignore[attr-defined]


def test_captions_follow_the_protocol_unless_the_task_asks() -> None:
    theirs = "clip_benchmark@48de38c"
    assert captions_used(theirs, "crossmodal3600/en") == "first"
    assert captions_used(theirs, "nocaps") == captions_used("corrected", "crossmodal3600/en") == "all"
    assert captions_used(theirs, "crossmodal3600/en", "all") == "all"
    assert captions_used("climp-authors", "nocaps", "first") == "first"


def test_real_suites_name_a_twin_on_embedded_data() -> None:
    twins = {name: load(name).twin for name in available()}
    for name in ("clip-bench-31", "vtabplus-31", "imagenet-ood", "highres-retrieval", "dense-captions",
                 "geometry", "nocaps", "crossmodal-3600", "release-check"):  # fmt: skip
        assert twins[name] in twins, name
        assert all(task.dataset.startswith(("scenes-", "sklearn-")) for task in load(twins[name] or "").tasks)


def test_both_readings_of_31() -> None:
    ours, vtab = load("clip-bench-31"), load("vtabplus-31")
    kinds = [task.kind for task in ours.tasks]
    assert len(kinds) == 31 and kinds.count("retrieval") == 3
    assert len(vtab.tasks) == 31 and all(task.kind != "retrieval" for task in vtab.tasks)
    names = {task.dataset for task in ours.tasks}
    assert not {n for n in names if "dsprites" in n or "smallnorb" in n or n.startswith("imagenet-")}
    assert {"objectnet", "voc2007_multilabel", "flickr30k"} <= names
    assert "vtab/dsprites_label_y_position" not in {task.dataset for task in vtab.tasks}


def test_the_release_is_checked_as_its_authors_did() -> None:
    suite = load("release-check")
    assert suite.protocol == "climp-authors" and [t.dataset for t in suite.tasks] == ["nocaps"]
    assert suite.tasks[0].ks == (1, 5, 10) and load("nocaps").tasks[0].ks == (1, 3, 5, 10)
    wanted = rules("climp-authors").preprocess
    assert wanted is not None and (wanted.mode, wanted.interpolation) == ("squash", "bilinear")
