"""climp-bench: evaluate CLIP-style models whose encoders are state-space models."""

__version__ = "0.1.0"
