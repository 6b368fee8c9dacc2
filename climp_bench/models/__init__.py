"""Models: towers, dual encoders, their catalogue and the store of their weights."""
