"""Which records of earlier runs stand for an evaluation of this one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from climp_bench import __version__
from climp_bench.models.adapters import Encoder
from climp_bench.results import ResultStore, RunRecord
from climp_bench.results.schema import Scalar
from climp_bench.run.plan import BESIDE_TASKS, Job, Settings


def earlier(
    known: Sequence[RunRecord],
    store: ResultStore,
    job: Job,
    encoder: Encoder,
    settings: Settings,
    fingerprint: str | None,
    facts: Mapping[str, Scalar],
) -> list[RunRecord]:
    """The records of an earlier run of exactly this evaluation by this version; none if it must be made.

    Args:
        known: what the store holds.
        store: where their outcomes are, which must be whole.
        job, encoder, settings: the evaluation.
        fingerprint: of the task.
        facts: side facts that every record of it must have.
    """
    found = [
        record
        for record in known
        if record.suite == job.suite.name
        and record.task == job.task.name
        and (record.kind if record.kind in BESIDE_TASKS else "task") == job.measure
        and record.extra.get("sampled_images") == settings.sample
        and record.protocol == job.suite.protocol
        and record.model.name == encoder.name
        and record.model.weights_digest == encoder.weights_digest
        and record.dataset.fingerprint == fingerprint
        and record.resolution == encoder.preprocess.size
        and record.provenance.dtype == encoder.dtype
        and record.provenance.device == encoder.device
        and record.provenance.backends == encoder.backends
        and record.provenance.seed == settings.seed
        and record.provenance.climp_bench == __version__
    ]
    whole = all(record.status != "failed" and store.is_whole(record) for record in found)
    as_told = all(record.extra.get(name) == fact for record in found for name, fact in facts.items())
    return found if whole and as_told else []
