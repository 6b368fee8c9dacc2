"""Results: the one schema, its provenance, its store, and its flat form for tables. No torch."""

from climp_bench.results.flatten import flatten
from climp_bench.results.provenance import collect
from climp_bench.results.schema import (
    SCHEMA_VERSION,
    UNKNOWN_KIND,
    DatasetRef,
    ModelRef,
    Problem,
    Provenance,
    RunRecord,
    record_key,
    slot_key,
)
from climp_bench.results.store import ResultStore

__all__ = [
    "SCHEMA_VERSION",
    "UNKNOWN_KIND",
    "DatasetRef",
    "ModelRef",
    "Problem",
    "Provenance",
    "ResultStore",
    "RunRecord",
    "collect",
    "flatten",
    "record_key",
    "slot_key",
]
