"""Suites: TOML files that list what to measure. Data only, strictly checked, no torch."""

from climp_bench.suite.loader import available, load, load_all, of_dataset
from climp_bench.suite.schema import Suite, TaskDef

__all__ = ["Suite", "TaskDef", "available", "load", "load_all", "of_dataset"]
