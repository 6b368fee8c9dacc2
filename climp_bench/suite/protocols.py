"""Protocols: how a score is made, by name and version, and which quirks of others each repeats or mends.

Every decision that differs between protocols is a field of ``Rules``; every known oddity is a row of
``QUIRKS``, with what happens to it here. ``eval`` applies them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from climp_bench.specs import ImagePreprocess

Protocol = Literal["corrected", "clip_benchmark@48de38c", "climp-authors"]
PROTOCOLS: tuple[str, ...] = get_args(Protocol)
Captions = Literal["all", "first"]


@dataclass(frozen=True)
class Rules:
    """What a protocol decides.

    Attributes:
        about: one sentence.
        shared_names: classes of one name are one class (``merged``) or compete (``separate``).
        absent_classes: average precision of a class without positives: left out (``skip``) or 0 (``zero``).
        half_scores: classification is scored in the encoders' precision where that is below float32.
        first_caption: sets of which only the first caption of an image counts, by the start of their name.
        preprocess: images must reach the model like this, its size aside; None leaves it to the model.
    """

    about: str
    shared_names: Literal["merged", "separate"] = "merged"
    absent_classes: Literal["skip", "zero"] = "skip"
    half_scores: bool = False
    first_caption: tuple[str, ...] = ()
    preprocess: ImagePreprocess | None = None


_RULES: dict[str, Rules] = {
    "corrected": Rules("float32 scores; oddities of the data are mended where that needs no guess"),
    "clip_benchmark@48de38c": Rules(
        "as CLIP_benchmark at that commit, oddities included",
        shared_names="separate",
        absent_classes="zero",
        half_scores=True,
        first_caption=("crossmodal3600/",),
    ),
    "climp-authors": Rules(
        "the CLIMP authors' NoCaps evaluation: squashed images, all captions, float32 scores",
        preprocess=ImagePreprocess((224, 224)),
    ),
}


def rules(protocol: str) -> Rules:
    """The rules of a protocol; the suite's schema lets no other name through."""
    return _RULES[protocol]


def captions_used(protocol: str, dataset: str, asked: Captions | None = None) -> Captions:
    """Which captions of a set count: as the task asks, else as the protocol says."""
    if asked is not None:
        return asked
    return "first" if dataset.startswith(rules(protocol).first_caption) else "all"


@dataclass(frozen=True)
class Quirk:
    """An oddity of a data set or of a tool that shapes scores.

    Attributes:
        name: what it is called here.
        what: the oddity.
        clip_benchmark: what ``clip_benchmark@48de38c`` does about it.
        corrected: what ``corrected`` does about it.
        source: where it is seen.
    """

    name: str
    what: str
    clip_benchmark: str
    corrected: str
    source: str


QUIRKS = (
    Quirk(
        "blank-class",
        "class 3 of vtab/clevr_closest_object_distance has an empty name",
        "kept: its prompts have nothing in place of the class",
        "kept as well: nobody says what the name should be, and leaving the line out would shift the labels",
        "the set's classnames.txt (46 bytes, 6 lines)",
    ),
    Quirk(
        "shared-names",
        "imagenet1k and its kin name two classes 'missile' and two 'sunglasses'",
        "separate: their scores are equal but for rounding, which decides",
        "merged: one class of that name, right for images of either",
        "en_classnames.json of CLIP_benchmark; openai/CLIP issue 465",
    ),
    Quirk(
        "kitti-order",
        "the prompts of vtab/kitti_closest_vehicle_distance are said to be in the wrong order",
        "kept",
        "kept as well: CLIP_benchmark's own labels (nearer than 8 m, 20 m, farther, none) are in that order; "
        "the report compares them with the alphabetical folders of another copy",
        "LAION-AI/CLIP_benchmark issue 21; clip_benchmark/datasets/kitti.py",
    ),
    Quirk(
        "first-caption",
        "Crossmodal-3600 has one to several captions of an image in each language",
        "the first only: 3,600 texts for 3,600 images",
        "all of them; a task that says captions = \"first\" has the first only",
        "clip_benchmark/datasets/crossmodal3600.py",
    ),
    Quirk(
        "half-scores",
        "scores are computed under autocast",
        "classification scores are rounded to --dtype if below float32; retrieval scores are float32",
        "float32 whatever --dtype is",
        "clip_benchmark/metrics/zeroshot_classification.py; its default is amp",
    ),
    Quirk(
        "absent-class",
        "a class without positives has no average precision",
        "counts as 0",
        "left out of the mean",
        "clip_benchmark/metrics/zeroshot_classification.py",
    ),
    Quirk(
        "acc5-of-few",
        "top-5 accuracy of fewer than five classes",
        "skipped with a reason (CLIP_benchmark writes NaN)",
        "skipped with a reason",
        "clip_benchmark/metrics/zeroshot_classification.py",
    ),
)  # fmt: skip
