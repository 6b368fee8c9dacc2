"""Metrics: pure functions from numpy arrays to numbers. No torch, no files, no global state.

Shape suffixes: N samples (images), M texts, D embedding width, C classes, T prompts. Every function
states its domain and raises :class:`~climp_bench.errors.MetricError` outside it; a missing score
is never zero or NaN.
"""
