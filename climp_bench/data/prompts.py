"""Prompts for zero-shot classification: every class in every template."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from climp_bench.errors import DataError


def render(classes: Sequence[str], templates: Sequence[str]) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Every class name in every template (Radford et al. 2021, prompt ensembling).

    Returns:
        The prompts, class by class, and the class index of each, shape (T,).

    Raises:
        DataError: no classes or no templates, or a template without ``{c}``.
    """
    if not classes or not templates:
        raise DataError(
            "zero-shot classification needs class names and at least one template",
            remedy="Give `templates` in the suite, or classnames.txt and "
            "zeroshot_classification_templates.txt beside the shards.",
        )
    for k, template in enumerate(templates):
        if "{c}" not in template:
            raise DataError(
                f"template {k + 1} ({template[:60]!r}) has no {{c}} for the class name",
                remedy="Without it every class gets the same prompt: correct the templates.",
            )
    prompts = [template.replace("{c}", name) for name in classes for template in templates]
    return prompts, np.repeat(np.arange(len(classes)), len(templates))
