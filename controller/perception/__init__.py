"""Frames to meaning: regions, positions, tilts, focus.  Pure over arrays and values."""
