"""Data sets: a catalogue, the sources it opens, transforms and prompts."""
