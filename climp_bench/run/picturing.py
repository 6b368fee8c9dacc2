"""What an evaluation leaves in the store for reports to show, beside its scores."""

from __future__ import annotations

from collections.abc import Sequence

from climp_bench.data.dataset import Dataset
from climp_bench.embed.sets import EmbeddingSet
from climp_bench.eval.pictures import picture
from climp_bench.eval.scores import Score
from climp_bench.eval.sketch import sketch
from climp_bench.models.adapters import Encoder
from climp_bench.results.pictures import Pictures
from climp_bench.run.plan import Job


def pictures_of(
    job: Job,
    dataset: Dataset,
    embeddings: EmbeddingSet,
    scores: Sequence[Score],
    encoder: Encoder,
    fingerprint: str | None,
    seed: int,
) -> bytes | None:
    """Examples of a task or a sketch of a space, as a file's content; None if there is nothing to show."""
    if job.measure == "geometry":
        found = Pictures(sketch=sketch(embeddings, seed))
    else:
        found = picture(dataset, embeddings, scores, job.suite.protocol)
    if not (found.examples or found.sketch or found.problem):
        return None
    made_of = {"weights_digest": encoder.weights_digest, "fingerprint": fingerprint}
    return found.model_copy(update=made_of).encode()
