"""Protocols: an EmbeddingSet in, scores with intervals out. No model, no data set."""
