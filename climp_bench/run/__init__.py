"""Runs: names become jobs (plan), jobs become records (execute). Failures stay where they happen."""
