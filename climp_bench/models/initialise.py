"""Starting training from pretrained towers."""

from __future__ import annotations

from pathlib import Path

from climp_bench.models.convert import to_tower
from climp_bench.models.dual_encoder import DualEncoder
from climp_bench.models.foreign import digest, read_tensors
from climp_bench.models.spec import ModelSpec
from climp_bench.models.store import refuse_non_finite


def initialise(
    model: DualEncoder, spec: ModelSpec, image: Path | None = None, text: Path | None = None
) -> dict[str, str]:
    """Copy pretrained towers into ``model``, which keeps its device and dtype.

    Both checkpoints are read and checked before anything is changed.

    Args:
        model: a model built from ``spec``.
        spec: what it was built from.
        image: checkpoint of the image tower alone, any that ``convert.to_tower`` understands; None leaves it.
        text: that of the text tower.

    Returns:
        The checkpoints' digests under ``image`` and ``text``, for those that were given.

    Raises:
        WeightsError: a checkpoint is damaged, of another tower, or holds NaN or infinite values.
    """
    plan = (
        ("image", image, spec.image, model.vision_encoder),
        ("text", text, spec.text, model.text_encoder),
    )
    read = []
    for name, path, config, tower in plan:
        if path is not None:
            state = to_tower(read_tensors(path), config, str(path))
            refuse_non_finite(state, str(path))
            read.append((name, path, tower, state))
    for _, _, tower, state in read:
        tower.load_state_dict(state)
    return {name: digest(path) for name, path, _, _ in read}
