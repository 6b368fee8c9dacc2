"""Embeddings: made once per (weights, preprocessing, resolution, dtype, backend, data), then read."""
