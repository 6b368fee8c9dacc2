"""Gates: two runs paired sample by sample, and rules that a run must keep. From results only, no torch."""
