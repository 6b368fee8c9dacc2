"""What a shift of the distribution does: accuracy lost, and unknown classes told from known ones."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from climp_bench.embed.sets import EmbeddingSet, merge_shared_names
from climp_bench.errors import DataError
from climp_bench.eval.scores import Score
from climp_bench.metrics import ood
from climp_bench.metrics.classification import prompt_weights
from climp_bench.metrics.uncertainty import combine

ACCURACIES = ("acc1", "acc5")
CONFIDENCES = ("msp", "max_logit")
DROPS = tuple(f"{name}_drop" for name in ACCURACIES)
DETECTION = tuple(f"ood_{measure}_{name}" for name in CONFIDENCES for measure in ood.MEASURES)
"""Maximum softmax probability at the model's own logit scale, and maximum logit, under each measure."""

Confidence = npt.NDArray[Any]
Extra = Mapping[str, float | int | str | None]


def restrict(embeddings: EmbeddingSet, names: Collection[str]) -> EmbeddingSet:
    """The images and prompts of the classes called ``names``; classes are numbered anew, their order kept.

    Raises:
        DataError: no image is left.
    """
    notes = embeddings.notes
    if notes.labels is None:
        raise DataError("its images have no class labels", remedy="Name a classification task as reference.")
    kept = [k for k, name in enumerate(notes.classes) if name in names]
    place = np.full(len(notes.classes), -1, np.int64)
    place[kept] = np.arange(len(kept))
    images, texts = place[notes.labels] >= 0, place[notes.owner] >= 0
    if not images.any():
        raise DataError("the reference has no image of the classes that both sets name")
    return EmbeddingSet(
        embeddings.images[images],
        embeddings.texts[texts],
        replace(
            notes,
            classes=tuple(notes.classes[k] for k in kept),
            texts=tuple(text for text, keep in zip(notes.texts, texts, strict=True) if keep),
            owner=place[notes.owner[texts]],
            labels=place[notes.labels[images]],
            groups=None,
        ),
    )


def drops(
    own: Sequence[Score],
    classes: Sequence[str],
    reference: EmbeddingSet,
    classify: Callable[[EmbeddingSet], Sequence[Score]],
) -> list[Score]:
    """How far top-1 and top-5 accuracy fall from the reference to a shifted set, in [-1, 1].

    Measured on the classes of the shifted set alone, so that 200 classes are compared with the same 200. The
    two sets are independent: the interval is Newcombe's, from the Wilson intervals of both.

    Args:
        own: scores of the shifted set.
        classes: its class names, each also a class of the reference.
        reference: the in-distribution set.
        classify: scores a set by the suite's protocol.

    Raises:
        DataError: a class of the shifted set is none of the reference, or it is no set of classes.
    """
    if not classes or "acc1" not in {score.metric for score in own}:
        raise DataError("accuracy needs a classification task", remedy="Take shifted_from out of the suite.")
    strange = [name for name in classes if name not in reference.notes.classes]
    if strange:
        what = f"{len(strange)} of its classes are none of the reference, the first is {strange[0]!r}"
        raise DataError(what, remedy="Take shifted_from out of the suite.")
    same = set(classes) == set(reference.notes.classes)
    base = reference if same else restrict(reference, set(classes))
    expected = {score.metric: score for score in classify(base)}
    found = {score.metric: score for score in own}
    result = []
    for metric in ACCURACIES:
        mine, theirs = found[metric], expected[metric]
        extra = {"reference_value": theirs.value, "reference_n": theirs.n, "classes": len(base.notes.classes)}
        interval = value = None
        if mine.value is not None and theirs.value is not None:
            value = theirs.value - mine.value
            if mine.interval is not None and theirs.interval is not None:
                interval = combine([1, -1], [theirs.value, mine.value], [theirs.interval, mine.interval])
        result.append(Score(f"{metric}_drop", value, interval, mine.n, reason=mine.reason, extra=extra))
    return result


def detect(
    unknown: EmbeddingSet, reference: EmbeddingSet, logit_scale: float | None, *, shared: bool, seed: int = 0
) -> list[Score]:
    """How well zero-shot confidence tells the reference's images from images of none of its classes.

    The classifier is the reference's, of its classes alone: nothing is told of what else there may be (Ming
    et al. 2022). Intervals are a bootstrap that resamples both sets, each by itself.

    Args:
        unknown: images that show no class of the reference.
        reference: the in-distribution set, with its prompts.
        logit_scale: the model's factor on cosines; None leaves the softmax confidence undefined.
        shared: only the classes take part that both sets name, and the reference's images of them.
        seed: of the bootstrap.

    Raises:
        DataError: ``shared``, and no class is.
    """
    known = restrict(reference, set(unknown.notes.classes)) if shared else reference
    notes = merge_shared_names(known.notes)
    weights = prompt_weights(known.texts, notes.owner, len(notes.classes))
    inside, outside = known.images @ weights, unknown.images @ weights
    n = len(inside) + len(outside)
    extra: dict[str, Any] = {"in": len(inside), "out": len(outside), "classes": len(notes.classes)}
    if logit_scale is None:
        why = "the model states no logit scale for a softmax"
        scores = [Score(f"ood_{measure}_msp", None, None, n, reason=why) for measure in ood.MEASURES]
    else:
        in_N, out_M = (ood.log_max_softmax(side, logit_scale) for side in (inside, outside))
        scores = _detection("msp", in_N, out_M, {**extra, "logit_scale": logit_scale}, seed)
    return scores + _detection("max_logit", ood.max_logit(inside), ood.max_logit(outside), extra, seed)


def _detection(name: str, in_N: Confidence, out_M: Confidence, extra: Extra, seed: int) -> list[Score]:
    found = ood.detection(in_N, out_M)
    intervals = ood.detection_intervals(in_N, out_M, seed=seed)
    extra = {**extra, "tied_pairs": ood.tied_pairs(in_N, out_M)}
    n = len(in_N) + len(out_M)
    return [
        Score(f"ood_{measure}_{name}", getattr(found, measure), intervals[measure], n, extra=extra)
        for measure in ood.MEASURES
    ]
