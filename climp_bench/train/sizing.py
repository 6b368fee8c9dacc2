"""How large the pictures of a step are, and into which patches they are cut.

Both are functions of (seed, step) alone: every process, every part of a batch and both passes over it see the
same, and so does a run that goes on.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from climp_bench.errors import UsageError
from climp_bench.models.configs import FlexiVitConfig, NaFlexVitConfig, RopeVitConfig
from climp_bench.models.spec import ModelSpec
from climp_bench.models.vmamba import VMambaConfig
from climp_bench.specs import ImagePreprocess
from climp_bench.train.recipe import AugmentSection

SIZES = 4  # stream of random numbers, beside those of train.data, train.learner and train.pairs


class Sizing:
    """The sizes of a run.

    Args:
        augment: ``sizes``, ``patch_sizes`` and ``token_budget``; without them steps are as the model says.
        spec: of the model.
        seed: of the run.

    Attributes:
        drawn: preprocessing that scenes are drawn for: the largest of the run, and at least the model's own,
            as they cannot be drawn very small. Steps of other sizes scale them.
        patch_sizes: that each step draws one of; () for a model whose patches have one size.

    Raises:
        UsageError: as ``check_sizes``.
    """

    def __init__(self, augment: AugmentSection, spec: ModelSpec, seed: int) -> None:
        check_sizes(augment, spec)
        self._seed, own = seed, spec.preprocess
        sizes = [(side, side) for side in augment.sizes] or [own.size]
        if augment.token_budget:
            sizes = [(own.multiple, own.multiple * augment.token_budget)]  # only their product matters
        self._choices = [replace(own, size=size) for size in sizes]
        self.drawn = max([own, *self._choices], key=lambda choice: choice.size[0] * choice.size[1])
        self.patch_sizes = _patch_sizes(augment, spec.image)

    def at(self, step: int) -> ImagePreprocess:
        """How pictures become the input of ``step``, counted from 0."""
        random = np.random.default_rng([self._seed, SIZES, step])
        return self._choices[int(random.integers(len(self._choices)))]


def check_sizes(augment: AugmentSection, spec: ModelSpec) -> None:
    """See whether a model can be trained at the sizes of a recipe.

    Raises:
        UsageError: its tower does not take one of them, has patches of one size, or does not pack.
    """
    image = spec.image
    if augment.patch_sizes and not isinstance(image, FlexiVitConfig):
        raise UsageError(
            "its patches have one size", where=f"{spec.name}, augment.patch_sizes",
            remedy="Leave augment.patch_sizes empty, or train a flexivit.",
        )  # fmt: skip
    if augment.token_budget and not isinstance(image, NaFlexVitConfig):
        raise UsageError(
            "its images all have one shape", where=f"{spec.name}, augment.token_budget",
            remedy="Leave augment.token_budget at 0, or train a naflexvit; augment.sizes is for every model.",
        )  # fmt: skip
    if not augment.sizes and not augment.patch_sizes:
        return
    sides = augment.sizes or spec.preprocess.size
    for step in _patch_sizes(augment, image) or (_stride(spec),):
        odd = [str(side) for side in dict.fromkeys(sides) if side % step]
        if odd:
            flexible = isinstance(image, FlexiVitConfig)
            raise UsageError(
                f"{', '.join(odd)} pixels are no multiple of {step}, "
                f"{'a size of its patches' if flexible else 'the stride of its image tower'}",
                where=f"{spec.name}, augment.{'patch_sizes' if augment.patch_sizes else 'sizes'}",
                remedy=f"Choose multiples of {step} for augment.sizes"
                + (", or other augment.patch_sizes." if flexible else "."),
            )


def _patch_sizes(augment: AugmentSection, image: Any) -> tuple[int, ...]:
    own = image.patch_sizes if isinstance(image, FlexiVitConfig) else ()
    return augment.patch_sizes or own


def _stride(spec: ModelSpec) -> int:
    """Pixels of a picture's side for one place of the tower's last map."""
    image = spec.image
    if isinstance(image, VMambaConfig):
        halvings = 2 + len(image.depths) - 1  # of the stem, and between stages
        return 1 << halvings
    if isinstance(image, RopeVitConfig | NaFlexVitConfig):
        return image.patch_size
    raise UsageError(
        f"nothing says which sizes a {type(image).__name__} takes", where=f"{spec.name}, augment.sizes",
        remedy="Leave augment.sizes empty.",
    )  # fmt: skip
