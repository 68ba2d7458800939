"""Scenes: rasters read as tiles of 8-bit pixels, with a reason for each unobserved pixel."""
