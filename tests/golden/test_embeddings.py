"""The shipped weights give the same embeddings everywhere; towers and preprocessing do not drift.

A change on purpose renews the file with ``python -m tests.golden.renew``.
"""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.golden.embeddings import DIMS, FAMILIES, GOLDEN, IMAGES, TEXTS, compute

TOLERANCE = 2e-3
STORED = json.loads(GOLDEN.read_text(encoding="utf-8"))


@pytest.mark.parametrize("family", FAMILIES)
def test_embeddings_match_the_stored_ones(family: str) -> None:
    found, stored = compute(family), STORED[family]
    assert found["weights"] == stored["weights"], "new weights: python -m tests.golden.renew"
    for side in ("images", "texts"):
        np.testing.assert_allclose(found[side], stored[side], rtol=0, atol=TOLERANCE)


def test_the_stored_embeddings_are_complete_and_tell_inputs_and_models_apart() -> None:
    assert tuple(STORED) == FAMILIES
    for side, inputs in (("images", IMAGES), ("texts", TEXTS)):
        rows = np.array([row for family in FAMILIES for row in STORED[family][side]])
        assert rows.shape == (len(FAMILIES) * len(inputs), DIMS)
        gaps = np.abs(rows[:, None] - rows[None]).max(axis=-1)[np.triu_indices(len(rows), 1)]
        assert gaps.min() > 10 * TOLERANCE
